"""The joblib backend "shmlease": loky's workers, with large arrays in leased memory in place of files.

Importing this module registers it::

    import shmlease.joblib
    with joblib.parallel_config(backend="shmlease"): ...

Joblib's habits are kept: arguments from ``max_nbytes`` on are shared, read-only by default, as ``mmap_mode`` says; the same
array in many calls is there once; arrays on a file stay on it; functions and classes of ``__main__`` can be sent; workers
stay for the next call. What is new: results travel as leases too, and there is no folder that could be left.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import joblib
import numpy as np
from joblib._memmapping_reducer import _get_backing_memmap, _reduce_memmap_backed  # how joblib sends arrays on a file
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    LokyBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.externals.loky import ProcessPoolExecutor

from shmlease import Address, CapacityError, Lease, PackedObject, RegistryHandle, RegistryUnavailableError, connect, pack
from shmlease.integrations.calls import Call, Calls
from shmlease.integrations.messages import MIN_NBYTES
from shmlease.integrations.own_registry import RegistryUse
from shmlease.units import parse_bytes

try:
    from cloudpickle import Pickler
except ImportError:  # joblib before 1.6 brings it along
    from joblib.externals.cloudpickle import Pickler

__all__ = ["ShmleaseBackend"]

Array = np.ndarray[Any, Any]
_MODES: Final = ("r", "c")
_kept: Final[list[RegistryUse]] = []
_workers: Final[dict[Any, Any]] = {}  # one pool, by what was asked for


class ShmleaseBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc] # joblib has no types
    """As joblib's backend "loky"; see the module.

    Parameters
    ----------
    registry : RegistryHandle, optional
        Whose memory is used. If not given, the one that `connect` finds, else one that this process starts and keeps, as
        joblib keeps the workers.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    effective_n_jobs = LokyBackend.effective_n_jobs

    def __init__(self, *args: Any, registry: RegistryHandle | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._registry = registry
        self._use: RegistryUse | None = None
        self._workers: Any = None

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        max_nbytes: int | str | None = "1M",
        mmap_mode: str | None = "r",
        idle_worker_timeout: float = 300,
        **_options: Any,
    ) -> int:
        """See joblib; the workers of loky, without its files."""
        if mmap_mode not in (*_MODES, None):
            raise ValueError(
                f"mmap_mode={mmap_mode!r}: arguments are snapshots on this backend, which are read ('r') or written as "
                "copies ('c'); for memory that workers write to, see registry.lease(mutable=True)"
            )
        workers: int = self.effective_n_jobs(n_jobs)
        if workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._workers = _kept_workers(workers, idle_worker_timeout, self._prepare_worker_env(n_jobs=workers))
        if self._use is None:
            self._use = RegistryUse(self._registry)
        least = None if max_nbytes is None or mmap_mode is None else _nbytes(max_nbytes)
        self._calls = _JoblibCalls(self._use.registry, least, mmap_mode or "r")
        return workers

    def submit(self, func: Callable[..., Any], callback: Callable[..., Any] | None = None) -> Any:
        """See joblib."""
        future = self._calls.submit(self._workers.submit, func, (), {})
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, future: Any) -> Any:
        """See joblib."""
        return future.result()

    def terminate(self) -> None:
        """See joblib: the end of a `joblib.Parallel`; workers stay for the next."""
        self._workers = None
        self.reset_batch_stats()
        if self._use is not None:
            self._calls.release_arrays()
            use, self._use = self._use, None
            if use.is_own and not _kept:
                _kept.append(use)
            else:
                use.end()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """See joblib."""
        if self._workers is not None:
            self._workers.shutdown(kill_workers=True)
        self.terminate()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel, **self.parallel._backend_kwargs)


def _kept_workers(number: int, timeout_s: float, env: dict[str, str]) -> Any:
    """Those of the last `joblib.Parallel`, if they are what is asked for."""
    key = number, timeout_s, tuple(sorted(env.items()))
    kept = _workers.get(key)
    if kept is None or kept._flags.shutdown:
        while _workers:
            _workers.popitem()[1].shutdown(wait=False)
        kept = _workers[key] = ProcessPoolExecutor(number, timeout=timeout_s, env=env)
    return kept


class _Shared(NamedTuple):
    """An array that calls share."""

    array: weakref.ref[Array]
    lease: Lease[Any]
    users: set[Call]


class _JoblibCalls(Calls):
    """Calls whose large arguments are shared by all that have them."""

    def __init__(self, registry: RegistryHandle, shared_nbytes: int | None, mode: str) -> None:
        super().__init__(registry, parse_bytes(MIN_NBYTES), Pickler)
        self._shared_nbytes = shared_nbytes
        self._mode = mode
        self._shared: dict[int, _Shared] = {}

    def packed(self, call: Call) -> PackedObject:
        return pack(call.parts, min_nbytes=self.min_nbytes, pickler=Pickler, reduce=functools.partial(self._reduce, call))

    def done(self, call: Call) -> None:
        super().done(call)
        for key, shared in list(self._shared.items()):
            shared.users.discard(call)
            if not shared.users and shared.array() is None:
                self._end(key)

    def release_arrays(self) -> None:
        """No more calls are to come."""
        for key in list(self._shared):
            self._end(key)

    def _reduce(self, call: Call, value: object) -> Any:
        if type(value) not in (np.ndarray, np.memmap):
            return NotImplemented
        array: Array = value  # type: ignore[assignment]
        on_file = _get_backing_memmap(array)
        if isinstance(on_file, np.memmap):
            return _reduce_memmap_backed(array, on_file)
        if self._shared_nbytes is None or array.nbytes < self._shared_nbytes or array.dtype.hasobject:
            return NotImplemented
        shared = self._shared.get(id(array))
        if shared is None or shared.array() is not array:
            lease = self._share(array)
            if lease is None:
                return NotImplemented
            self._end(id(array))
            shared = self._shared[id(array)] = _Shared(weakref.ref(array), lease, set())
        shared.users.add(call)
        return _arrived, (shared.lease.address(), self._mode)

    def _share(self, array: Array) -> Lease[Any] | None:
        if not self._take_room(array.nbytes):
            return None
        try:
            return self.registry.share(array, timeout=0)
        except (CapacityError, RegistryUnavailableError):
            self._give_room(array.nbytes)
            return None

    def _end(self, key: int) -> None:
        shared = self._shared.pop(key, None)
        if shared is not None:
            self._give_room(shared.lease.nbytes)
            shared.lease.release()


def _arrived(address: Address, mode: Any) -> Array:
    """Where a shared array is unpickled."""
    array: Array = connect(address.registry).get(address, mode=mode)
    return array


def _nbytes(size: int | str) -> int:
    """Joblib's words: ``1M`` is a MiB."""
    return parse_bytes(f"{size}iB" if isinstance(size, str) and size[-1:] in "KMG" else size)


joblib.register_parallel_backend("shmlease", ShmleaseBackend)
