"""The registry and the workers of one run: begun together, ended together, and what they leave is looked for."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from shmlease.client.handle import RegistryHandle
from shmlease.client.registry import Registry
from shmlease.errors import LeaseWarning
from shmlease.ingestion.budget import default_capacity
from shmlease.ingestion.executor_pool import ExecutorWorkerPool
from shmlease.ingestion.inline_pool import InlineWorkerPool
from shmlease.ingestion.leak_check import RecordingHandle, holdings, leftovers
from shmlease.ingestion.pool_protocol import WorkerPool
from shmlease.ingestion.worker_pool import ProcessWorkerPool
from shmlease.system.control_group import free_memory_bytes
from shmlease.system.directory import RegistryDirectory
from shmlease.units import parse_bytes

__all__ = ["RunResources", "begin", "drop", "take"]

# Segments of rows and of chunks that are kept to be used again, for each worker: enough that it seldom takes fresh memory,
# which costs a fifth of the processor time where chunks are as large as their rows.
_WARM_BYTES, _WARM_BYTES_UNCOMPRESSED = 4 << 20, 8 << 20


class RunResources:
    """A registry and workers, for the length of a ``with`` block.

    Attributes
    ----------
    workers : int
        That work at once; this thread itself is one if no processes were asked for.
    capacity_bytes : int
        Of shared memory.
    registry : RegistryHandle
    pool : WorkerPool
        Both from the beginning of the block on.
    leaks : tuple of str
        What is left in shared memory; known after the block.
    peak_bytes : int
        The most shared memory that was in use; known after the block.
    """

    registry: RegistryHandle
    pool: WorkerPool

    def __init__(
        self,
        workers: int,
        capacity: int | str | None,
        executor: Executor | None,
        registry: RegistryHandle | None,
        *,
        compressed: bool = True,
    ) -> None:
        self._is_inline = workers == 0 and executor is None
        self.workers = workers = max(workers, 1)
        self._warm_bytes = (_WARM_BYTES if compressed else _WARM_BYTES_UNCOMPRESSED) * (workers + 1)
        self._executor = executor
        self._given = registry
        self._own: Registry | None = None
        self._starting: Future[None] | None = None
        self.leaks: tuple[str, ...] = ()
        self.peak_bytes = 0
        if capacity is not None:
            self.capacity_bytes = parse_bytes(capacity)
        else:
            # a /dev/shm may be larger than the memory that is left for it
            free_bytes = min(RegistryDirectory("").free_bytes(), free_memory_bytes())
            self.capacity_bytes = default_capacity(workers, free_bytes)

    @property
    def used_bytes(self) -> int:
        """Shared memory in use now."""
        return self.registry.statistics().used_bytes

    @property
    def has_processes(self) -> bool:
        """Whether the workers are processes of its own, which may keep something from one task to the next."""
        return self._executor is None and not self._is_inline

    @property
    def is_executor(self) -> bool:
        """Whether the workers are those of an executor of the user's."""
        return self._executor is not None

    def begin(self) -> None:
        """Start both in a thread, beside what this one does until it enters the block, or drops them."""
        thread = ThreadPoolExecutor(1)
        self._starting = thread.submit(self._start)
        thread.shutdown(wait=False)

    def drop(self) -> None:
        """End what was begun, if nobody has entered the block."""
        if self._starting is not None and self._starting.exception() is None:
            self._end(orderly=False)

    def __enter__(self) -> Self:
        if self._starting is None:
            self._start()
        else:
            self._starting.result()
            self._starting = None
        return self

    def _start(self) -> None:
        own = ProcessWorkerPool() if self.has_processes else None  # from here on it imports, beside what follows
        try:
            if self._given is None:
                warm_bytes = min(self._warm_bytes, self.capacity_bytes // 2)
                # an error's traceback holds views of leased arrays for a moment; they are dropped with it
                self.registry = self._own = Registry(self.capacity_bytes, warm=warm_bytes, on_lingering="ignore")
            else:
                self.registry = RecordingHandle(self._given.id)
                self.capacity_bytes = min(self.capacity_bytes, self._given.statistics().capacity_bytes)
            if own is not None:
                own.start(self.workers, self.registry.id)
                self.pool = own
        except BaseException:
            if own is not None:
                own.close(orderly=False)
            if self._own is not None:
                self._own.close()
            raise
        if self._executor is not None:
            self.pool = ExecutorWorkerPool(self._executor, self.workers, self.registry.id)
        elif own is None:
            self.pool = InlineWorkerPool(self.registry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(orderly=error is None)

    def _end(self, *, orderly: bool) -> None:
        try:
            self.pool.close(orderly=orderly)
            if orderly:
                self.peak_bytes = self.registry.statistics().peaks.get("bytes", 0)
                self.leaks = holdings(self.registry, workers_lost=self.pool.replaced > 0)
        finally:
            if self._own is not None:
                with warnings.catch_warnings():
                    if not orderly:  # a traceback still holds views of leased arrays
                        warnings.simplefilter("ignore", LeaseWarning)
                    self._own.close()
                self.leaks += leftovers(self._own.id)


_begun: list[tuple[tuple[int, int | str | None, bool], RunResources]] = []


def begin(workers: int, capacity: int | str | None, *, compressed: bool) -> None:
    """Have a run with these begin to start its processes; for a program that knows that it will ingest."""
    resources = RunResources(workers, capacity, None, None, compressed=compressed)
    _begun.append(((workers, capacity, compressed), resources))
    resources.begin()


def take(workers: int, capacity: int | str | None, *, compressed: bool) -> RunResources:
    """What was begun for a run with these, or what is to be begun."""
    if _begun and _begun[0][0] == (workers, capacity, compressed):
        return _begun[0][1]
    drop()
    return RunResources(workers, capacity, None, None, compressed=compressed)


def drop() -> None:
    """End what was begun and was not entered."""
    while _begun:
        _begun.pop()[1].drop()
