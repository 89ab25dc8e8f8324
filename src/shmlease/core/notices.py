"""Notices: what clients say that needs no answer.

Each is applied once, by its number; see `shmlease.core.table.Table.apply`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import (
    DropToken,
)
from shmlease.core.model import (
    EventKind,
    LeaseMode,
    LeaseRow,
    LeaseState,
    SegmentEvent,
    SegmentRow,
    SegmentState,
    TicketRow,
    after,
)
from shmlease.core.refusals import (
    not_held_refusal,
    reused_id_refusal,
    ticket_refusal,
)
from shmlease.core.reports import Reports

__all__ = ["NOTICE_HANDLERS", "Notices", "attached"]


class Notices(Reports):
    """What a client's notices do to the table."""

    def _claim(self, client: int, message: m.Claim, now_ns: int) -> None:
        lease = self._held_by(client, message.lease, spare=True)
        if lease.mode is not LeaseMode.SPARE:
            raise not_held_refusal(lease.id, "it is not a spare")
        segment = self.rows.segments[lease.segment]
        self._forget_spare(lease.id)
        self.rows.put(
            replace(
                segment, state=after(segment, SegmentEvent.CLAIMED), nbytes=message.nbytes, layout=message.layout,
                creator=client, created_ns=now_ns, site=message.site,
            )
        )  # fmt: skip
        self.rows.put(replace(lease, mode=LeaseMode.WRITE, granted_ns=now_ns, site=message.site, due_ns=message.due_ns))
        self.counters["leases"] += 1
        if message.published:
            self._publish_segment(segment.number, now_ns)
        self._took(client, segment.size_bytes)

    def _publish(self, client: int, message: m.Publish, now_ns: int) -> None:
        lease = self._held_by(client, message.lease)
        segment = self._publish_segment(lease.segment, now_ns)
        if message.readers:
            segment = replace(segment, readers_expected=message.readers, readers_deadline_ns=message.deadline_ns)
            self.rows.put(segment)
            self._at(message.deadline_ns, "readers", segment.number)  # after the row: a deadline that no row has is dropped
        if segment.name is not None:
            for waiter in self._attach_queue.take(segment.name):
                self._grant_reader(waiter.client, waiter.request, self.rows.segments[segment.number], now_ns)

    def _publish_segment(self, number: int, now_ns: int) -> SegmentRow:
        segment = self.rows.segments[number]
        if segment.state is SegmentState.FILLING:
            segment = replace(segment, state=after(segment, SegmentEvent.PUBLISHED), published_ns=now_ns, reserved=True)
            self.rows.put(segment)
            self.counters["published"] += 1
        return segment

    def _mint(self, client: int, message: m.Mint, now_ns: int) -> None:
        del now_ns
        lease = self._held_by(client, message.lease)
        self._require_new_id(client, message.ticket)
        segment = self.rows.segments[lease.segment]
        if segment.state is not SegmentState.PUBLISHED:
            raise not_held_refusal(lease.id, "a ticket needs a published segment")
        self.rows.put(TicketRow(message.ticket, segment.number, segment.generation, message.deadline_ns, message.site))
        self.counters["tickets"] += 1
        self._at(message.deadline_ns, "ticket", message.ticket)

    def _redeemed(self, client: int, message: m.Redeemed, now_ns: int) -> None:
        ticket = self.rows.tickets.get(message.ticket)
        if ticket is None:
            raise ticket_refusal(message.ticket, self._tombstones.get(message.ticket))
        self._require_new_id(client, message.lease)
        segment = self.rows.segments[ticket.segment]
        self._add_lease(message.lease, segment, LeaseMode.READ, message.seq, message.site, message.due_ns, now_ns)
        self.rows.drop_ticket(ticket)
        self._bury(ticket.id, f"was redeemed by pid {self.rows.clients[client].identity.pid}")
        self.effects.append(DropToken(ticket.id, client))

    def _linger(self, client: int, message: m.Linger, now_ns: int) -> None:
        lease = self._held_by(client, message.lease)
        if lease.state is LeaseState.LINGERING:
            return
        self.rows.put(replace(lease, state=LeaseState.LINGERING))
        self.rows.put(replace(self.rows.segments[lease.segment], tainted=True))
        self.counters["lingered"] += 1
        self.rows.record(now_ns, EventKind.VIEW_LINGERED, lease.segment, lease.id, client, lease.site)

    def _release(self, client: int, message: m.Release, now_ns: int) -> None:
        lease = self._held_by(client, message.lease, spare=True)
        if lease.state is LeaseState.LINGERING:
            self.rows.record(now_ns, EventKind.VIEW_DIED, lease.segment, lease.id, client, lease.site)
        self._end_lease(lease, now_ns)

    def _share(self, client: int, message: m.Share, now_ns: int) -> None:
        del now_ns
        segment = self.rows.segments[self._held_by(client, message.lease).segment]
        if not segment.exposed:
            self.rows.put(replace(segment, exposed=True))

    def _bye(self, client: int, message: m.Bye, now_ns: int) -> None:
        del message
        self._forget_waiters(client, now_ns)
        for lease_id in sorted(self.rows.leases_of.get(client, ())):
            lease = self.rows.leases[lease_id]
            if lease.mode is not LeaseMode.SPARE:  # the process lives, and may keep what it has mapped
                self.rows.put(replace(self.rows.segments[lease.segment], exposed=True))
            self._end_lease(lease, now_ns)
        self._client_ended(client, now_ns)

    def _grant_reader(self, client: int, message: m.Attach, segment: SegmentRow, now_ns: int) -> None:
        if message.lease in self.rows.leases:
            self._refuse(client, message.seq, reused_id_refusal(message.lease), now_ns)
            return
        if segment.readers_expected:
            segment = replace(segment, readers_expected=segment.readers_expected - 1)
            self.rows.put(segment)
        lease = self._add_lease(message.lease, segment, LeaseMode.READ, message.seq, message.site, message.due_ns, now_ns)
        self._send(client, attached(message.seq, lease, segment))


def attached(seq: int, lease: LeaseRow, segment: SegmentRow) -> m.Attached:
    writable = lease.mode is LeaseMode.WRITE and segment.state is SegmentState.FILLING
    return m.Attached(
        seq, lease.id, segment.number, segment.generation, segment.size_bytes, segment.nbytes, segment.layout,
        segment.name, writable,
    )  # fmt: skip


NOTICE_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    m.Claim: Notices._claim,
    m.Publish: Notices._publish,
    m.Mint: Notices._mint,
    m.Redeemed: Notices._redeemed,
    m.Linger: Notices._linger,
    m.Release: Notices._release,
    m.Share: Notices._share,
    m.Bye: Notices._bye,
}
