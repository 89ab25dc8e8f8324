"""Leases, from the grant to the end of the last one on a segment, which frees the segment."""

from __future__ import annotations

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.abandonments import Abandonments
from shmlease.core.model import EventKind, LeaseMode, LeaseRow, LeaseState, SegmentState, client_of
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.preconditions import held_by
from shmlease.core.prefetch import Prefetch
from shmlease.core.rows import Rows
from shmlease.core.transitions import LeaseEvent

__all__ = ["Leases"]


class Leases:
    """Adds and ends leases; a segment without a lease, a ticket or an expected reader is free."""

    def __init__(self, rows: Rows, outbox: Outbox, pool: Pool, prefetch: Prefetch, abandonments: Abandonments) -> None:
        self._rows = rows
        self._outbox = outbox
        self._pool = pool
        self._prefetch = prefetch
        self._abandonments = abandonments

    def add(self, lease_id: int, segment: int, mode: LeaseMode, seq: int, site: str, due_ns: int, now_ns: int) -> LeaseRow:
        """Grant a lease on `segment`."""
        site = self._rows.interned.of(site)
        lease = LeaseRow(lease_id, segment, mode, LeaseState.HELD, now_ns, seq, site, due_ns)
        self._rows.put(lease)
        self._outbox.counters["leases"] += 1
        self._outbox.note_peaks()
        return lease

    def end(self, lease: LeaseRow, now_ns: int, *, tainted: bool = False) -> None:
        """`lease` was released, or (`tainted`) its holder died."""
        rows = self._rows
        segment = rows.segments[lease.segment]
        rows.move_lease(lease, LeaseEvent.ENDED)
        if lease.state is LeaseState.RESERVED:
            self._prefetch.forget(lease.id)
        elif segment.state is SegmentState.FILLING and segment.number not in rows.leases_on:
            self._outbox.counters["abandoned"] += 1
            if segment.name is not None:  # else nobody can have waited for it
                rows.record(now_ns, EventKind.WRITER_ABANDONED, segment.number, lease.id, client_of(lease.id), lease.site)
            if lease.state is not LeaseState.LINGERING:  # then it was abandoned when it was released
                self._abandonments.note(segment, lease, now_ns, died=tainted)
        if tainted:
            self.taint(segment.number)
        self.free_if_unused(segment.number, now_ns)

    def linger(self, client: int, message: m.Linger, now_ns: int) -> None:
        """A lease was released while views of the array live: it is held until they die."""
        lease = held_by(self._rows, client, message.lease)
        if lease.state is not LeaseState.HELD:  # of one that is detached, arrays are alive in order
            return
        self._rows.move_lease(lease, LeaseEvent.LINGERED)
        segment = self._rows.segments[lease.segment]
        if segment.state is SegmentState.FILLING and lease.mode is LeaseMode.WRITE:
            self._abandonments.note(segment, lease, now_ns, died=False)
        self.taint(lease.segment)
        self._outbox.counters["lingered"] += 1
        self._rows.record(now_ns, EventKind.VIEW_LINGERED, lease.segment, lease.id, client, lease.site)

    def detach(self, client: int, message: m.Detach, now_ns: int) -> None:
        """The array carries the lease from now on: its holder releases it when the last view has died, in order."""
        del now_ns
        lease = held_by(self._rows, client, message.lease)
        if lease.state is LeaseState.HELD:
            self._rows.move_lease(lease, LeaseEvent.DETACHED)
            self._outbox.counters["detached"] += 1

    def release(self, client: int, message: m.Release, now_ns: int) -> None:
        """A lease was released, or the last view of one that lingered has died."""
        lease = held_by(self._rows, client, message.lease, spare=True)
        if lease.state is LeaseState.LINGERING:
            self._rows.record(now_ns, EventKind.VIEW_DIED, lease.segment, lease.id, client, lease.site)
        if message.was_kept:
            self._prefetch.keep(lease, now_ns)
            lease = self._rows.leases[lease.id]
        segment = self._rows.segments[lease.segment]
        if message.reserved and not segment.reserved:
            self._rows.put(replace(segment, reserved=True))
        self.end(lease, now_ns)

    def share(self, client: int, message: m.Share, now_ns: int) -> None:
        """The holder has forked: a process that the table does not know maps the segment."""
        del now_ns
        self.expose(held_by(self._rows, client, message.lease).segment)

    def taint(self, number: int) -> None:
        """A use of the segment ended otherwise than in order: it is never recycled."""
        segment = self._rows.segments[number]
        if not segment.tainted:
            self._rows.put(replace(segment, tainted=True))

    def expose(self, number: int) -> None:
        """Something that the table does not know may map the segment: it is not kept warm, its pages are never freed."""
        segment = self._rows.segments[number]
        if not segment.exposed:
            self._rows.put(replace(segment, exposed=True))

    def free_if_unused(self, number: int, now_ns: int) -> None:
        """Free the segment if nothing uses it any more."""
        rows = self._rows
        segment = rows.segments[number]
        used = number in rows.leases_on or number in rows.tickets_on or segment.readers_expected
        if not used and segment.state is not SegmentState.RETIRING:
            self._pool.keep_or_retire(segment, now_ns)
