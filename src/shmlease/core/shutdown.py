"""When and how a registry ends.

* Its owner, the process that it was started for, has ended; or it has no owner and was idle for a while. It serves until
  nobody needs it.
* Another process can serve better, or was started by the user to serve. It leaves everything to that one.
* It was closed. Nothing is granted any more, all names and memory are given back, and who still holds a lease keeps what is
  mapped.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.clients import Clients
from shmlease.core.effects import Stop
from shmlease.core.grants import Grants
from shmlease.core.limits import Limits, is_better, shortfalls
from shmlease.core.model import EventKind, Identity, LeaseRow, LeaseState, SegmentState, client_of
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.prefetch import Prefetch
from shmlease.core.readers import Readers
from shmlease.core.refusals import Refusal
from shmlease.core.rows import Rows
from shmlease.core.timers import Timers
from shmlease.core.transitions import LeaseEvent

__all__ = ["IDLE_NS", "Ending"]

# A registry that nobody has asked for ends when it has had no client, lease or ticket for so long: a program that is
# started again and again meets it, and it is gone before anybody wonders what it is.
IDLE_NS: Final = 60_000_000_000


class Ending:
    """Decides that the registry stops, once."""

    def __init__(
        self,
        rows: Rows,
        outbox: Outbox,
        timers: Timers,
        pool: Pool,
        prefetch: Prefetch,
        grants: Grants,
        readers: Readers,
        clients: Clients,
    ) -> None:
        self._rows = rows
        self._outbox = outbox
        self._timers = timers
        self._pool = pool
        self._prefetch = prefetch
        self._grants = grants
        self._readers = readers
        self._clients = clients
        self._idle_since_ns: int | None = None
        self._is_stopping = False
        timers.handle("idle", None, lambda entries: entries if self._idle_since_ns is not None else set())

    def stop_if_unneeded(self, now_ns: int) -> None:
        """Stop if nobody needs the registry any more."""
        if self._clients.owner_has_ended and not self._is_needed():
            self._stop()
        elif self._rows.registry.ends_when_idle:
            self._stop_when_idle(now_ns)

    def hands_over_to(self, limits: Limits | None, identity: Identity, now_ns: int) -> bool:
        """Whether the process that may use `limits` is to start a better registry than this one; that is then recorded."""
        registry = self._rows.registry
        if limits is None or registry.limits is None or registry.wanted is None or registry.closing:
            return False
        if not is_better(limits, registry.limits, registry.wanted):
            return False
        lacked = shortfalls(registry.limits, registry.wanted)
        self._rows.record(now_ns, EventKind.HANDED_OVER, detail=f"to pid {identity.pid}, for this process had {lacked}")
        return True

    def makes_way_for(self, identity: Identity, now_ns: int) -> bool:
        """Whether the process that its user has started to serve may go on in this one's place; that is then recorded."""
        registry = self._rows.registry
        if registry.closing or not registry.ends_when_idle:
            return False
        self._rows.record(now_ns, EventKind.HANDED_OVER, detail=f"to pid {identity.pid}, which was started to serve")
        return True

    def close_for(self, client: int, message: m.Close, now_ns: int) -> None:
        """A client closes the registry: its owner, or anybody if it has none."""
        owner, asking = self._rows.registry.owner, self._rows.clients[client].identity
        if owner is not None and not owner.may_be(asking):
            raise Refusal(
                m.RefusalCode.PERMISSION,
                f"registry {self._rows.registry.id} belongs to pid {owner.pid}; pid {asking.pid} cannot close it",
            )
        holders = self.close(now_ns, client)
        self._outbox.send(client, m.Closed(message.seq, holders))
        self._stop()

    def close(self, now_ns: int, closer: int = 0) -> list[str]:
        """Refuse everything new, give all names and memory back; who else than client `closer` holds a lease, in words."""
        rows = self._rows
        holders = [
            _holder_in_words(rows, lease)
            for lease in rows.leases.values()
            if lease.state is not LeaseState.RESERVED
            # a detached array of whoever closes the registry stays valid, and that one knows of it
            and not (lease.state is LeaseState.DETACHED and client_of(lease.id) == closer)
        ]
        rows.put(replace(rows.registry, closing=True))
        if holders:
            rows.record(now_ns, EventKind.CLOSED_WITH_HOLDERS, detail="; ".join(holders)[:512])
        self._grants.refuse_all(now_ns)
        self._readers.refuse_all(now_ns)
        for segment in list(rows.segments.values()):
            if segment.state not in (SegmentState.CREATING, SegmentState.RETIRING):
                # a spare counts as held too: its claim may be on its way
                held = segment.number in rows.leases_on
                self._pool.retire(replace(segment, exposed=segment.exposed or held))
        for lease in list(rows.leases.values()):
            rows.move_lease(lease, LeaseEvent.ENDED)
        for ticket in list(rows.tickets.values()):
            rows.drop_ticket(ticket)
        self._prefetch.clear()
        return holders

    def _stop_when_idle(self, now_ns: int) -> None:
        if self._is_needed():
            self._idle_since_ns = None
        elif self._idle_since_ns is None:
            self._idle_since_ns = now_ns
            self._timers.at(now_ns + IDLE_NS, "idle")
        elif now_ns >= self._idle_since_ns + IDLE_NS:
            self._stop()

    def _is_needed(self) -> bool:
        # what is kept for the registry's own life does not prolong it
        tickets = any(not ticket.keeps or ticket.receiver is not None for ticket in self._rows.tickets.values())
        return tickets or not self._clients.all_have_ended() or self._readers.are_expected()

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._outbox.add(Stop())


def _holder_in_words(rows: Rows, lease: LeaseRow) -> str:
    client = rows.clients.get(client_of(lease.id))
    who = "a client that is gone" if client is None else f"pid {client.identity.pid}"
    segment = rows.segments[lease.segment]
    what = f"{segment.name!r}" if segment.name else f"segment {segment.number}"
    return f"{who} holds {what}" + (f" (lease taken at {lease.site})" if lease.site else "")
