"""Spares: segments granted ahead to a client that takes one unnamed segment after another.

A client claims a spare without a round trip: it locks the file, and its notice follows. Until the registry has read
that notice the spare can be asked back, and the lock decides who was first.

One spare a client keeps when it gives it back, and uses again without notices: `note_use` tells what it did with that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

from msgspec.structs import replace

from shmlease.core import answers
from shmlease.core import messages as m
from shmlease.core.effects import RevokeSpare
from shmlease.core.model import (
    NUMBER_BITS,
    ClientState,
    LeaseMode,
    LeaseRow,
    LeaseState,
    Mark,
    SegmentRow,
    SegmentState,
    client_of,
)
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.preconditions import SPARE_IDS, held_by
from shmlease.core.refusals import not_held_refusal
from shmlease.core.rows import Rows
from shmlease.core.timers import Timers
from shmlease.core.transitions import LeaseEvent, SegmentEvent
from shmlease.core.uses import Use

__all__ = ["Prefetch"]

# A fresh segment is granted ahead only up to this size: its pages are not reserved, but its client may fill it at once.
FRESH_SPARE_BYTES: Final = 1024 * 1024
# How much is granted ahead to a client that takes one small segment after another. Each message that asks for more wakes
# the registry, which on a virtual machine costs as much as all the rest of handing over 4 KiB: at 1 MiB, with four of them
# ahead instead of eight, it took a quarter more processor time.
AHEAD_BYTES: Final = 8 * 1024 * 1024
# And at most this part of the capacity, so that others seldom have to wait until it is taken back.
AHEAD_SHARE: Final = 8
MOST_AHEAD: Final = 64
_COUNTED: Final = (1 << 32) - 1  # uses are counted modulo one more


class Prefetch:
    """The spares of every client, and how many more it should have."""

    def __init__(self, rows: Rows, outbox: Outbox, timers: Timers, pool: Pool) -> None:
        self._rows = rows
        self._outbox = outbox
        self._timers = timers
        self._pool = pool
        self._spares: defaultdict[int, set[int]] = defaultdict(set)  # client -> leases of its spares
        self._claimed: set[int] = set()  # leases of spares that could not be revoked: the claim is on its way
        self._creating: dict[int, int] = {}  # segment that is being made -> client
        self._revoking: dict[int, int] = {}  # segment -> bytes that taking it back will free
        self._appetite: Counter[int] = Counter()  # client -> unnamed segments it has taken so far
        self._took_bytes: dict[int, int] = {}  # client -> size of what it took since `grant_ahead` was called
        self._uses: dict[int, Use | None] = {}  # client -> what was last noted; None if a predecessor may have noted more
        timers.handle("spare", self._spare_due, pool.still_idle)

    # --- granting ahead --------------------------------------------------------------------------------------------

    def note_taken(self, client: int, size_bytes: int) -> None:
        """`client` has taken an unnamed segment, and may soon want the next."""
        self._appetite[client] += 1
        self._took_bytes[client] = size_bytes

    @property
    def is_due(self) -> bool:
        """Whether a client took an unnamed segment since `grant_ahead` was last called."""
        return bool(self._took_bytes)

    def grant_ahead(self, now_ns: int, *, allowed: bool) -> None:
        """Set the next segments aside for clients that have just taken one, when that costs nobody anything."""
        took, self._took_bytes = self._took_bytes, {}
        if not allowed:  # what is granted ahead is claimed, published and sent on without a request that could be refused
            return
        for client, size_bytes in took.items():
            row = self._rows.clients.get(client)
            if row is not None and row.state is ClientState.CONNECTED:
                self._grant_to(client, size_bytes, now_ns)

    def _grant_to(self, client: int, size_bytes: int, now_ns: int) -> None:
        """One spare at first, more for a client that goes on taking small segments."""
        rows = self._rows
        capacity_bytes = rows.registry.capacity_bytes
        ahead_bytes = min(AHEAD_BYTES, capacity_bytes // AHEAD_SHARE)
        wanted = min(max(ahead_bytes // size_bytes, 1), MOST_AHEAD, self._appetite[client])
        being_made = sum(maker == client for maker in self._creating.values())
        for _ in range(wanted - len(self._spares[client]) - being_made):
            warm = rows.warm.best_fit(size_bytes)
            if warm is not None:
                self._set_aside(client, rows.segments[warm], now_ns)
            elif size_bytes <= FRESH_SPARE_BYTES and rows.used_bytes + size_bytes <= capacity_bytes:
                self._creating[self._pool.create(size_bytes, None)] = client

    def _set_aside(self, client: int, segment: SegmentRow, now_ns: int) -> None:
        row = self._rows.clients.get(client)
        if row is None or row.state is ClientState.ENDED:
            self._pool.retire(segment)
            return
        lease_id = client << NUMBER_BITS | SPARE_IDS | self._rows.next_number(Mark.SPARE)
        segment = self._rows.move_segment(
            segment, SegmentEvent.SET_ASIDE, generation=segment.generation + 1, creator=client, created_ns=now_ns
        )
        lease = LeaseRow(lease_id, segment.number, LeaseMode.WRITE, LeaseState.RESERVED, now_ns, 0)
        self._rows.put(lease)
        self._spares[client].add(lease_id)
        self._timers.at(now_ns + self._rows.registry.warm_idle_ns, "spare", segment.number)
        self._outbox.note_peaks()
        self._send(lease)

    def _send(self, lease: LeaseRow) -> None:
        client = client_of(lease.id)
        applied = self._rows.applied.get(client, 0)
        self._outbox.send(client, answers.spare(applied, lease, self._rows.segments[lease.segment]))

    # --- outcomes --------------------------------------------------------------------------------------------------

    def created(self, number: int, now_ns: int) -> bool:
        """The file of a segment was made; False if it is no spare."""
        client = self._creating.pop(number, None)
        if client is not None:
            self._set_aside(client, self._rows.segments[number], now_ns)
        return client is not None

    def failed(self, number: int) -> bool:
        """The file of a segment could not be made; False if it is no spare."""
        return self._creating.pop(number, None) is not None

    def revoked(self, effect: RevokeSpare, revoked: bool) -> None:
        """A spare was taken back (its file is unlinked), or its client has claimed it."""
        self._revoking.pop(effect.segment, None)
        lease = self._rows.leases.get(effect.lease)
        if lease is None or lease.state is not LeaseState.RESERVED:
            return
        if revoked:
            self.forget(lease.id)
            self._rows.move_lease(lease, LeaseEvent.ENDED)
            self._pool.retire(self._rows.segments[lease.segment])
        else:
            self._claimed.add(lease.id)

    # --- messages -------------------------------------------------------------------------------------------------

    def claim(self, client: int, message: m.Claim, now_ns: int) -> SegmentRow:
        """`client` has taken a spare; its segment as it is now.

        Raises
        ------
        Refusal
            It is no spare of this client's.
        """
        lease = held_by(self._rows, client, message.lease, spare=True)
        if message.again and lease.state is LeaseState.HELD:  # as was seen when it was looked at
            self._note_again(lease, message, now_ns)
            return self._rows.segments[lease.segment]
        if lease.state is not LeaseState.RESERVED:
            raise not_held_refusal(lease.id, "it is not a spare")
        if not message.again:
            self._outbox.counters["leases"] += 1
        return self._take(client, lease, message, now_ns)

    def _take(self, client: int, lease: LeaseRow, message: m.Claim, now_ns: int) -> SegmentRow:
        segment, interned = self._rows.segments[lease.segment], self._rows.interned
        site = interned.of(message.site)
        self.forget(lease.id)
        segment = self._rows.move_segment(
            segment,
            SegmentEvent.CLAIMED,
            nbytes=message.nbytes,
            layout=interned.of(message.layout),
            creator=client,
            created_ns=now_ns,
            site=site,
            reserved=True,  # its client has seen to that before it claimed it
        )
        self._rows.move_lease(lease, LeaseEvent.CLAIMED, granted_ns=now_ns, site=site, due_ns=message.due_ns)
        self.note_taken(client, segment.size_bytes)
        return segment

    def note_use(self, client: int, use: Use, now_ns: int) -> None:
        """`client` has used the spare that it keeps, perhaps many times; it is in use now, or is not."""
        before, counters = self._uses.get(client, Use(False, 0, 0, None)), self._outbox.counters
        self._uses[client] = use
        if before is not None:
            for figure, count in (("leases", use.begun - before.begun), ("abandoned", use.ended - before.ended)):
                if count:
                    counters[figure] += count & _COUNTED
        lease = None if use.claim is None else self._rows.leases.get(use.claim.lease)
        if use.claim is None or lease is None or client_of(lease.id) != client:
            return
        was_asked_back = lease.id in self._claimed
        self._claimed.discard(lease.id)
        if not use.is_held:
            self.keep(lease, now_ns)
            if was_asked_back and lease.state is LeaseState.RESERVED:  # for idleness perhaps, in a use that nobody has seen
                segment = self._rows.segments[lease.segment]
                self._rows.put(replace(segment, created_ns=now_ns))
                self._timers.at(now_ns + self._rows.registry.warm_idle_ns, "spare", segment.number)
        elif lease.state is LeaseState.RESERVED:
            self._take(client, lease, use.claim, now_ns)
        elif before is None or use.begun != before.begun:
            self._note_again(lease, use.claim, now_ns)

    def _note_again(self, lease: LeaseRow, claim: m.Claim, now_ns: int) -> None:
        """The spare `lease` was in use when it was looked at last, and is so anew."""
        segment, interned = self._rows.segments[lease.segment], self._rows.interned
        if not self._is_nobody_elses(lease):
            return
        site, layout = interned.of(claim.site), interned.of(claim.layout)
        self._rows.put(replace(segment, nbytes=claim.nbytes, layout=layout, created_ns=now_ns, site=site))
        self._rows.put(replace(lease, granted_ns=now_ns, site=site, due_ns=claim.due_ns))

    def keep(self, lease: LeaseRow, now_ns: int) -> None:
        """The use of the spare `lease` has ended, and its client keeps it: it can be revoked again."""
        if not self._is_nobody_elses(lease):
            return
        segment = self._rows.segments[lease.segment]
        self._rows.move_lease(lease, LeaseEvent.KEPT, granted_ns=now_ns, site="", due_ns=0)
        self._rows.move_segment(segment, SegmentEvent.KEPT, nbytes=0, layout=b"", site="", created_ns=now_ns)
        self._spares[client_of(lease.id)].add(lease.id)
        self._timers.at(now_ns + self._rows.registry.warm_idle_ns, "spare", segment.number)

    def _is_nobody_elses(self, lease: LeaseRow) -> bool:
        """Whether `lease` is that of a spare in use, which nobody but its client has ever had a part of."""
        segment = self._rows.segments[lease.segment]
        is_filled = lease.state is LeaseState.HELD and bool(lease.id & SPARE_IDS) and segment.state is SegmentState.FILLING
        is_shared = segment.exposed or segment.tainted or len(self._rows.leases_on[segment.number]) > 1
        return is_filled and not is_shared

    def resend(self, client: int) -> None:
        """Send the spares of `client` again: the first message may have been lost with the connection."""
        for lease_id in sorted(self._spares.get(client, ())):
            self._send(self._rows.leases[lease_id])

    # --- ending ----------------------------------------------------------------------------------------------------

    def forget(self, lease_id: int) -> None:
        """The spare of that lease is one no more."""
        self._spares[client_of(lease_id)].discard(lease_id)
        self._claimed.discard(lease_id)

    def client_ended(self, client: int) -> None:
        """Nothing more is granted ahead to `client`."""
        self._claimed.difference_update(self._spares.pop(client, ()))
        self._appetite.pop(client, None)
        self._uses.pop(client, None)

    def clear(self) -> None:
        """Forget all spares: the registry is closing."""
        self._spares.clear()

    def revoke_for(self, missing_bytes: int) -> None:
        """Ask for spares back until `missing_bytes` are free."""
        for segment in self._revocable():
            if missing_bytes <= 0:
                return
            if segment.number not in self._revoking:
                missing_bytes -= segment.size_bytes
                self._revoke(segment)

    def revoke_all(self) -> None:
        """Ask for all spares back."""
        for segment in self._revocable():
            self._revoke(segment)

    def bytes_coming(self) -> int:
        """Bytes that taking spares back will free."""
        return sum(self._revoking.values())

    def restore(self) -> None:
        """After a takeover: which leases are those of spares; what was used by then a predecessor may have counted."""
        rows = self._rows
        self._uses = dict.fromkeys(rows.clients)
        for lease in rows.leases.values():
            if lease.state is LeaseState.RESERVED:
                segment = rows.segments[lease.segment]
                self._spares[client_of(lease.id)].add(lease.id)
                self._timers.at(segment.created_ns + rows.registry.warm_idle_ns, "spare", segment.number)

    def _revocable(self) -> list[SegmentRow]:
        """The segments of spares that were not claimed, for all that is known."""
        leases = [lease for spares in self._spares.values() for lease in spares if lease not in self._claimed]
        return [self._rows.segments[self._rows.leases[lease].segment] for lease in leases]

    def _revoke(self, segment: SegmentRow) -> None:
        if segment.number not in self._revoking:
            self._revoking[segment.number] = segment.size_bytes
            (lease,) = self._rows.leases_on[segment.number]
            self._outbox.add(RevokeSpare(segment.number, segment.generation, lease))

    def _spare_due(self, number: int, now_ns: int) -> None:
        due_ns = self._pool.idle_until_ns(number)
        if due_ns is None or due_ns > now_ns or self._rows.segments[number].state is not SegmentState.RESERVED:
            return
        if self._claimed.isdisjoint(self._rows.leases_on[number]):
            self._revoke(self._rows.segments[number])
