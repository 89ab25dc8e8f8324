"""Ending the leases of a holder that is proved dead: what it had mapped is never used again."""

from __future__ import annotations

from shmlease.core.leases import Leases
from shmlease.core.model import ClientRow, EventKind, Mark
from shmlease.core.outbox import Outbox
from shmlease.core.rows import Rows

__all__ = ["end_leases_of"]


def end_leases_of(client: ClientRow, rows: Rows, outbox: Outbox, leases: Leases, now_ns: int) -> None:
    """End every lease of `client`, tainted, and record each."""
    for lease_id in sorted(rows.leases_of[client.id]):
        lease = rows.leases[lease_id]
        outbox.counters["reclaimed"] += 1
        rows.next_number(Mark.RECLAIM)
        rows.record(now_ns, EventKind.HOLDER_DIED, lease.segment, lease.id, client.id, client.identity.command)
        leases.end(lease, now_ns, tainted=True)
