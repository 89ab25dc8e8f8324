"""`memory_registry`: a registry without process, files or waiting, for unit tests of code that uses shmlease.

It is the real lease table, server, link and lease, on a store in memory and a clock that stands still. What it cannot show
is what only the system does: other processes, names in /dev/shm, memory protection by the kernel, a full /dev/shm.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

from shmlease.client.handle import RegistryHandle
from shmlease.client.lease import OnLingering
from shmlease.client.link import Link
from shmlease.client.link_cache import links
from shmlease.client.owned_registry import OwnedRegistry
from shmlease.client.registry import Registry
from shmlease.client.starting import WARM_IDLE_S, new_registry
from shmlease.core import messages as m
from shmlease.system.clock import Clock
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import own_identity
from shmlease.testing.memory_transport import FakeClock, MemoryEndpoint, MemoryTransport
from shmlease.units import parse_duration

__all__ = ["DEFAULT_CAPACITY", "MemoryRegistry", "memory_registry"]

# Far more than a unit test needs, far less than a machine has.
DEFAULT_CAPACITY: Final = "256MiB"


class MemoryRegistry(Registry):
    """A registry in the memory of this process; made by `memory_registry`.

    It can do what a `shmlease.Registry` can, and is one to code that asks. While it is open ``shmlease.connect()`` joins it
    in this process. Its end frees everything, and warns of leases that are still held.
    """

    def __init__(
        self,
        capacity: int | str = DEFAULT_CAPACITY,
        *,
        warm: int | str | None = None,
        warm_idle: float | str = WARM_IDLE_S,
        on_lingering: OnLingering = "warn",
        clock: Clock | None = None,
    ) -> None:
        id = f"m{secrets.token_hex(4)}"
        new = new_registry(RegistryDirectory(id), capacity, warm, warm_idle, own_identity())
        self._clock = FakeClock() if clock is None else clock
        self._host = MemoryTransport(id, new, self._clock)
        RegistryHandle.__init__(self, Link(MemoryEndpoint(self._host, id)), on_lingering)
        self._link.connect()
        links[id] = self._link
        self._owned = OwnedRegistry(self._link).armed()

    def peer(self) -> RegistryHandle:
        """A handle on this registry as another process would have it: a client of its own, with leases of its own."""
        return RegistryHandle(Link(MemoryEndpoint(self._host, self.id)), self._on_lingering)

    def kill(self, peer: RegistryHandle) -> None:
        """Let the process of `peer` die: the registry ends what it held; the handle and its leases are of no more use.

        Raises
        ------
        ValueError
            It is no peer of this registry, or this registry itself.
        """
        link = peer._link
        if link is self._link or not isinstance(link.endpoint, MemoryEndpoint) or link.endpoint.host is not self._host:
            raise ValueError(f"{peer!r} is no peer of {self!r}; peers are made by its method peer()")
        client, link.ended = link.session.client, f"pid {os.getpid()} has played its death"
        if client:
            self._host.client_died(client)

    def advance(self, duration: float | str) -> None:
        """Let time pass: tickets expire, readers are no longer waited for, idle memory is given back.

        Parameters
        ----------
        duration : float or str
            Seconds, or words such as ``"2min"``.

        Raises
        ------
        TypeError
            The registry was given a clock, whose time passes by itself.
        RegistryUnavailableError
            The registry has ended.
        """
        if not isinstance(self._clock, FakeClock):
            raise TypeError(f"the clock of {self!r} is a {type(self._clock).__name__}: its time passes by itself")
        self._link.request(m.Done, m.Ping)  # what was released before has been idle from now on
        self._host.pass_time(self._clock.now_ns() + int(parse_duration(duration) * 1e9))


def memory_registry(
    capacity: int | str = DEFAULT_CAPACITY,
    *,
    warm: int | str | None = None,
    warm_idle: float | str = WARM_IDLE_S,
    on_lingering: OnLingering = "warn",
    clock: Clock | None = None,
) -> MemoryRegistry:
    """A registry in the memory of this process, for unit tests; a context manager, as `shmlease.Registry` is.

    Nothing waits for real: a call that would wait, for room or for a name, lets time pass at once to the moment at which
    the registry would answer. Time stands still otherwise; `MemoryRegistry.advance` lets it pass.

    Parameters
    ----------
    capacity, warm, warm_idle, on_lingering
        As of `shmlease.Registry`.
    clock : Clock, optional
        ``shmlease.system.clock.SystemClock()`` for tests in which threads wait for each other: calls then wait for real.

    Examples
    --------
    >>> import numpy as np
    >>> with memory_registry() as registry:
    ...     with registry.share(np.arange(3.0), "positions"), registry.peer().attach("positions") as lease:
    ...         print(lease.array.sum())
    3.0
    """
    return MemoryRegistry(capacity, warm=warm, warm_idle=warm_idle, on_lingering=on_lingering, clock=clock)
