"""How segments are granted and how they end: the part of the lease table that every message leads to.

`Lifetimes` keeps the rows, the queue of those who wait for room, and the spares. On it stand, in this order, `Reports` (what
the shell finds out, and time), `Notices` and `Table` (what clients say and ask); nothing else calls these methods.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import CreateSegment, DropClient, Effect, RetireSegment, RevokeSpare, Send, Stop
from shmlease.core.model import (
    NUMBER_BITS,
    ClientState,
    EventKind,
    LeaseMode,
    LeaseRow,
    LeaseState,
    Mark,
    RegistryRow,
    SegmentEvent,
    SegmentRow,
    SegmentState,
    Snapshot,
    after,
    client_of,
)
from shmlease.core.refusals import Refusal, capacity_refusal, exists_refusal, not_held_refusal, reused_id_refusal
from shmlease.core.rows import Rows
from shmlease.core.waiting import AttachQueue, LeaseQueue, Waiter

__all__ = ["Lifetimes"]

# Lease ids with this bit are the registry's to give: those of spares.
SPARE_IDS: Final = 1 << (NUMBER_BITS - 1)
# A fresh segment is granted ahead only up to this size: its pages are not reserved, but its client may fill it at once.
FRESH_SPARE_BYTES: Final = 1024 * 1024
# How much is granted ahead to a client that takes one small segment after another. Each message that asks for more wakes the
# registry, which on a virtual machine costs as much as all the rest of handing over 4 KiB.
AHEAD_BYTES: Final = 4 * 1024 * 1024
# And at most this part of the capacity, so that others seldom have to wait until it is taken back.
AHEAD_SHARE: Final = 8
MOST_AHEAD: Final = 64
# Deadlines are looked through for stale ones when there are twice as many as mattered the last time, and not below this.
DEADLINES_KEPT: Final = 64
# A tombstone answers "who redeemed this"; there are as many as the event log has entries.
TOMBSTONES_KEPT: Final = 1024


class Lifetimes:
    """The rows, and what may happen to them."""

    def __init__(self, registry: RegistryRow, snapshot: Snapshot | None) -> None:
        self.rows = Rows(registry) if snapshot is None else Rows.of(registry, snapshot)
        self.effects: deque[Effect] = deque()
        self.counters: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.shm_free_bytes = 0
        self.descriptors_in_use = self.descriptors_limit = 0
        self._lease_queue = LeaseQueue()
        self._attach_queue = AttachQueue()
        self._creating: dict[int, Waiter[m.Lease] | int] = {}  # segment -> the request, or the client of a spare
        self._placing = False  # whether one of those is a request: the next has its turn when that one's file is made
        self._spares: defaultdict[int, set[int]] = defaultdict(set)  # client -> leases of its spares
        self._taken: set[int] = set()  # leases of spares that could not be revoked: the claim is on its way
        self._making: Counter[int] = Counter()  # client -> spares that are being made for it
        self._appetite: Counter[int] = Counter()  # client -> unnamed segments it has taken so far
        self._took_bytes: dict[int, int] = {}  # client -> size of what it took since `grant_ahead` was called
        self._retiring: dict[int, int] = {}  # segment -> bytes that its unlinking will free
        self._revoking: dict[int, int] = {}  # the same for spares that are being taken back
        self._deadlines: list[tuple[int, str, int]] = []
        self._deadlines_kept = DEADLINES_KEPT
        self._tombstones: dict[int, str] = {}
        self._owner_ended = registry.owner is None

    # --- granting ------------------------------------------------------------------------------------------------

    def _serve_leases(self, now_ns: int) -> None:
        """Grant what can be granted, in order of arrival; refuse what has waited long enough."""
        queue = self._lease_queue
        while True:
            while queue and not self._placing and queue.first().not_before_ns <= now_ns:
                if not self._place(queue.first(), now_ns):
                    break
            overdue = [w for w in queue.overdue(now_ns) if w is not queue.first() or not self._room_is_coming(w)]
            first_leaves = bool(overdue) and overdue[0] is queue.first()
            for waiter in overdue:
                queue.remove(waiter)
                refusal = capacity_refusal(self.rows, waiter, self.shm_free_bytes, now_ns)
                self._refuse(waiter.client, waiter.request.seq, refusal, now_ns)
            if not first_leaves:
                return

    def _place(self, waiter: Waiter[m.Lease], now_ns: int) -> bool:
        """Serve the first in line: True if it left the queue, False if room must be made, or come, first."""
        rows, request = self.rows, waiter.request
        if request.lease in rows.leases or (request.name is not None and request.name in rows.by_name):
            self._lease_queue.remove(waiter)
            taken = exists_refusal(rows, request.name) if request.name in rows.by_name else reused_id_refusal(request.lease)
            self._refuse(waiter.client, request.seq, taken, now_ns)
            return True
        warm = rows.warm.best_fit(request.size_bytes)
        if warm is not None:
            self._lease_queue.remove(waiter)
            self.counters["recycled"] += 1
            self._grant_writer(waiter, rows.segments[warm], SegmentEvent.REUSED, now_ns)
            return True
        missing = rows.used_bytes + request.size_bytes - rows.registry.capacity_bytes
        if missing <= 0:
            self._lease_queue.remove(waiter)
            self._placing = True  # /dev/shm may have no room for it: then it is first again, and nobody has overtaken it
            self._create(request.size_bytes, waiter)
            return True
        missing -= self._bytes_coming()
        for victim in rows.warm.evictions(missing):
            missing -= rows.segments[victim].size_bytes
            self._retire(rows.segments[victim])
        for spare in self._all_spares():
            if missing > 0 and spare.number not in self._revoking:
                missing -= spare.size_bytes
                self._revoke(spare)
        return False

    def _bytes_coming(self) -> int:
        """Bytes that effects under way will free."""
        return sum(self._retiring.values()) + sum(self._revoking.values())

    def _room_is_coming(self, waiter: Waiter[m.Lease]) -> bool:
        missing = self.rows.used_bytes + waiter.request.size_bytes - self.rows.registry.capacity_bytes
        coming = self._bytes_coming()
        return coming > 0 and missing <= coming

    def _create(self, size_bytes: int, wanted_by: Waiter[m.Lease] | int) -> None:
        number = self.rows.next_number(Mark.SEGMENT)
        name = wanted_by.request.name if isinstance(wanted_by, Waiter) else None
        self.rows.put(SegmentRow(number, 0, size_bytes, SegmentState.CREATING, name))
        self._creating[number] = wanted_by
        self.effects.append(CreateSegment(number, size_bytes))

    def _grant_writer(self, waiter: Waiter[m.Lease], segment: SegmentRow, event: SegmentEvent, now_ns: int) -> None:
        request = waiter.request
        if waiter.cancelled or request.lease in self.rows.leases:
            self._retire(segment)
            return
        segment = replace(
            segment, generation=segment.generation + 1, state=after(segment, event), name=request.name,
            nbytes=request.nbytes, layout=request.layout, creator=waiter.client, created_ns=now_ns, published_ns=0,
            site=request.site,
        )  # fmt: skip
        self.rows.put(segment)
        lease = self._add_lease(request.lease, segment, LeaseMode.WRITE, request.seq, request.site, request.due_ns, now_ns)
        self._note_peaks()
        self._send(waiter.client, granted(request.seq, lease, segment))
        if request.name is None:
            self._took(waiter.client, segment.size_bytes)

    def wants_to_grant_ahead(self) -> bool:
        """Whether a client took an unnamed segment since `grant_ahead` was last called."""
        return bool(self._took_bytes)

    def grant_ahead(self, now_ns: int, *, allowed: bool = True) -> None:
        """Set the next segments aside for clients that have just taken one, when that costs nobody anything."""
        took, self._took_bytes = self._took_bytes, {}
        if not allowed:  # what is granted ahead is claimed, published and sent on without a request that could be refused
            return
        for client, size_bytes in took.items():
            self._grant_ahead(client, size_bytes, now_ns)

    def _took(self, client: int, size_bytes: int) -> None:
        self._appetite[client] += 1
        self._took_bytes[client] = size_bytes

    def _grant_ahead(self, client: int, size_bytes: int, now_ns: int) -> None:
        """One at first, more for a client that goes on taking small ones."""
        rows = self.rows
        row = rows.clients.get(client)
        if self._lease_queue or rows.registry.closing or row is None or row.state is not ClientState.CONNECTED:
            return
        ahead_bytes = min(AHEAD_BYTES, rows.registry.capacity_bytes // AHEAD_SHARE)
        wanted = min(max(ahead_bytes // size_bytes, 1), MOST_AHEAD, self._appetite[client])
        for _ in range(wanted - len(self._spares[client]) - self._making[client]):
            warm = rows.warm.best_fit(size_bytes)
            if warm is not None:
                self._set_aside(client, rows.segments[warm], now_ns)
            elif size_bytes <= FRESH_SPARE_BYTES and rows.used_bytes + size_bytes <= rows.registry.capacity_bytes:
                self._making[client] += 1
                self._create(size_bytes, client)

    def _set_aside(self, client: int, segment: SegmentRow, now_ns: int) -> None:
        row = self.rows.clients.get(client)
        if row is None or row.state is ClientState.ENDED:
            self._retire(segment)
            return
        lease_id = client << NUMBER_BITS | SPARE_IDS | self.rows.next_number(Mark.SPARE)
        segment = replace(
            segment, generation=segment.generation + 1, state=after(segment, SegmentEvent.SET_ASIDE), creator=client,
            created_ns=now_ns,
        )  # fmt: skip
        self.rows.put(segment)
        lease = self._add_lease(lease_id, segment, LeaseMode.SPARE, 0, "", 0, now_ns)
        self._spares[client].add(lease.id)
        self._at(now_ns + self.rows.registry.warm_idle_ns, "warm", segment.number)
        self._note_peaks()
        self._send(client, spare_message(self.rows.applied.get(client, 0), lease, segment))

    def _add_lease(
        self, lease_id: int, segment: SegmentRow, mode: LeaseMode, seq: int, site: str, due_ns: int, now_ns: int
    ) -> LeaseRow:
        lease = LeaseRow(lease_id, segment.number, mode, LeaseState.HELD, now_ns, seq, site, due_ns)
        self.rows.put(lease)
        if mode is not LeaseMode.SPARE:
            self.counters["leases"] += 1
        self.peaks["leases"] = max(self.peaks["leases"], len(self.rows.leases))
        return lease

    # --- ending --------------------------------------------------------------------------------------------------

    def _end_lease(self, lease: LeaseRow, now_ns: int, *, tainted: bool = False) -> None:
        segment = self.rows.segments[lease.segment]
        self.rows.drop_lease(lease)
        if lease.mode is LeaseMode.SPARE:
            self._forget_spare(lease.id)
        elif segment.state is SegmentState.FILLING and not self.rows.leases_on.get(segment.number):
            self.counters["abandoned"] += 1
            self.rows.record(now_ns, EventKind.WRITER_ABANDONED, segment.number, lease.id, client_of(lease.id), lease.site)
        if tainted and not segment.tainted:
            self.rows.put(replace(segment, tainted=True))
        self._end_if_unused(lease.segment, now_ns)

    def _forget_spare(self, lease_id: int) -> None:
        self._spares[client_of(lease_id)].discard(lease_id)
        self._taken.discard(lease_id)

    def _end_if_unused(self, number: int, now_ns: int) -> None:
        rows = self.rows
        segment = rows.segments[number]
        if (
            rows.leases_on.get(number)
            or rows.tickets_on.get(number)
            or segment.readers_expected
            or segment.state is SegmentState.RETIRING
        ):
            return
        registry = rows.registry
        if (
            segment.tainted
            or segment.exposed
            or not segment.reserved
            or registry.closing
            or registry.warm_idle_ns == 0
            or segment.size_bytes > registry.warm_limit_bytes
        ):
            self._retire(segment)
            return
        rows.put(
            replace(
                segment, state=after(segment, SegmentEvent.POOLED), name=None, nbytes=0, layout=b"", site="",
                created_ns=now_ns, published_ns=0,
            )
        )  # fmt: skip
        for victim in rows.warm.evictions(rows.warm.total_bytes - registry.warm_limit_bytes):
            self._retire(rows.segments[victim])
        self._at(now_ns + registry.warm_idle_ns, "warm", number)
        self.peaks["warm bytes"] = max(self.peaks["warm bytes"], rows.warm.total_bytes)
        self._serve_leases(now_ns)

    def _retire(self, segment: SegmentRow) -> None:
        state = after(segment, SegmentEvent.RETIRED)
        self.rows.put(replace(segment, state=state, name=None))
        self._retiring[segment.number] = segment.size_bytes
        self.effects.append(RetireSegment(segment.number, segment.alias, punch=not segment.exposed))
        if segment.exposed:
            for client in self.rows.clients.values():
                if client.state is ClientState.CONNECTED:
                    self._send(client.id, m.Forget(segment.number))

    def _revoke(self, segment: SegmentRow) -> None:
        if segment.number not in self._revoking:
            self._revoking[segment.number] = segment.size_bytes
            (lease,) = self.rows.leases_on[segment.number]
            self.effects.append(RevokeSpare(segment.number, segment.generation, lease))

    def trim_warm(self) -> int:
        """Give back all that is only kept warm or granted ahead; the bytes that the warm segments take."""
        freed = self.rows.warm.total_bytes
        for number in list(self.rows.warm):
            self._retire(self.rows.segments[number])
        for spare in self._all_spares():
            self._revoke(spare)
        return freed

    def _all_spares(self) -> list[SegmentRow]:
        """The spares that can be revoked, for all that is known."""
        leases = self.rows.leases
        return [
            self.rows.segments[leases[spare].segment]
            for spares in self._spares.values()
            for spare in spares
            if spare not in self._taken
        ]

    def _client_ended(self, client: int, now_ns: int) -> None:
        rows = self.rows
        row = rows.clients[client]
        self._forget_waiters(client, now_ns)
        self._taken.difference_update(self._spares.pop(client, ()))
        self._making.pop(client, None)
        self._appetite.pop(client, None)
        rows.put(replace(row, state=ClientState.ENDED))
        rows.drop_client_if_unneeded(client)
        self.effects.append(DropClient(client))
        owner = rows.registry.owner
        if owner is not None and (owner.pid, owner.start_ticks) == (row.identity.pid, row.identity.start_ticks):
            self._owner_ended = not any(
                other.state is not ClientState.ENDED and other.identity == row.identity for other in rows.clients.values()
            )
        self._stop_if_unneeded()

    def _stop_if_unneeded(self) -> None:
        rows = self.rows
        if rows.registry.owner is None or not self._owner_ended or rows.tickets or self._expecting_readers():
            return
        if all(client.state is ClientState.ENDED for client in rows.clients.values()):
            self.effects.append(Stop())

    def _expecting_readers(self) -> bool:
        return any(segment.readers_expected for segment in self.rows.segments.values())

    def _forget_waiters(self, client: int, now_ns: int) -> None:
        self._lease_queue.forget(client)
        self._attach_queue.forget(client)
        for wanted_by in self._creating.values():
            if isinstance(wanted_by, Waiter) and wanted_by.client == client:
                wanted_by.cancelled = True
        self._serve_leases(now_ns)  # whoever stood behind may be next

    # --- small parts ---------------------------------------------------------------------------------------------

    def _send(self, client: int, message: m.RegistryMessage) -> None:
        self.effects.append(Send(client, message))

    def _refuse(self, client: int, seq: int, refusal: Refusal, now_ns: int) -> None:
        self.counters[f"refused: {refusal.code}"] += 1
        if refusal.recorded:
            self.rows.record(now_ns, EventKind.REQUEST_REFUSED, client=client, detail=refusal.message[:512])
        self._send(client, m.Refused(seq, refusal.code, refusal.message, refusal.facts))

    def _at(self, deadline_ns: int, kind: str, key: int) -> None:
        heapq.heappush(self._deadlines, (deadline_ns, kind, key))
        if len(self._deadlines) > self._deadlines_kept:
            self._drop_stale_deadlines()

    def _drop_stale_deadlines(self) -> None:
        """Forget deadlines of what has ended long before them: most tickets are redeemed at once."""
        rows = self.rows
        waiting = {w.deadline_ns for w in self._lease_queue} | {w.not_before_ns for w in self._lease_queue}
        attaching = {w.deadline_ns for w in self._attach_queue}
        matters: dict[str, Callable[[int, int], bool]] = {
            "ticket": lambda _, key: key in rows.tickets,
            "lease": lambda deadline_ns, _: deadline_ns in waiting,
            "attach": lambda deadline_ns, _: deadline_ns in attaching,
            "warm": lambda deadline_ns, key: (
                key in rows.segments and rows.segments[key].created_ns + rows.registry.warm_idle_ns == deadline_ns
            ),
            "readers": lambda deadline_ns, key: (
                key in rows.segments and rows.segments[key].readers_deadline_ns == deadline_ns
            ),
            "retire": lambda _, key: key in rows.segments,
        }
        kept = {entry for entry in self._deadlines if matters[entry[1]](entry[0], entry[2])}
        self._deadlines = list(kept)
        heapq.heapify(self._deadlines)
        self._deadlines_kept = max(2 * len(kept), DEADLINES_KEPT)

    def _bury(self, ticket: int, epitaph: str) -> None:
        self._tombstones[ticket] = epitaph
        if len(self._tombstones) > TOMBSTONES_KEPT:
            del self._tombstones[next(iter(self._tombstones))]

    def _held_by(self, client: int, lease_id: int, *, spare: bool = False) -> LeaseRow:
        lease = self.rows.leases.get(lease_id)
        if lease is None or client_of(lease_id) != client or (lease.mode is LeaseMode.SPARE and not spare):
            raise not_held_refusal(lease_id, "this client does not hold it")
        return lease

    def _require_own_id(self, client: int, identifier: int) -> None:
        if client_of(identifier) != client or identifier & SPARE_IDS:
            raise Refusal(m.RefusalCode.PROTOCOL, f"id {identifier:#x} is not for client {client} to choose", recorded=True)

    def _require_new_id(self, client: int, identifier: int) -> None:
        self._require_own_id(client, identifier)
        if identifier in self.rows.leases or identifier in self.rows.tickets:
            raise reused_id_refusal(identifier)

    def _require_free_name(self, name: str | None) -> None:
        if name is not None and name in self.rows.by_name:
            raise exists_refusal(self.rows, name)

    def _note_peaks(self) -> None:
        self.peaks["bytes"] = max(self.peaks["bytes"], self.rows.used_bytes)
        self.peaks["segments"] = max(self.peaks["segments"], len(self.rows.segments))


def granted(seq: int, lease: LeaseRow, segment: SegmentRow) -> m.Granted:
    """The answer that grants `lease`."""
    return m.Granted(seq, lease.id, segment.number, segment.generation, segment.size_bytes, not segment.reserved)


def spare_message(applied: int, lease: LeaseRow, segment: SegmentRow) -> m.Spare:
    """The message that grants `segment` ahead."""
    return m.Spare(applied, lease.id, segment.number, segment.generation, segment.size_bytes, not segment.reserved)
