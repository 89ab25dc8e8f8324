"""A registry that this process has started, from when it serves until this process has ended it, at exit at the latest."""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
import weakref
from typing import Final

from shmlease.client.hold import held_leases
from shmlease.client.link import Link
from shmlease.client.link_cache import links
from shmlease.core import messages as m
from shmlease.core.model import EventKind
from shmlease.errors import LeaseWarning, ProtocolError, RegistryUnavailableError, UnreleasedLeaseWarning
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory
from shmlease.system.signals import deliver_again
from shmlease.units import format_count

__all__ = ["ENVIRONMENT", "OwnedRegistry", "forget", "restore_environment"]

ENVIRONMENT: Final = "SHMLEASE_REGISTRY"


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
        restore_environment(self.id, self._previous)
        if self.link.session.epoch > 1:
            _log_faults(self.id)
        try:
            self.link.give_back_abandoned()  # nobody holds that
            holders = self.link.request(m.Closed, m.Close).holders
        except RegistryUnavailableError as error:  # it has ended; killed, it would have been succeeded
            if is_from_handler(error):
                raise
            holders = []
        self.link.end()
        self.__class__ = OwnedRegistry
        forget(self.id)
        if holders:
            listed = "; ".join(holders[:10]) + ("; ..." if len(holders) > 10 else "")
            warnings.warn(
                LeaseWarning(
                    f"registry {self.id} was closed while {format_count(len(holders), 'lease was', 'leases were')} held: "
                    f"{listed}"
                ),
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


def restore_environment(id: str, previous: str | None) -> None:
    """What the environment names is `previous` again, if it is `id` now."""
    if os.environ.get(ENVIRONMENT) == id:
        if previous is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = previous


def forget(id: str) -> None:
    """The registry `id`, which this process has started, has ended."""
    links.pop(id, None)
    _open_registries.pop(id, None)


def _log_faults(id: str) -> None:
    """Keep the tracebacks of a registry that is about to remove its directory, and its log with it."""
    import logging  # noqa: PLC0415 - most registries never fail

    with contextlib.suppress(OSError, ProtocolError):
        for event in RegistryDirectory(id).read_ledger().events:
            if event.kind is EventKind.FAULT:
                logging.getLogger("shmlease.registry").error("registry %s failed and was succeeded: %s", id, event.detail)


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
            if not lease._link.ended:
                warnings.warn(
                    UnreleasedLeaseWarning(f"{lease!r} was held until the process ended; it was taken at {lease.site}"),
                    stacklevel=1,
                )


atexit.register(_leave)
