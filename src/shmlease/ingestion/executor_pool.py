"""The user's own workers: any `concurrent.futures.Executor` whose workers run on this machine."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from shmlease.client.registry import connect
from shmlease.errors import LeaseError
from shmlease.ingestion.pool_protocol import Work
from shmlease.ingestion.tasks import Result, Task
from shmlease.ingestion.worker import Worker

__all__ = ["ExecutorWorkerPool"]


class _Own(threading.local):
    """The worker that a thread of an executor is, for one registry at a time."""

    registry_id = ""
    worker: Worker | None = None


_own = _Own()


def _run(registry_id: str, task: Task) -> Result:
    if _own.worker is None or _own.registry_id != registry_id:
        _own.worker, _own.registry_id = Worker(connect(registry_id, on_lingering="ignore")), registry_id
    return _own.worker.run(task)


class ExecutorWorkerPool:
    """Has work done by `executor`, of which `count` pieces are kept busy at once. The executor stays its owner's."""

    def __init__(self, executor: Executor, count: int, registry_id: str) -> None:
        self._executor = executor
        self._registry_id = registry_id
        self._most = 2 * count
        self._pending: set[Future[Result]] = set()
        self._done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.replaced = 0

    @property
    def wants_work(self) -> bool:
        """Whether more work would keep it busier."""
        return len(self._pending) < self._most

    def submit(self, work: Work, *, first: bool = False) -> None:  # noqa: ARG002 - an executor has an order of its own
        """Have `work` done.

        Raises
        ------
        LeaseError
            The executor takes no work.
        """
        try:
            future = self._executor.submit(_run, self._registry_id, work.task())
        except RuntimeError as error:
            raise LeaseError(f"{work}: the executor takes no more work: {error}") from error
        self._pending.add(future)
        future.add_done_callback(lambda future: self._done.put((work, future)))

    def deliver(self, work: Any, outcome: Any) -> None:
        """Have `wait` give this as done; from any thread."""
        self._done.put((work, outcome))

    def wait(self, timeout_s: float) -> list[tuple[Any, Any]]:
        """What was done since: the work, and its result or exception.

        Raises
        ------
        LeaseError
            The executor has broken.
        """
        done: list[tuple[Any, Any]] = []
        try:
            while True:
                work, outcome = self._done.get(timeout=0 if done else timeout_s)
                if isinstance(outcome, Future):
                    self._pending.discard(outcome)
                    outcome = outcome.exception() or outcome.result()
                    if isinstance(outcome, BrokenExecutor):
                        raise LeaseError(f"{work}: the executor has broken: {outcome}") from outcome
                done.append((work, outcome))
        except queue.Empty:
            return done

    def finish(self) -> None:
        """The executor's workers go on."""

    def close(self, *, orderly: bool = True) -> None:  # noqa: ARG002 - what runs is waited for in any case
        """Wait for what runs, so that nothing is leased afterwards; drop what does not."""
        for future in list(self._pending):
            future.cancel()
        for future in list(self._pending):
            if not future.cancelled():
                future.exception()
        self._pending.clear()
