"""Worker processes, and processes to be killed, forked from a small process that has one thread and nothing else.

Forking a test runner, or a program with threads, copies what must not be copied; starting an interpreter for each process
takes a fifth of a second. The fork server is started once, imports what its children need, and forks on request. It reaps
its children only when asked, so that their pids mean nothing else until then. Each is held by a pidfd, so none is ever
mistaken for another.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from shmlease.system.interpreter import find_interpreter, import_path

__all__ = ["Child", "ForkServer", "Process"]

# What is imported lives as long as the process: collecting garbage meanwhile would find none.
_BOOT: Final = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[3:]; "
    "from shmlease.system.forkserver import serve; serve(int(sys.argv[1]), sys.argv[2])"
)
_PACKET_BYTES: Final = 65536


class Process:
    """A live process that can be signalled without fear of hitting another one.

    Parameters
    ----------
    pid : int
        A process that is alive, or not reaped yet, while this is made.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def wait_end(self, within_s: float) -> bool:
        """Wait until the process has ended; False if it has not."""
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self.wait_end(0.0)

    def kill(self, within_s: float = 30.0) -> None:
        """SIGKILL, and wait until it is dead."""
        self.signal(signal.SIGKILL)
        if not self.wait_end(within_s):
            raise TimeoutError(f"process {self.pid} was killed and has not ended for {within_s:g} s")

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        Process.close(self)


class Child(Process):
    """A process that a fork server forked, to be reaped when it has ended."""

    def __init__(self, pid: int, forkserver: ForkServer) -> None:
        super().__init__(pid)
        self._forkserver = forkserver

    def reap(self) -> int:
        """Wait for its end: its exit code, or minus the signal that killed it, as `subprocess.Popen.returncode`.

        Raises
        ------
        ChildProcessError
            The fork server has ended, so that nobody can ask.
        """
        self._forkserver._children.discard(self)
        code: int = self._forkserver._ask({"reap": self.pid})
        super().close()
        return code

    def close(self) -> None:
        """Kill it, and reap it; the system does if the fork server has ended."""
        if self in self._forkserver._children:
            self.kill()
            with contextlib.suppress(ChildProcessError):
                self.reap()
            super().close()


class ForkServer:
    """A process that forks others on request; a context manager that kills them and itself at its end.

    It is up once it has imported what it needs; until then the first `fork` waits.

    Parameters
    ----------
    preload : sequence of str
        Modules that it imports first.
    detached : bool
        It and its children are a session of their own, so that Ctrl-C is for its user only; they have no standard output,
        and take nothing from Python's environment variables.
    """

    def __init__(self, preload: Sequence[str] = (), *, detached: bool = False) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flags = ["-I", "-S"] if detached else ["-P"]
        with theirs:
            self._process = subprocess.Popen(
                [find_interpreter(), *flags, "-c", _BOOT, str(theirs.fileno()), ",".join(preload), *import_path()],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if detached else None,
                start_new_session=detached,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # or numpy starts threads
            )
        self._own = Process(self._process.pid)
        self._children: set[Child] = set()

    @property
    def pid(self) -> int:
        """Of the fork server."""
        return self._own.pid

    def fork(self, target: str, *arguments: str | int | float, descriptor: int | None = None) -> Child:
        """A new process that calls ``module:function`` with `arguments`, and ends when that returns.

        A `descriptor` is handed over: the number that it has there is the last argument.

        Raises
        ------
        ChildProcessError
            The fork server has ended, or could not import what it was to import.
        """
        pid = self._ask({"fork": target, "arguments": arguments}, [] if descriptor is None else [descriptor])
        child = Child(pid, self)
        self._children.add(child)
        return child

    def leave(self) -> None:
        """End it, and give back its memory; its children go on. No more can be forked."""
        self._socket.close()

    def close(self) -> None:
        """Kill every child that is left, and the fork server, which may still be importing."""
        for child in list(self._children):
            child.close()
        self._socket.close()
        self._own.kill()
        self._process.wait()
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        answer = b""
        with contextlib.suppress(OSError):  # it has ended, or has left
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(_PACKET_BYTES)
        if not answer:
            raise ChildProcessError(
                f"the fork server has ended with code {self._process.wait()}; what it said is on stderr"
            )
        return json.loads(answer)


def serve(descriptor: int, preload: str) -> None:
    """Run as the fork server: answer requests until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started this may ignore it, and no exit code could be asked for
    with socket.socket(fileno=descriptor) as requests:
        for module in filter(None, preload.split(",")):
            importlib.import_module(module)
        gc.freeze()  # a collection would write to every page that is shared with the children
        gc.enable()
        child: tuple[str, list[Any]] | None = None
        while True:
            packet, descriptors, _, _ = socket.recv_fds(requests, _PACKET_BYTES, 1)
            if not packet:
                break
            request = json.loads(packet)
            if "fork" in request:
                answer = os.fork()
                if answer == 0:
                    child = request["fork"], [*request["arguments"], *descriptors]
                    break
            else:
                answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
            for received in descriptors:
                os.close(received)
            requests.send(json.dumps(answer).encode())
    if child is not None:  # from here on an ordinary process, whose end runs what atexit has
        module, _, function = child[0].partition(":")
        getattr(importlib.import_module(module), function)(*child[1])
