"""The leases that a job holds on what workers gave it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shmlease.errors import TicketError
from shmlease.ingestion.private_memory import Memory

if TYPE_CHECKING:
    from shmlease.client.lease import Lease
    from shmlease.client.ticket import Ticket

__all__ = ["HeldLeases"]


class HeldLeases:
    """Leases of one registry, until each is released."""

    def __init__(self, registry: Memory) -> None:
        self._registry = registry
        self._leases: set[Lease] = set()

    @property
    def size_bytes(self) -> int:
        """Of their segments."""
        return sum(lease.nbytes for lease in self._leases)

    def redeem(self, tickets: Iterable[Ticket | None]) -> list[Lease | None]:
        """All of these, or none.

        Raises
        ------
        TicketError
            A ticket has run out.
        """
        leases: list[Lease | None] = []
        try:
            for ticket in tickets:
                leases.append(None if ticket is None else self._registry.redeem(ticket))
                self.add(leases[-1])
        except TicketError:
            for lease in leases:
                self.release(lease)
            raise
        return leases

    def use_up(self, tickets: Iterable[Ticket]) -> None:
        """Redeem what a dead worker was given, so that nothing waits for it."""
        for ticket in tickets:
            with contextlib.suppress(TicketError):  # it had redeemed it
                self._registry.redeem(ticket).release()

    def add(self, lease: Lease | None) -> None:
        """Hold another."""
        if lease is not None:
            self._leases.add(lease)

    def release(self, lease: Lease | None) -> None:
        """Let go of one."""
        if lease is not None:
            self._leases.discard(lease)
            lease.release()

    def release_all(self) -> None:
        """Let go of all."""
        for lease in list(self._leases):
            self.release(lease)
