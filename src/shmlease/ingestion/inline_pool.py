"""No worker processes: the thread that runs the ingest does the work itself, one task at a time."""

from __future__ import annotations

import queue
from collections import deque
from typing import Any

from shmlease.errors import LeaseError
from shmlease.ingestion.pool_protocol import Session, Work
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.worker import Worker

__all__ = ["InlineWorkerPool"]


class InlineWorkerPool:
    """Does its work in `wait`. It keeps one processor busy, besides the threads that decompress."""

    def __init__(self, registry: Memory) -> None:
        self._worker = Worker(registry)
        self._waiting: deque[Work] = deque()
        self._delivered: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._session: Session | None = None
        self.replaced = 0

    @property
    def wants_work(self) -> bool:
        """Whether nothing waits to be done."""
        return not self._waiting

    def submit(self, work: Work, *, first: bool = False) -> None:
        """Have `work` done; with `first`, before what waits."""
        (self._waiting.appendleft if first else self._waiting.append)(work)

    def deliver(self, work: Any, outcome: Any) -> None:
        """Have `wait` give this as done; from any thread."""
        self._delivered.put((work, outcome))

    def wait(self, timeout_s: float) -> list[tuple[Any, Any]]:
        """The next work, done now, and what was delivered: each with its result or exception."""
        done: list[tuple[Any, Any]] = []
        work = self._next()
        if work is not None:
            done.append((work, self._outcome(work)))
        try:
            while True:
                done.append(self._delivered.get(timeout=0 if done else timeout_s))
        except queue.Empty:
            return done

    def finish(self) -> None:
        """Nothing runs."""

    def close(self, *, orderly: bool = True) -> None:  # noqa: ARG002 - nothing runs
        """Drop what waits."""
        self._waiting.clear()

    def _next(self) -> Work | None:
        """The first work that can be done: a worker has one session at a time."""
        for place, work in enumerate(self._waiting):
            session = work.session
            if session is not None and session is not self._session:
                if self._session is not None and not self._session.is_over:
                    continue
                session.worker = self
                self._session = session
            del self._waiting[place]
            return work
        return None

    def _outcome(self, work: Work) -> object:
        try:
            return self._worker.run(work.task())
        except LeaseError as error:
            return error.with_traceback(None)
