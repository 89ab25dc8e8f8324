"""The check at the end of a run: that nothing of it is left in shared memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any, Final

from shmlease.client.handle import RegistryHandle
from shmlease.client.lease import Lease
from shmlease.client.link_cache import link_to
from shmlease.client.ticket import Ticket
from shmlease.system.directory import RegistryDirectory
from shmlease.system.ledger import read_ledger
from shmlease.units import format_count

__all__ = ["RecordingHandle", "holdings", "leftovers"]

# The workers have ended; the registry reads of it within milliseconds.
_WITHIN_S: Final = 2.0


class RecordingHandle(RegistryHandle):
    """A registry that others use as well, and which of its segments a run has had a lease on: those are the run's own."""

    def __init__(self, registry_id: str) -> None:
        super().__init__(link_to(registry_id), "ignore")  # an error's traceback holds views of leased arrays for a moment
        self._had: dict[int, int] = {}  # segment -> generation

    def lease(self, *arguments: Any, **options: Any) -> Lease:
        """As `RegistryHandle.lease`."""
        lease = super().lease(*arguments, **options)
        self._had[lease._grant.segment] = lease._grant.generation
        return lease

    def redeem(self, ticket: Ticket | str, **options: Any) -> Lease:
        """As `RegistryHandle.redeem`."""
        lease = super().redeem(ticket, **options)
        self._had[lease._grant.segment] = lease._grant.generation
        return lease

    def held(self) -> tuple[Counter[str], int]:
        """Leases by mode and tickets, of anybody, on the segments of the run."""
        self.statistics()  # before it answers, the registry records what was released
        table = read_ledger(RegistryDirectory(self.id).ledger_path)
        own = {row.number for row in table.segments.values() if self._had.get(row.number) == row.generation}
        leases = Counter(row.mode.value for row in table.leases.values() if row.segment in own)
        return leases, sum(row.segment in own for row in table.tickets.values())


def holdings(registry: RegistryHandle, *, workers_lost: bool) -> tuple[str, ...]:
    """What a run has left leased or in flight, in words: anything in its own registry, or of what it had of another's.

    A worker that was killed between making a ticket and saying so leaves one that nobody can redeem; it expires by itself.
    """
    deadline_s = time.monotonic() + _WITHIN_S
    while True:
        if isinstance(registry, RecordingHandle):
            leases, tickets = registry.held()
        else:
            figures = registry.statistics()
            leases, tickets = Counter(figures.leases), figures.tickets
        found = [
            f"{format_count(count, f'{mode} lease is', f'{mode} leases are')} held"
            for mode, count in leases.items()
            if count and mode != "spare"  # granted ahead, and taken back by the registry
        ]
        if tickets and not workers_lost:
            found.append(f"{format_count(tickets, 'ticket was', 'tickets were')} not redeemed")
        if not found or time.monotonic() > deadline_s:
            return tuple(found)
        time.sleep(0.005)


def leftovers(registry_id: str) -> tuple[str, ...]:
    """What a registry that was closed has left in /dev/shm."""
    directory = RegistryDirectory(registry_id)
    found = [directory.path] if directory.exists() else []
    found += [
        f"{directory.root}/{name}" for name in os.listdir(directory.root) if name.startswith(f"shmlease-{registry_id}-")
    ]
    return tuple(f"{path} is left" for path in found)
