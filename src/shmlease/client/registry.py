"""`Registry` and `connect`: what user code begins with."""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Final

from shmlease.client.handle import RegistryHandle
from shmlease.client.lease import OnLingering, checked_on_lingering
from shmlease.client.link import Link
from shmlease.client.link_cache import connected_link_to, link_to
from shmlease.client.owned_registry import ENVIRONMENT, OwnedRegistry
from shmlease.client.starting import WARM_IDLE_S, RegistryStart, checked_id
from shmlease.errors import RegistryUnavailableError, UnsupportedPlatformError
from shmlease.exhaustion import explains_shortage, shortage_behind
from shmlease.interrupts import is_from_handler
from shmlease.system.primitives import complete, start_new_thread
from shmlease.system.registries import default_registry_id
from shmlease.system.shm_shortage import explained

__all__ = ["Registry", "connect"]

# How long an interrupted `Registry()` waits until what it had started is ended again; a second interrupt ends the waiting.
_UNDO_WITHIN_S: Final = 10.0
# How long a process tries to join or start a registry while others end it or start it.
_START_WITHIN_S: Final = 10.0


class Registry(RegistryHandle):
    """Start a registry process, and end it at the end of the ``with`` block or of this process.

    The registry runs in a session of its own, without this process's descriptors or memory. Children of this process find
    it through ``SHMLEASE_REGISTRY``. When the block ends everything is freed and nothing is left in /dev/shm; leases that
    other processes still hold are named in a warning, and what they have mapped stays valid until they let go. If this
    process is killed, the registry serves whoever is left and then ends.

    Parameters
    ----------
    capacity : int or str, optional
        Bytes (or words such as ``"2GiB"``, or ``"50%"`` of /dev/shm) of all segments together; half of what /dev/shm has
        free if not given.
    warm : int or str, optional
        Bytes of free segments that are kept for reuse at most; half of the capacity if not given, 0 to keep none.
    warm_idle : float or str
        Seconds after which an unused warm segment is given back to the system.
    on_lingering : {"warn", "error", "ignore", "detach"}
        What a release does when numpy views of the array are still alive; ``"detach"`` lets them carry the lease on, as
        `Lease.detach` does.

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
        start = RegistryStart(capacity, warm, warm_idle)
        try:
            complete(start.run)
            super().__init__(link_to(start.directory.id), on_lingering)
            self._link.connect()
            self._owned = OwnedRegistry(self._link).armed()  # the last: what comes after this is the caller's
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


@explains_shortage("the registry cannot be joined", RegistryUnavailableError)
def connect(
    registry: str | None = None,
    *,
    on_lingering: OnLingering = "warn",
    start: bool = False,
    capacity: int | str | None = None,
    warm_idle: float | str = WARM_IDLE_S,
) -> RegistryHandle:
    """Join a registry that runs.

    Parameters
    ----------
    registry : str, optional
        Its id. If not given, the one named by ``SHMLEASE_REGISTRY``, which `Registry` sets for its children; else the
        user's default one, which ``shmlease serve`` runs.
    on_lingering : {"warn", "error", "ignore", "detach"}
        What a release does when numpy views of the array are still alive; ``"detach"`` lets them carry the lease on, as
        `Lease.detach` does.
    start : bool
        If there is none to join, start it: that of the id given, else the user's default one. It ends when this process
        and all others that have joined it since have ended.
    capacity : int or str, optional
        Bytes (or words such as ``"2GiB"``, or ``"50%"`` of /dev/shm) of all segments together, if it is started here; all
        of /dev/shm if not given.
    warm_idle : float or str
        Seconds after which an unused warm segment is given back to the system, if it is started here.

    Raises
    ------
    RegistryUnavailableError
        There is no such registry, or it cannot be started.
    ValueError
        It is to be started, and the id or the capacity is not a valid one.
    """
    named = os.environ.get(ENVIRONMENT)
    checked_on_lingering(on_lingering)
    if start:
        return RegistryHandle(_joined_or_started(registry, named, capacity, warm_idle), on_lingering)
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


def _joined_or_started(registry: str | None, named: str | None, capacity: int | str | None, warm_idle: float | str) -> Link:
    """A link to `registry`, else to the one that is `named`, else to the user's default one; started if it does not run."""
    if registry:
        checked_id(registry)
    elif named:
        with contextlib.suppress(RegistryUnavailableError):
            return connected_link_to(named)
    deadline_s = time.monotonic() + _START_WITHIN_S
    while True:
        try:
            id = registry or default_registry_id()
            return connected_link_to(id)
        except RegistryUnavailableError as error:
            if is_from_handler(error):
                raise
            _start(id, capacity, warm_idle, is_last=time.monotonic() > deadline_s)
        except UnsupportedPlatformError as error:
            if is_from_handler(error):
                raise
            raise RegistryUnavailableError(f"a registry cannot be started: {error}") from None


def _start(id: str, capacity: int | str | None, warm_idle: float | str, *, is_last: bool) -> None:
    """Start the registry `id`; nothing if another process has just done so, unless it `is_last` tried."""
    start = RegistryStart("100%" if capacity is None else capacity, None, warm_idle, id)
    try:
        complete(start.run)
    except RegistryUnavailableError as error:
        if is_last or is_from_handler(error) or not start.directory.is_served():
            raise
