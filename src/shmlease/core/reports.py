"""What the registry's shell finds out, and what comes due: the part of the lease table that no client asks for.

Effects that create, revoke, link, void and retire are answered here, and `tick` does what has come due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import (
    DropToken,
    LinkAlias,
    RetireSegment,
    RevokeSpare,
    VoidToken,
)
from shmlease.core.lifetimes import Lifetimes
from shmlease.core.model import (
    ClientState,
    EventKind,
    LeaseMode,
    SegmentEvent,
    SegmentState,
    client_of,
)
from shmlease.core.refusals import (
    Refusal,
    not_found_refusal,
)
from shmlease.core.waiting import Waiter

__all__ = ["SHORTAGE_RETRY_NS", "Reports"]

# How long to wait before trying again when /dev/shm itself is full: others' releases do not announce themselves.
SHORTAGE_RETRY_NS: Final = 20_000_000


class Reports(Lifetimes):
    """Outcomes of effects, and the passing of time."""

    # --- outcomes of effects ---------------------------------------------------------------------------------------

    def segment_created(self, number: int, now_ns: int) -> None:
        """The file of a segment exists, its pages not reserved yet."""
        segment = self.rows.segments[number]
        wanted_by = self._creating.pop(number)
        if self.rows.registry.closing:
            self._retire(segment)
            return
        if isinstance(wanted_by, Waiter):
            self._placing = False
            self._grant_writer(wanted_by, segment, SegmentEvent.CREATED, now_ns)
            self._serve_leases(now_ns)
        else:
            self._making[wanted_by] -= 1
            self._set_aside(wanted_by, segment, now_ns)
        self.counters["created"] += 1

    def segment_failed(self, number: int, reason: str, shm_free_bytes: int, now_ns: int) -> None:
        """The file could not be made: /dev/shm has no room. Warm segments go first, then the request waits."""
        self.shm_free_bytes = shm_free_bytes
        wanted_by = self._creating.pop(number)
        self.rows.drop_segment(self.rows.segments[number])
        if not isinstance(wanted_by, Waiter):
            self._making[wanted_by] -= 1
            return
        self._placing = False
        if wanted_by.cancelled:
            self._serve_leases(now_ns)
            return
        wanted_by.shortage = reason
        self._lease_queue.put_back(wanted_by)
        if self.rows.warm:
            for warm in self.rows.warm.evictions(wanted_by.request.size_bytes):
                self._retire(self.rows.segments[warm])
        else:
            wanted_by.not_before_ns = now_ns + SHORTAGE_RETRY_NS
            self._at(wanted_by.not_before_ns, "lease", 0)
            self._serve_leases(now_ns)

    def spare_revoked(self, effect: RevokeSpare, revoked: bool, now_ns: int) -> None:
        """A spare was taken back (its file is unlinked), or its client has claimed it."""
        self._revoking.pop(effect.segment, None)
        lease = self.rows.leases.get(effect.lease)
        if revoked and lease is not None:
            self._forget_spare(lease.id)
            self.rows.drop_lease(lease)
            self._retire(self.rows.segments[lease.segment])
        elif lease is not None and lease.mode is LeaseMode.SPARE:
            self._taken.add(lease.id)
        self._serve_leases(now_ns)

    def token_voided(self, ticket_id: int, claimed_by: int | None, now_ns: int) -> None:
        """An expired ticket cannot be redeemed any more, or had just been claimed by a client whose notice is to come."""
        ticket = self.rows.tickets.get(ticket_id)
        if ticket is None:
            return
        claimer = None if claimed_by is None else self.rows.clients.get(claimed_by)
        if claimer is not None and claimer.state is not ClientState.ENDED:
            self._at(now_ns + SHORTAGE_RETRY_NS, "ticket", ticket_id)
            return
        self.rows.drop_ticket(ticket)
        if claimed_by is not None:  # by one who died before it said so
            self.effects.append(DropToken(ticket_id, claimed_by))
        self._bury(ticket_id, "expired before it was redeemed")
        self.counters["tickets expired"] += 1
        self.rows.record(now_ns, EventKind.TICKET_EXPIRED, ticket.segment, 0, client_of(ticket_id), ticket.site)
        segment = self.rows.segments[ticket.segment]
        self.rows.put(replace(segment, tainted=True))
        self._end_if_unused(segment.number, now_ns)
        self._stop_if_unneeded()

    def segment_retired(self, number: int, failure: str, now_ns: int) -> None:
        """The file of a segment is gone, or could not be unlinked and is tried again."""
        self._retiring.pop(number, None)
        segment = self.rows.segments.get(number)
        if segment is None:
            return
        if failure:
            self.rows.record(now_ns, EventKind.RETIRE_FAILED, number, detail=failure)
            self._at(now_ns + 1_000_000_000, "retire", number)
            return
        self.counters["retired"] += 1
        self.rows.drop_segment(segment)
        self._serve_leases(now_ns)

    def segment_missing(self, number: int, now_ns: int) -> None:
        """Somebody removed the file of a live segment; whoever maps it keeps it."""
        segment = self.rows.segments.get(number)
        if segment is not None and segment.state is not SegmentState.RETIRING:
            self.rows.record(now_ns, EventKind.SEGMENT_MISSING, number, client=segment.creator, detail=segment.name or "")
            if segment.state is SegmentState.WARM:
                self._retire(segment)
            elif not segment.tainted:
                self.rows.put(replace(segment, tainted=True))

    def alias_linked(self, effect: LinkAlias, failure: str, now_ns: int) -> None:
        """The segment has its name in /dev/shm, or could not get it."""
        if failure:
            refusal = Refusal(m.RefusalCode.NOT_HELD, f"segment {effect.segment} cannot be named in /dev/shm: {failure}")
            self._refuse(effect.client, effect.seq, refusal, now_ns)
        else:
            self._send(effect.client, m.Exposed(effect.seq, effect.alias))

    # --- time ----------------------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do next; None if nothing is pending."""
        return self._deadlines[0][0] if self._deadlines else None

    def tick(self, now_ns: int) -> None:
        """Do what has come due."""
        due: list[tuple[str, int]] = []
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, kind, key = heapq.heappop(self._deadlines)
            due.append((kind, key))
        for kind, key in dict.fromkeys(due):
            _TIMERS[kind](self, key, now_ns)
        if due:
            self._stop_if_unneeded()

    def _lease_time(self, key: int, now_ns: int) -> None:
        del key
        self._serve_leases(now_ns)

    def _attach_time(self, key: int, now_ns: int) -> None:
        del key
        for waiter in self._attach_queue.take_overdue(now_ns):
            self._refuse(waiter.client, waiter.request.seq, not_found_refusal(self.rows, waiter, now_ns), now_ns)

    def _ticket_time(self, key: int, now_ns: int) -> None:
        ticket = self.rows.tickets.get(key)
        if ticket is not None and ticket.deadline_ns <= now_ns:
            self.effects.append(VoidToken(key))

    def _readers_time(self, key: int, now_ns: int) -> None:
        segment = self.rows.segments.get(key)
        if segment is None or not segment.readers_expected or segment.readers_deadline_ns > now_ns:
            return
        self.counters["readers expired"] += segment.readers_expected
        self.rows.record(
            now_ns,
            EventKind.READERS_EXPIRED,
            key,
            client=segment.creator,
            detail=f"{segment.readers_expected} never came",
        )
        self.rows.put(replace(segment, readers_expected=0, tainted=True))
        self._end_if_unused(key, now_ns)

    def _warm_time(self, key: int, now_ns: int) -> None:
        segment = self.rows.segments.get(key)
        idle_since = now_ns - self.rows.registry.warm_idle_ns
        if segment is None or segment.created_ns > idle_since:
            return
        if segment.state is SegmentState.WARM:
            self._retire(segment)
        elif segment.state is SegmentState.RESERVED and self.rows.leases_on[key].isdisjoint(self._taken):
            self._revoke(segment)

    def _retire_time(self, key: int, now_ns: int) -> None:
        del now_ns
        segment = self.rows.segments.get(key)
        if segment is not None and segment.state is SegmentState.RETIRING:
            self._retiring[key] = segment.size_bytes
            self.effects.append(RetireSegment(key, segment.alias, punch=not segment.exposed))


_TIMERS: Final[dict[str, Callable[[Reports, int, int], None]]] = {
    "lease": Reports._lease_time,
    "attach": Reports._attach_time,
    "ticket": Reports._ticket_time,
    "readers": Reports._readers_time,
    "warm": Reports._warm_time,
    "retire": Reports._retire_time,
}
