"""`Executor`: concurrent.futures over processes, with large arguments and results in shared memory.

It is `ProcessPoolExecutor` in all its habits, for it is one. A call that may be large is submitted to it as a `calls.Call`,
which pickles itself in the thread and at the moment that the pool pickles it; a small one as it is. Results pass through a
queue of our own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from shmlease import Address, Lease, LeaseClosedError, RegistryHandle
from shmlease.integrations.calls import Calls
from shmlease.integrations.messages import MIN_NBYTES, packed, received
from shmlease.integrations.own_registry import RegistryUse
from shmlease.integrations.plain import is_plain
from shmlease.integrations.results import ResultQueue
from shmlease.units import parse_bytes

__all__ = ["Executor", "Handle"]

P = ParamSpec("P")
T = TypeVar("T")


class Executor(ProcessPoolExecutor):
    """As `concurrent.futures.ProcessPoolExecutor`; large arrays and buffers travel as leases, both ways.

    What arrives is writable, as pickled arguments are: it is mapped copy-on-write. Results hold their memory until their
    last array dies, also after `shutdown`.

    Parameters
    ----------
    max_workers, mp_context, initializer, initargs, max_tasks_per_child
        As of `concurrent.futures.ProcessPoolExecutor`.
    registry : RegistryHandle, optional
        Whose memory is used. If not given, the one that `connect` finds, else one that this process starts; that ends when
        the last executor which uses it is shut down.
    min_nbytes : int or str
        Bytes that an array, a buffer or a pickle has at least to travel as a lease.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        registry: RegistryHandle | None = None,
        min_nbytes: int | str = MIN_NBYTES,
    ) -> None:
        least = parse_bytes(min_nbytes)
        super().__init__(max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child)
        self._use = RegistryUse(registry)
        self._calls = Calls(self._use.registry, least)
        self._result_queue = ResultQueue(self._calls.pool, least, self._mp_context)  # type: ignore[arg-type] # it has one by now
        self._manager: list[Any] = []  # which ends when the last worker has
        # in a thread, since a finalizer may run in the middle of any call
        end = threading.Thread(target=_end_after, args=(self._use, self._manager), daemon=True)
        self._end_later = weakref.finalize(self, end.start)
        self._end_later.atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `concurrent.futures.Executor.submit`."""
        future: Future[T]
        if not kwargs and is_plain((fn, *args), self._calls.min_nbytes):
            future = super().submit(fn, *args)  # type: ignore[call-arg] # there are no kwargs
        else:
            future = self._calls.submit(super().submit, fn, args, kwargs)
        if not self._manager and self._executor_manager_thread is not None:
            self._manager.append(self._executor_manager_thread)
        return future

    def put(self, value: object, *, timeout: float | str | None = 5.0) -> Handle:
        """Share `value` once with any number of calls: a handle, which arrives as the object wherever it is in arguments.

        Parameters
        ----------
        value : object
            What can be pickled.
        timeout : float or str
            Seconds to wait for room; None waits for ever.

        Raises
        ------
        CapacityError
            There was no room within `timeout`.
        """
        return Handle(self._calls, self._calls.registry.put(packed(value, self._calls.min_nbytes), timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`; then a registry of its own ends, with the last call."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if any(thread.is_alive() for thread in self._manager):
            self._end_later()  # it was not waited for, now or in an earlier call
        else:
            self._end_later.detach()
            self._use.end()


def _end_after(use: RegistryUse, manager: list[Any]) -> None:
    """End the use of a registry when the last worker has ended."""
    for thread in manager:
        thread.join()
    use.end()


class Handle:
    """An object that was shared with the calls of an executor, until `release`; made by `Executor.put`.

    A context manager. Calls of that executor which were submitted before it is released still get the object; later ones
    raise LeaseClosedError.
    """

    def __init__(self, calls: Calls, lease: Lease[Any]) -> None:
        self._calls = calls
        self._lease = lease
        self._address = lease.address()

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that it takes."""
        return self._lease.nbytes

    def release(self) -> None:
        """End it, when the calls that were submitted so far are done; doing so twice does nothing."""
        self._calls.when_done(self._lease.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[Callable[[Address], Any], tuple[Address]]:
        if not self._lease.held:
            raise LeaseClosedError(
                "this handle of Executor.put was released, and the calls submitted before are done: put the object again, "
                "or submit all calls within the handle's `with` block",
                site=self._lease.site,
            )
        return received, (self._address,)
