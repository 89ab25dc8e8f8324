"""The interface between the coordinator and what does the work, and what is known about a piece of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from shmlease.errors import LeaseError, TicketError

if TYPE_CHECKING:
    from shmlease.ingestion.tasks import Task

__all__ = ["Session", "Work", "WorkerLostError", "WorkerPool", "retry"]

# A task that kills each worker that takes it (a crash in a library, memory) is given up.
_ATTEMPTS: Final = 3


class WorkerLostError(LeaseError):
    """The worker died while it did the work."""


class Session:
    """Tasks that go to one worker, which keeps something from one to the next. A worker has one session at a time.

    Attributes
    ----------
    worker : object
        Who does them, once one has begun; another, which has kept nothing, when it has died.
    is_over : bool
        No more will come.
    """

    def __init__(self) -> None:
        self.worker: object = None
        self.is_over = False


class Work(Protocol):
    """A task in the coordinator's hands. It is made into a new task for each attempt, since tickets are used up."""

    attempts: int

    @property
    def weight(self) -> int:
        """How much of a task it is: `TASK_BYTES`, or less where others can go to a worker with it."""
        ...

    @property
    def session(self) -> Session | None:
        """What it belongs to; None if any worker can do it."""
        ...

    def task(self) -> Task:
        """What to send to a worker."""
        ...

    def lost(self) -> None:
        """The worker has died: take back what the task was given."""
        ...

    def __str__(self) -> str:
        """What it is about, for messages."""
        ...


def retry(pool: WorkerPool, work: Work, why: WorkerLostError | TicketError) -> None:
    """Have `work` done again: its worker died, or its tickets expired while this process or its worker was stopped.

    Raises
    ------
    LeaseError
        That happened to it several times.
    """
    work.lost()
    work.attempts += 1
    if work.attempts == _ATTEMPTS:
        raise LeaseError(f"{work}: given up after {work.attempts} attempts: {why}") from why
    pool.submit(work, first=True)


class WorkerPool(Protocol):
    """What does the work: worker processes, an executor, or the calling thread."""

    @property
    def wants_work(self) -> bool:
        """Whether more work would keep it busier."""
        ...

    @property
    def replaced(self) -> int:
        """Workers that died and were replaced."""
        ...

    def submit(self, work: Work, *, first: bool = False) -> None:
        """Have `work` done; with `first`, before what waits."""
        ...

    def deliver(self, work: Any, outcome: Any) -> None:
        """Have `wait` give this as done; from any thread."""
        ...

    def wait(self, timeout_s: float) -> list[tuple[Any, Any]]:
        """What was done since: the work, and its result or exception."""
        ...

    def finish(self) -> None:
        """Let the workers end beside what the caller goes on to do: all is done."""
        ...

    def close(self, *, orderly: bool = True) -> None:
        """End the workers; if not `orderly`, without waiting for what they do."""
        ...
