"""Tickets: leases in flight, from the one who sends to the one who redeems."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import DropToken, UnwatchReceiver, VoidToken, WatchReceiver
from shmlease.core.leases import Leases
from shmlease.core.model import ClientState, EventKind, Mark, SegmentState, TicketRow, client_of
from shmlease.core.names import Names
from shmlease.core.outbox import Outbox
from shmlease.core.preconditions import held_by, mode_of, require_new_id
from shmlease.core.refusals import not_held_refusal, ticket_refusal
from shmlease.core.rows import Rows
from shmlease.core.timers import Timers

__all__ = ["Tickets"]

# How long a claim of an expired ticket may be on its way before the token is looked at again.
CLAIM_RETRY_NS: Final = 20_000_000
# A tombstone answers "who redeemed this"; there are as many as the event log has entries.
TOMBSTONES_KEPT: Final = 1024


class Tickets:
    """What was sent and not redeemed, and what became of the last ones."""

    def __init__(self, rows: Rows, outbox: Outbox, timers: Timers, leases: Leases, names: Names) -> None:
        self._rows = rows
        self._outbox = outbox
        self._timers = timers
        self._leases = leases
        self._names = names
        self._tombstones: dict[int, str] = {}
        timers.handle("ticket", self._due, lambda entries: {e for e in entries if e[1] in rows.tickets})

    def mint(self, client: int, message: m.Mint, now_ns: int) -> None:
        """A ticket was made; its token lies in the directory already."""
        del now_ns
        lease = held_by(self._rows, client, message.lease)
        require_new_id(self._rows, client, message.ticket)
        segment = self._rows.segments[lease.segment]
        if segment.state is not SegmentState.PUBLISHED:
            raise not_held_refusal(lease.id, "a ticket needs a published segment")
        ticket = TicketRow(
            message.ticket, segment.number, segment.generation, message.deadline_ns, message.site, message.receiver
        )
        self._rows.put(ticket)
        self._outbox.counters["tickets"] += 1
        self.restore(ticket)

    def redeemed(self, client: int, message: m.Redeemed, now_ns: int) -> None:
        """`client` has claimed the token of a ticket, and so has a lease."""
        ticket = self._rows.tickets.get(message.ticket)
        if ticket is None or ticket.keeps:
            raise ticket_refusal(message.ticket, self._tombstones.get(message.ticket))
        require_new_id(self._rows, client, message.lease)
        mode = mode_of(self._rows.segments[ticket.segment], message.mode)
        self._leases.add(message.lease, ticket.segment, mode, message.seq, message.site, message.due_ns, now_ns)
        self._drop(ticket)
        self._remember(ticket.id, f"was redeemed by pid {self._rows.clients[client].identity.pid}")
        self._outbox.add(DropToken(ticket.id, client))

    def redeem(self, client: int, message: m.Redeem, now_ns: int) -> None:
        """A client found no token, and asks why: the ticket was redeemed, has expired, or never was."""
        del client, now_ns
        raise ticket_refusal(message.ticket, self._tombstones.get(message.ticket))

    def voided(self, ticket_id: int, claimed_by: int | None, now_ns: int) -> None:
        """An expired ticket cannot be redeemed any more, or had just been claimed by a client whose notice is to come."""
        ticket = self._rows.tickets.get(ticket_id)
        if ticket is None:
            return
        if claimed_by is not None:
            claimer = self._rows.clients.get(claimed_by)
            if claimer is None or claimer.state is ClientState.ENDED:
                self.redeemer_ended(ticket_id, claimed_by, now_ns)
            else:
                self._timers.at(now_ns + CLAIM_RETRY_NS, "ticket", ticket_id)
            return
        self._drop(ticket)
        if ticket.receiver is not None and ticket.receiver_has_ended:
            self._remember(ticket_id, f"ended with its receiver, pid {ticket.receiver.pid}")
            self._outbox.counters["receivers died"] += 1
            self._rows.record(now_ns, EventKind.RECEIVER_DIED, ticket.segment, 0, client_of(ticket_id), ticket.site)
        else:
            self._remember(ticket_id, "expired before it was redeemed")
            self._outbox.counters["tickets expired"] += 1
            self._rows.record(now_ns, EventKind.TICKET_EXPIRED, ticket.segment, 0, client_of(ticket_id), ticket.site)
        self._leases.taint(ticket.segment)
        self._leases.free_if_unused(ticket.segment, now_ns)

    def redeemer_ended(self, ticket_id: int, client: int, now_ns: int) -> None:
        """Who had claimed a ticket has ended before its notice of that: nobody else can redeem it, and it has no lease."""
        ticket = self._rows.tickets[ticket_id]
        self._drop(ticket)
        self._outbox.add(DropToken(ticket_id, client))
        self._remember(ticket_id, "was redeemed by a process that has ended since")
        self._outbox.counters["reclaimed"] += 1
        self._rows.next_number(Mark.RECLAIM)
        made = f"with a ticket made at {ticket.site}"
        self._rows.record(now_ns, EventKind.HOLDER_DIED, ticket.segment, 0, client, made)
        self._leases.taint(ticket.segment)  # it may have mapped the segment
        self._leases.free_if_unused(ticket.segment, now_ns)

    def revoked(self, client: int, message: m.Revoked, now_ns: int) -> None:
        """`client` has claimed the token of a ticket, to take the ticket back."""
        ticket = self._rows.tickets.get(message.ticket)
        if ticket is None or ticket.keeps:
            raise ticket_refusal(message.ticket, self._tombstones.get(message.ticket))
        self._drop(ticket)
        self._remember(ticket.id, f"was taken back by pid {self._rows.clients[client].identity.pid}")
        self._outbox.counters["tickets revoked"] += 1
        self._outbox.add(DropToken(ticket.id, client))
        self._leases.free_if_unused(ticket.segment, now_ns)

    def receiver_ended(self, ticket_id: int, now_ns: int) -> None:
        """The process that a ticket was made for is proved dead: the ticket ends now."""
        ticket = self._rows.tickets.get(ticket_id)
        if ticket is not None and ticket.keeps:
            self._names.keeper_ended(ticket, now_ns)
        elif ticket is not None and not ticket.receiver_has_ended:
            self._rows.put(replace(ticket, receiver_has_ended=True, deadline_ns=min(ticket.deadline_ns, now_ns)))
            self._outbox.add(VoidToken(ticket_id))

    def restore(self, ticket: TicketRow) -> None:
        """Let `ticket` end when its time has come, or with its receiver."""
        if not ticket.keeps:
            self._timers.at(ticket.deadline_ns, "ticket", ticket.id)
        if ticket.receiver is not None and not ticket.receiver_has_ended:
            self._outbox.add(WatchReceiver(ticket.id, ticket.receiver))

    def _drop(self, ticket: TicketRow) -> None:
        self._rows.drop_ticket(ticket)
        if ticket.receiver is not None:
            self._outbox.add(UnwatchReceiver(ticket.id))

    def _remember(self, ticket: int, outcome: str) -> None:
        self._tombstones[ticket] = outcome
        if len(self._tombstones) > TOMBSTONES_KEPT:
            del self._tombstones[next(iter(self._tombstones))]

    def _due(self, ticket_id: int, now_ns: int) -> None:
        ticket = self._rows.tickets.get(ticket_id)
        if ticket is not None and ticket.deadline_ns <= now_ns:
            self._outbox.add(VoidToken(ticket_id))
