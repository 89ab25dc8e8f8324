"""The worker processes of the state machine as their commander has them: started, asked, killed."""

from __future__ import annotations

import atexit
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Listener
from typing import Any, Final

from shmlease.system.forkserver import ForkServer, Process
from shmlease.testing import worker as actions
from shmlease.testing.worker import Answer

__all__ = ["ANSWER_WITHIN_S", "WorkerPool", "WorkerProcess", "close_forkservers"]

# How long an answer may take: a takeover on a loaded machine takes a second, a client gives up after ten.
ANSWER_WITHIN_S: Final = 30.0
_forkservers: Final[dict[tuple[str, ...], ForkServer]] = {}


@dataclasses.dataclass(eq=False)
class WorkerProcess:
    """One worker."""

    tag: int
    process: Process
    connection: Connection[Any, Any]
    is_stopped: bool = False

    def __repr__(self) -> str:
        return f"worker {self.tag} (pid {self.process.pid})"

    def call(self, function: Callable[..., Any], *arguments: Any, warns: Sequence[str] = ()) -> Any:
        """Have it call ``function(Worker, *arguments)``: its value, or its error raised here.

        The call gives the warnings whose categories `warns` names, and no others.
        """
        self.send(function, *arguments)
        return self.value(warns)

    def is_refused(
        self, errors: type[Exception] | tuple[type[Exception], ...], function: Callable[..., Any], *arguments: Any
    ) -> None:
        """Have it call the function, and see it raise one of `errors`."""
        self.send(function, *arguments)
        raised = self.answer().error
        assert isinstance(raised, errors), f"{self} got {raised!r} from {function.__name__}, not {errors}"

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have it call the function; what becomes of it is asked for later."""
        self.connection.send((function, arguments))

    def value(self, warns: Sequence[str] = ()) -> Any:
        """What the call returned that was sent."""
        answer = self.answer()
        if answer.error is not None:
            raise answer.error
        assert answer.warnings == list(warns), f"{self} warned {answer.warnings}, expected were {list(warns)}"
        return answer.value

    def answer(self) -> Answer:
        """What became of the call that was sent."""
        assert self.connection.poll(ANSWER_WITHIN_S), f"{self} has not answered for {ANSWER_WITHIN_S:g} s"
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise AssertionError(f"{self} died of the call that it was sent") from None
        return answer

    def end(self) -> None:
        """Have it end with all that it holds."""
        self.connection.send(None)
        assert self.process.wait_end(ANSWER_WITHIN_S), f"{self} does not end"

    def close(self) -> None:
        """Let go of one that has ended."""
        self.connection.close()
        self.process.close()


class WorkerPool:
    """Starts workers of one registry.

    Parameters
    ----------
    registry : str
        Its id.
    preload : tuple of str
        Modules that they import before they begin.
    """

    def __init__(self, registry: str, preload: tuple[str, ...]) -> None:
        self._registry = registry
        self._preload = preload
        self._tags = 0
        self._directory = tempfile.TemporaryDirectory(prefix="shmlease-machine-")
        self._listener = Listener(f"{self._directory.name}/commander", "AF_UNIX", backlog=16)

    def start(self) -> WorkerProcess:
        """One more process."""
        forkserver = _forkservers.get(self._preload)
        if forkserver is None:
            forkserver = _forkservers[self._preload] = ForkServer(["shmlease.testing.worker", *self._preload])
        self._tags += 1
        child = forkserver.fork("shmlease.testing.worker:run", str(self._listener.address), self._tags, self._registry)
        return self._welcome(child)

    def fork(self, parent: WorkerProcess) -> WorkerProcess:
        """A process that `parent` forks."""
        self._tags += 1
        pid = parent.call(actions.fork, str(self._listener.address), self._tags)
        return self._welcome(Process(pid))

    def close(self) -> None:
        """No more workers."""
        self._listener.close()
        self._directory.cleanup()

    def _welcome(self, process: Process) -> WorkerProcess:
        connection = self._listener.accept()
        assert connection.recv()[0] == self._tags
        return WorkerProcess(self._tags, process, connection)


def close_forkservers() -> None:
    """End the processes that fork the workers."""
    while _forkservers:
        _forkservers.popitem()[1].close()


atexit.register(close_forkservers)
