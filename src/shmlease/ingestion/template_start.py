"""Starting a template, the process that workers are forked from (`shmlease.ingestion.template`).

Importing numpy and the rest takes it a tenth of a second. Nothing heavy is imported here, so that a program that knows it will
ingest can have a template begin (`begin`) before it imports the same itself, and both go on side by side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from typing import Final

from shmlease.system.interpreter import find_interpreter, import_path

__all__ = ["LEAVE", "Template", "begin", "drop", "take"]

LEAVE: Final = b"leave"
# The interpreter that the caller runs, with exactly its import path and nothing of its environment, as the registry is.
# What is imported lives as long as the process: collecting garbage meanwhile would find none.
_BOOT: Final = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[2:]; "
    "from shmlease.ingestion.template import main; main(sys.argv[1])"
)


@dataclass(eq=False, slots=True)
class Template:
    """A template and its workers, which are one session; it forks one for each descriptor sent through `control`.

    Asked to leave, it ends; its workers go on, and its number stays theirs until `end`.
    """

    process: subprocess.Popen[bytes]
    control: socket.socket

    @classmethod
    def start(cls) -> Template:
        """Start one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, open(os.devnull, "rb") as null:
            process = subprocess.Popen(
                [find_interpreter(), "-I", "-S", "-c", _BOOT, str(theirs.fileno()), *import_path()],
                stdin=null,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the coordinator, which ends its workers in order
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return cls(process, ours)

    def leave(self) -> None:
        """Have it end once it has forked all workers that were asked for: its memory is of no more use.

        Where SIGCHLD is ignored it stays: the system would reap it at once, and the number of the session be another's some day.
        """
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            return
        with contextlib.suppress(OSError):  # it was killed
            self.control.sendall(LEAVE)

    def end(self) -> None:
        """End it and whichever of its workers are left."""
        self.control.close()
        with contextlib.suppress(ChildProcessError, ProcessLookupError):  # reaped by somebody who waits for every child
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.killpg(self.process.pid, signal.SIGKILL)  # not reaped yet: the number is still its own
        self.process.wait()


_begun: list[tuple[int, Template]] = []


def begin() -> None:
    """Start a template for the next to `take` one."""
    if not _begun:
        _begun.append((os.getpid(), Template.start()))


def take() -> Template:
    """The template that was begun, or a new one."""
    while _begun:
        pid, template = _begun.pop()
        if pid == os.getpid():
            return template
    return Template.start()


def drop() -> None:
    """End a template that was begun and that nobody took."""
    while _begun:
        pid, template = _begun.pop()
        if pid == os.getpid():
            template.end()
