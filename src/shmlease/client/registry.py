"""`Registry` and `connect`: what user code begins with."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import time
import warnings
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from shmlease.client.handle import RegistryHandle
from shmlease.client.lease import OnLingering, checked_on_lingering, held_leases
from shmlease.client.link import Link
from shmlease.client.link_cache import connected_link_to, link_to, links
from shmlease.core import messages as m
from shmlease.core.model import EventKind, Identity
from shmlease.core.settings import NewRegistry, Settings
from shmlease.core.sizes import PAGE_BYTES
from shmlease.errors import (
    LeaseError,
    LeaseWarning,
    ProtocolError,
    RegistryUnavailableError,
    UnreleasedLeaseWarning,
    UnsupportedPlatformError,
)
from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory
from shmlease.system.exhaustion import explained, explains_shortage, shortage_behind
from shmlease.system.identity import own_identity, require_proc, watch
from shmlease.system.launch import launch
from shmlease.system.names import REGISTRY_ID
from shmlease.system.primitives import allocate_lock, complete, start_new_thread
from shmlease.system.reclaim import sweep
from shmlease.system.registries import default_registry_id
from shmlease.system.shm_root import require_shared_memory
from shmlease.system.signals import deliver_again, is_from_handler
from shmlease.units import parse_bytes, parse_duration

__all__ = [
    "ENVIRONMENT",
    "WARM_IDLE_S",
    "OwnedRegistry",
    "Registry",
    "begin",
    "checked_id",
    "connect",
    "new_registry",
    "starting",
]

ENVIRONMENT: Final = "SHMLEASE_REGISTRY"
# Warm segments beyond half of the capacity would mostly be evicted for the next request anyway.
WARM_SHARE: Final = 0.5
# Between two steps of a job seconds pass; memory that nobody has asked for in five of them is better given back.
WARM_IDLE_S: Final = 5.0
# How long an interrupted `Registry()` waits until what it had started is ended again; a second interrupt ends the waiting.
_UNDO_WITHIN_S: Final = 10.0


class Registry(RegistryHandle):
    """Start a registry process, and end it at the end of the ``with`` block or of this process.

    The registry runs in a session of its own, without this process's descriptors or memory. Children of this process find
    it through ``SHMLEASE_REGISTRY``. When the block ends everything is freed and nothing is left in /dev/shm; leases that
    other processes still hold are named in a warning, and what they have mapped stays valid until they let go. If this
    process is killed, the registry serves whoever is left and then ends.

    Parameters
    ----------
    capacity : int or str, optional
        Bytes (or words such as ``"2GiB"``) of all segments together; half of what /dev/shm has free if not given.
    warm : int or str, optional
        Bytes of free segments that are kept for reuse at most; half of the capacity if not given, 0 to keep none.
    warm_idle : float or str
        Seconds after which an unused warm segment is given back to the system.
    on_lingering : {"warn", "error", "ignore"}
        What a release does when numpy views of the array are still alive.

    Raises
    ------
    RegistryUnavailableError
        The process could not be started, or there is no /dev/shm that it could use.
    CapacityError
        /dev/shm is full.
    """

    def __init__(
        self,
        capacity: int | str | None = None,
        *,
        warm: int | str | None = None,
        warm_idle: float | str = WARM_IDLE_S,
        on_lingering: OnLingering = "warn",
    ) -> None:
        checked_on_lingering(on_lingering)  # before there is anything to end
        start = _Start(capacity, warm, warm_idle)
        try:
            complete(start.run)
            super().__init__(link_to(start.directory.id), on_lingering)
            self._link.connect()
            self._owned = OwnedRegistry(self._link)
            self._owned.__class__ = _OpenRegistry  # the last: what comes after this is the caller's
        except BaseException as error:
            start.is_wanted = False
            shortage = shortage_behind(error)
            if shortage is not None:  # of memory or threads, perhaps: none for another thread
                start.undo()
                raise RegistryUnavailableError(f"a registry cannot be started: {explained(shortage)}") from error
            start_new_thread(start.undo, ())
            start.undone.acquire(True, _UNDO_WITHIN_S)
            raise

    def close(self) -> None:
        """End the registry: everything is freed; who still holds a lease is named in a warning.

        In a forked child this does nothing: the registry is its parent's.
        """
        self._owned.close(stacklevel=3)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._owned.close(stacklevel=3)


class OwnedRegistry:
    """A registry that this process has started, until it has ended it; its children find it through the environment."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.id = link.endpoint.id
        self._pid = syscalls.getpid()
        self._previous = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = self.id
        _open_registries[self.id] = weakref.ref(self)

    def armed(self) -> OwnedRegistry:
        """From now on it is missed if it is lost."""
        self.__class__ = _OpenRegistry
        return self

    @property
    def is_ended(self) -> bool:
        """Whether it has been ended here."""
        return self.id not in _open_registries

    @property
    def is_ours(self) -> bool:
        """Whether it was not inherited through a fork."""
        return self._pid == syscalls.getpid()

    def close(self, stacklevel: int) -> None:
        """End it, if that was not done; warn of those who still hold a lease."""
        if not self.is_ours or self.is_ended:
            return
        _restore_environment(self.id, self._previous)
        if self.link.session.epoch > 1:
            _log_faults(self.id)
        try:
            holders = self.link.request(m.Closed, m.Close).holders
        except RegistryUnavailableError as error:  # it has ended; killed, it would have been succeeded
            if is_from_handler(error):
                raise
            holders = []
        self.link.end()
        self.__class__ = OwnedRegistry
        links.pop(self.id, None)
        _open_registries.pop(self.id, None)
        if holders:
            listed = "; ".join(holders[:10]) + ("; ..." if len(holders) > 10 else "")
            warnings.warn(
                LeaseWarning(f"registry {self.id} was closed while {len(holders)} leases were held: {listed}"),
                stacklevel=stacklevel,
            )


class _OpenRegistry(OwnedRegistry):
    """A registry until it has ended: an object that is collected then runs no Python code, in which an interrupt would be
    lost.
    """

    def __del__(self) -> None:
        if not self.is_ours:
            return
        try:
            try:
                warnings.warn(
                    UnreleasedLeaseWarning(f"<Registry {self.id}> was never closed; use it in a with statement"),
                    stacklevel=2,
                )
            finally:
                self.close(stacklevel=3)
        except BaseException as error:
            deliver_again(error)


class _Start:
    """The start of a registry process: done whole by a thread, whatever interrupts the caller, and undone by another."""

    def __init__(self, capacity: int | str | None, warm: int | str | None, warm_idle: float | str) -> None:
        self.directory = RegistryDirectory(secrets.token_hex(4))
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
                _restore_environment(id, self._previous)
                if self._is_launched:
                    self._end()
        finally:
            links.pop(id, None)
            _open_registries.pop(id, None)
            self.undone.release()

    def _end(self) -> None:
        link = link_to(self.directory.id)
        try:
            link.request(m.Closed, m.Close)
            link.end()
        except LeaseError:  # no client of this process can join it
            _end_unused(self.directory)


def _restore_environment(id: str, previous: str | None) -> None:
    if os.environ.get(ENVIRONMENT) == id:
        if previous is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = previous


@explains_shortage("the registry cannot be joined", RegistryUnavailableError)
def connect(registry: str | None = None, *, on_lingering: OnLingering = "warn") -> RegistryHandle:
    """Join a registry that runs.

    Parameters
    ----------
    registry : str, optional
        Its id. If not given, the one named by ``SHMLEASE_REGISTRY``, which `Registry` sets for its children; else the
        user's default one, which ``shmlease serve`` runs.
    on_lingering : {"warn", "error", "ignore"}
        What a release does when numpy views of the array are still alive.

    Raises
    ------
    RegistryUnavailableError
        There is no such registry.
    """
    named = os.environ.get(ENVIRONMENT)
    checked_on_lingering(on_lingering)
    try:
        link = connected_link_to(registry or named or default_registry_id())
    except UnsupportedPlatformError as error:
        if is_from_handler(error):
            raise
        raise RegistryUnavailableError(f"there is no registry to join: {error}") from None
    except RegistryUnavailableError as error:
        if registry or not named or is_from_handler(error):
            raise
        message = f"{error}; {ENVIRONMENT} names it: unset that to join the user's own"
        raise RegistryUnavailableError(message, **error.fields) from None
    return RegistryHandle(link, on_lingering)


def _log_faults(id: str) -> None:
    """Keep the tracebacks of a registry that is about to remove its directory, and its log with it."""
    import logging  # noqa: PLC0415 - most registries never fail

    with contextlib.suppress(OSError, ProtocolError):
        for event in RegistryDirectory(id).read_ledger().events:
            if event.kind is EventKind.FAULT:
                logging.getLogger("shmlease.registry").error("registry %s failed and was succeeded: %s", id, event.detail)


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


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """A block that starts a registry: what stands in its way is told in words.

    Raises
    ------
    RegistryUnavailableError, CapacityError
        There is no shared memory, or no /proc; or what a registry needs cannot be had.
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
        directory.create()
        lock_fd = directory.lock()
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
        raise ValueError(f"{id!r} is no id of a registry: 1 to 32 of the digits and the letters a to z")
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
        A size or duration that cannot be.
    """
    # half of what is free now: /dev/shm is others' as well, and a full one is a bus error to those who do not reserve
    capacity_bytes = directory.free_bytes() // 2 if capacity is None else parse_bytes(capacity)
    if capacity_bytes < PAGE_BYTES:
        raise ValueError(f"a capacity of {capacity_bytes} bytes holds no segment; give at least {PAGE_BYTES}")
    warm_bytes = int(capacity_bytes * WARM_SHARE) if warm is None else parse_bytes(warm)
    return NewRegistry(capacity_bytes, warm_bytes, parse_duration(warm_idle), owner)


_open_registries: Final[dict[str, weakref.ref[OwnedRegistry]]] = {}


def _leave() -> None:
    """At exit: nothing that this process holds waits for its death to be noticed."""
    with contextlib.ExitStack() as leaving:  # all of it, though warnings be errors
        for link in list(links.values()):
            leaving.callback(link.close)
        for reference in list(_open_registries.values()):
            if (owned := reference()) is not None:
                leaving.callback(owned.close, 2)
        for lease in held_leases():
            if not lease._link.is_ended:
                warnings.warn(
                    UnreleasedLeaseWarning(f"{lease!r} was held until the process ended; it was taken at {lease.site}"),
                    stacklevel=1,
                )


atexit.register(_leave)
