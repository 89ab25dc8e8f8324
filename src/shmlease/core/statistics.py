"""What `Statistics` is answered with: the figures of the table at this moment, and those that the shell has measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shmlease.core import messages as m
from shmlease.core.model import ClientState, LeaseState
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.rows import Rows

__all__ = ["Figures"]


class Figures:
    """Counts rows when it is asked.

    Attributes
    ----------
    descriptors : tuple of int
        How many descriptors the registry process has open, and may have, as the shell last counted them.
    """

    def __init__(self, rows: Rows, outbox: Outbox, pool: Pool, count_waiting: Callable[[], int], now_ns: int) -> None:
        self._rows = rows
        self._outbox = outbox
        self._pool = pool
        self._count_waiting = count_waiting
        self._started_ns = now_ns
        self.descriptors = (0, 0)

    def send(self, client: int, message: m.Statistics, now_ns: int) -> None:
        """Answer `message`."""
        rows = self._rows
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for segment in rows.segments.values():
            counts[segment.state] += 1
            sizes[segment.state] += segment.size_bytes
        in_use, limit = self.descriptors
        figures = m.Figures(
            message.seq,
            rows.registry.capacity_bytes,
            self._pool.shm_free_bytes,
            rows.registry.epoch,
            now_ns - self._started_ns,
            sum(row.state is not ClientState.ENDED for row in rows.clients.values()),
            sum(not ticket.keeps for ticket in rows.tickets.values()),
            self._count_waiting(),
            dict(counts),
            dict(sizes),
            self._count_leases(),
            dict(self._outbox.counters),
            dict(self._outbox.peaks),
            in_use,
            limit,
        )
        self._outbox.send(client, figures)

    def _count_leases(self) -> dict[str, int]:
        """Leases by mode, those of spares apart; those that linger are counted again under that word."""
        counts: Counter[str] = Counter()
        for lease in self._rows.leases.values():
            counts["spare" if lease.state is LeaseState.RESERVED else lease.mode] += 1
            counts["lingering"] += lease.state is LeaseState.LINGERING
            counts["detached"] += lease.state is LeaseState.DETACHED
        return dict(counts)
