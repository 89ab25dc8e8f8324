"""Worker processes of our own, for a run: given tasks, replaced when they die, their tasks done again by others.

`concurrent.futures.ProcessPoolExecutor` breaks as a whole when one worker is killed, and starts each worker anew with all
its imports. Here a fork server imports once and forks the workers, so that the second costs a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections import deque
from typing import Any, Final

from shmlease.ingestion.pool_protocol import Session, Work, WorkerLostError
from shmlease.ingestion.tasks import TASK_BYTES, TASKS_A_WORKER
from shmlease.ingestion.worker_channel import WorkerChannel
from shmlease.ingestion.worker_forkserver import take
from shmlease.system.forkserver import Child

__all__ = ["ProcessWorkerPool"]

_LEAVE_WITHIN_S: Final = 5.0


class _Process:
    """One worker as the coordinator sees it."""

    def __init__(self, child: Child, connection: socket.socket) -> None:
        self.child = child
        self.channel = WorkerChannel(connection)
        self.pending: deque[Work] = deque()
        self.weight = 0  # of what is pending
        self.session: Session | None = None

    def give(self, works: list[Work]) -> None:
        """Send it these, as one message."""
        self.pending.extend(works)
        self.weight += sum(work.weight for work in works)
        self.channel.put([work.task() for work in works])
        self.channel.flush()

    def take(self) -> tuple[Work, Any] | None:
        """The next work that it has done, with its outcome; None if there is none."""
        outcome = self.channel.take()
        if outcome is None:
            return None
        work = self.pending.popleft()
        self.weight -= work.weight
        return work, outcome

    @property
    def has_session(self) -> bool:
        """Whether it keeps something for tasks to come."""
        return self.session is not None and not self.session.is_over


class ProcessWorkerPool:
    """Worker processes of our own. Made, it has begun to import what they need; `start` starts them."""

    def __init__(self) -> None:
        self._registry_id = ""
        self._waiting: deque[Work] = deque()
        self._weight = 0  # of what waits
        self._delivered: deque[tuple[Any, Any]] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._lock = threading.Lock()  # between `deliver` and `close`, which gives the event's number back
        self._forkservers = [take()]  # the last one forks, the others have left and have children
        self.replaced = 0
        self._processes: list[_Process] = []

    def start(self, count: int, registry_id: str) -> None:
        """Start `count` workers on a registry."""
        self._registry_id = registry_id
        self._processes += [self._start() for _ in range(count)]
        self._forkservers[-1].leave()  # workers seldom die, and another is up in a tenth of a second

    @property
    def wants_work(self) -> bool:
        """Whether a worker has nothing, or nothing to go on with."""
        room = len(self._processes) * TASKS_A_WORKER * TASK_BYTES - sum(process.weight for process in self._processes)
        return room > self._weight

    def submit(self, work: Work, *, first: bool = False) -> None:
        """Have `work` done; with `first`, before what waits."""
        (self._waiting.appendleft if first else self._waiting.append)(work)
        self._weight += work.weight

    def deliver(self, work: Any, outcome: Any) -> None:
        """Have `wait` give this as done; from any thread."""
        self._delivered.append((work, outcome))
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def wait(self, timeout_s: float) -> list[tuple[Any, Any]]:
        """What was done since: the work, and its result or exception.

        Raises
        ------
        LeaseError
            The same work has killed several workers.
        """
        done: list[tuple[Any, Any]] = []
        self._dispatch()
        for key, _ in self._selector.select(0 if self._delivered else timeout_s):
            if key.fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                continue
            process: _Process = key.data
            process.channel.flush()
            alive = process.channel.fill()
            while (taken := process.take()) is not None:
                done.append(taken)
            if not alive:
                self._replace(process, done)
            elif not process.channel.has_output:
                self._selector.modify(process.channel.socket, selectors.EVENT_READ, process)
        while self._delivered:
            done.append(self._delivered.popleft())
        self._dispatch()
        return done

    def finish(self) -> None:
        """Send the workers the end of their input."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.channel.socket.shutdown(socket.SHUT_WR)

    def close(self, *, orderly: bool = True) -> None:
        """End the workers; if not `orderly`, without waiting for what they do."""
        if orderly:
            self._wait_for_workers()
        for process in self._processes:
            process.channel.socket.close()
        self._processes.clear()
        while self._forkservers:
            self._forkservers.pop().close()
        self._selector.close()
        with self._lock:
            if self._wake >= 0:
                os.close(self._wake)
            self._wake = -1

    def _wait_for_workers(self) -> None:
        """Wait until the workers have closed what they had open, but not for ever."""
        deadline = time.monotonic() + _LEAVE_WITHIN_S
        self.finish()
        for process in self._processes:
            process.channel.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            with contextlib.suppress(OSError):
                while process.channel.socket.recv(1 << 16):
                    pass

    def _dispatch(self) -> None:
        for depth in range(TASKS_A_WORKER):
            for process in self._processes:
                if process.weight <= depth * TASK_BYTES and (works := self._next_for(process)):
                    process.give(works)
                    if process.channel.has_output:
                        self._selector.modify(process.channel.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, process)

    def _next_for(self, process: _Process) -> list[Work]:
        """The first work that waits and that this worker can do, with small ones behind it that make one task with it."""
        for place, work in enumerate(self._waiting):
            session = work.session
            if session is not None and session.worker is not process:
                if session.worker in self._processes or process.has_session:
                    continue
                session.worker, process.session = process, session
            del self._waiting[place]
            works, weight = [work], work.weight
            while place < len(self._waiting) and weight + self._waiting[place].weight <= TASK_BYTES:
                works.append(self._waiting[place])
                weight += works[-1].weight
                del self._waiting[place]
            self._weight -= weight
            return works
        return []

    def _replace(self, process: _Process, done: list[tuple[Any, Any]]) -> None:
        self._selector.unregister(process.channel.socket)
        process.channel.socket.close()
        process.child.close()
        self._processes.remove(process)
        self.replaced += 1
        if process.pending:
            done.append((process.pending.popleft(), WorkerLostError("its worker died, perhaps for lack of memory")))
        while process.pending:  # not begun: nothing is known against it
            work = process.pending.pop()
            work.lost()
            self.submit(work, first=True)
        self._forkservers.append(take())
        self._processes.append(self._start())
        self._forkservers[-1].leave()

    def _start(self) -> _Process:
        """Fork a worker, which can be given tasks at once."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                child = self._fork(theirs)
            except ChildProcessError:  # the fork server itself was killed
                self._forkservers.append(take())
                child = self._fork(theirs)
        process = _Process(child, ours)
        self._selector.register(ours, selectors.EVENT_READ, process)
        return process

    def _fork(self, connection: socket.socket) -> Child:
        return self._forkservers[-1].fork(
            "shmlease.ingestion.worker_process:serve", self._registry_id, descriptor=connection.fileno()
        )
