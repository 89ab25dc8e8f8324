"""The start of a registry: what it is begun with, in which directory, and what becomes of a start that was interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Final

from shmlease.client.link_cache import link_to
from shmlease.client.owned_registry import ENVIRONMENT, forget, restore_environment
from shmlease.core import messages as m
from shmlease.core.model import Identity
from shmlease.core.settings import NewRegistry, Settings
from shmlease.core.sizes import PAGE_BYTES
from shmlease.errors import LeaseError, ProtocolError, RegistryUnavailableError, UnsupportedPlatformError
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import own_identity, require_proc, watch
from shmlease.system.launch import launch
from shmlease.system.names import REGISTRY_ID
from shmlease.system.primitives import allocate_lock
from shmlease.system.reclaim import sweep
from shmlease.system.shm_root import require_shared_memory
from shmlease.system.shm_shortage import explained
from shmlease.units import parse_bytes, parse_duration

__all__ = ["WARM_IDLE_S", "RegistryStart", "begin", "checked_id", "new_registry", "starting"]

# Warm segments beyond half of the capacity would mostly be evicted for the next request anyway.
WARM_SHARE: Final = 0.5
# Between two steps of a job seconds pass; memory that nobody has asked for in five of them is better given back.
WARM_IDLE_S: Final = 5.0


class RegistryStart:
    """The start of a registry process: done whole by a thread, whatever interrupts the caller, and undone by another."""

    def __init__(
        self, capacity: int | str | None, warm: int | str | None, warm_idle: float | str, id: str | None = None
    ) -> None:
        self.directory = RegistryDirectory(id or os.urandom(4).hex())
        self.is_wanted = True
        self.undone = allocate_lock()
        self.undone.acquire()
        self._limits = (capacity, warm, warm_idle)
        self._running = allocate_lock()
        self._is_launched = False
        self._previous = os.environ.get(ENVIRONMENT)

    def run(self) -> None:
        """Start the process, unless that is not wanted any more."""
        with self._running:
            if not self.is_wanted:
                return
            with starting():
                sweep()
                directory = self.directory
                new = new_registry(directory, *self._limits, owner=own_identity())
                lock_fd = begin(directory)
                try:
                    launch(Settings(directory.id, directory.root, new), lock_fd)
                    self._is_launched = True
                except BaseException:
                    directory.remove()
                    raise
                finally:
                    directory.unlock(lock_fd)

    def undo(self) -> None:
        """End the process, if it was started; not before it is known whether it was."""
        id = self.directory.id
        try:
            with self._running:
                restore_environment(id, self._previous)
                if self._is_launched:
                    self._end()
        finally:
            forget(id)
            self.undone.release()

    def _end(self) -> None:
        link = link_to(self.directory.id)
        try:
            link.request(m.Closed, m.Close)
            link.end()
        except LeaseError:  # no client of this process can join it
            _end_unused(self.directory)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """A block that starts a registry: errors say what stands in its way.

    Raises
    ------
    RegistryUnavailableError, CapacityError
        There is no shared memory or no /proc, or the system refused something that a registry needs.
    """
    require_shared_memory()
    try:
        require_proc()
        yield
    except UnsupportedPlatformError as error:
        raise RegistryUnavailableError(f"a registry cannot be started: {error}") from None
    except LeaseError:
        raise
    except OSError as error:
        raise RegistryUnavailableError(f"a registry cannot be started: {explained(error)}") from error


def begin(directory: RegistryDirectory) -> int:
    """Make the directory and lock it; another process that sweeps may take it for abandoned in between.

    Raises
    ------
    RegistryUnavailableError
        A registry is running there.
    """
    for _ in range(100):
        try:
            directory.create()
            lock_fd = directory.lock()
        except FileNotFoundError as error:
            if is_from_handler(error):
                raise
            continue
        if lock_fd is not None:
            return lock_fd
        time.sleep(0.001)
    raise RegistryUnavailableError(f"registry {directory.id} is running already; see `shmlease status`")


def checked_id(id: str) -> str:
    """`id` if a registry may have it: by any other, its directory is not found by `status`, `audit`, `reap` and the next
    start.

    Raises
    ------
    ValueError
        It may not.
    """
    if not REGISTRY_ID.fullmatch(id):
        raise ValueError(
            f"{id!r} cannot be the id of a registry: an id has 1 to 32 characters, digits and the letters a to z"
        )
    return id


def new_registry(
    directory: RegistryDirectory,
    capacity: int | str | None,
    warm: int | str | None,
    warm_idle: float | str,
    owner: Identity | None = None,
) -> NewRegistry:
    """What `Registry` and ``shmlease serve`` begin a registry with.

    Raises
    ------
    ValueError
        A size or duration is not a valid one.
    """
    # half of what is free now: /dev/shm is others' as well, and a full one is a bus error to those who do not reserve
    capacity_bytes = directory.free_bytes() // 2 if capacity is None else _in_bytes(capacity, directory)
    if capacity_bytes < PAGE_BYTES:
        raise ValueError(f"a capacity of {capacity_bytes} bytes holds no segment; give at least {PAGE_BYTES}")
    warm_bytes = int(capacity_bytes * WARM_SHARE) if warm is None else parse_bytes(warm)
    return NewRegistry(capacity_bytes, warm_bytes, parse_duration(warm_idle), owner)


def _in_bytes(capacity: int | str, directory: RegistryDirectory) -> int:
    """A capacity, which may be a part of /dev/shm, such as ``"50%"``."""
    if not isinstance(capacity, str) or not capacity.endswith("%"):
        return parse_bytes(capacity)
    try:
        part = float(capacity[:-1])
    except ValueError:
        part = -1.0
    if not 0 < part <= 100:
        raise ValueError(f"{capacity!r} is no part of /dev/shm; give between 0% and 100%, or a size such as 2GiB")
    return int(directory.total_bytes() * part / 100)


def _end_unused(directory: RegistryDirectory) -> None:
    """End a registry that was just started and cannot be joined: nobody else knows of it."""
    with contextlib.suppress(OSError, ProtocolError):
        row = directory.read_ledger().registry
        pidfd = None if row is None else watch(row.identity)
        if pidfd is not None and pidfd >= 0:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            finally:
                syscalls.close(pidfd)
