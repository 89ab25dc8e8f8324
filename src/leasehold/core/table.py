"""The lease table: a state machine without I/O, clock or threads.

Rules:

* Everything that decides who may map what is here. `apply` takes one message of one client, the other methods take what
  the registry's shell found out (a holder died, a file was made, time passed); each returns nothing and adds to `effects`,
  which the shell carries out and answers.
* A command is checked whole before anything changes: a refused one leaves the table as it was.
* A segment ends when it has no lease, no ticket and no reader expected. It then goes warm, or, if it is tainted (something
  the table does not know may still map it), is unlinked and never used again.
* Notices are applied once, by their sequence number. Requests may arrive twice as well: each names the lease that it is
  for, and what was granted before is granted again.
* Requests that must wait do so in order of arrival; one that needs much is not overtaken by ones that need little.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from leasehold.core import messages as m
from leasehold.core.effects import (
    DropToken,
    LinkAlias,
    RetireSegment,
    RevokeSpare,
    Stop,
    VoidToken,
)
from leasehold.core.lifetimes import Lifetimes, granted, spare_message
from leasehold.core.model import (
    AppliedRow,
    ClientRow,
    ClientState,
    EventKind,
    Identity,
    LeaseMode,
    LeaseRow,
    LeaseState,
    Mark,
    RegistryRow,
    SegmentEvent,
    SegmentRow,
    SegmentState,
    Snapshot,
    TicketRow,
    after,
    client_of,
)
from leasehold.core.refusals import (
    Refusal,
    capacity_refusal,
    closing_refusal,
    not_found_refusal,
    not_held_refusal,
    reused_id_refusal,
    ticket_refusal,
)
from leasehold.core.room import file_size
from leasehold.core.rows import Rows
from leasehold.core.waiting import Waiter

__all__ = ["Table"]

# How long to wait before trying again when /dev/shm itself is full: others' releases do not announce themselves.
SHORTAGE_RETRY_NS: Final = 20_000_000


class Table(Lifetimes):
    """The lease table of one registry.

    Parameters
    ----------
    registry : RegistryRow
        Who serves the table, and its limits.
    snapshot : Snapshot, optional
        What a predecessor left: every client in it counts as detached until it resumes or is proved dead.
    now_ns : int
        The time, CLOCK_MONOTONIC.
    """

    def __init__(self, registry: RegistryRow, snapshot: Snapshot | None = None, now_ns: int = 0) -> None:
        super().__init__(registry, snapshot)
        self._started_ns = now_ns
        if snapshot is not None:
            self._restore(now_ns)

    # --- who is there --------------------------------------------------------------------------------------------

    def hello(self, message: m.Hello, identity: Identity, now_ns: int) -> int:
        """Admit a client, or let one resume; the client's id.

        Raises
        ------
        Refusal
            It speaks another protocol, names a client that is not it, or the registry is closing.
        """
        registry = self.rows.registry
        if message.protocol != m.PROTOCOL:
            raise Refusal(
                m.RefusalCode.PROTOCOL,
                f"client speaks protocol {message.protocol}, this registry {m.PROTOCOL}; "
                "use the same version of leasehold on both sides",
            )
        if message.resume:
            row = self.rows.clients.get(message.resume)
            if (
                row is None
                or row.state is ClientState.ENDED
                or row.secret != message.secret
                or (row.identity.pid, row.identity.start_ticks) != (identity.pid, identity.start_ticks)
            ):
                raise Refusal(m.RefusalCode.RESUME, f"there is no client {message.resume} that this process could resume")
            client = row.id
            self._forget_waiters(client, now_ns)
            self.rows.put(replace(row, state=ClientState.CONNECTED, since_ns=now_ns))
        else:
            if registry.closing:
                raise closing_refusal(registry)
            client = self.rows.next_number(Mark.CLIENT)
            self.rows.put(ClientRow(client, identity, message.secret, ClientState.CONNECTED, now_ns))
            self.counters["clients"] += 1
        applied = self.rows.applied.get(client, 0)
        self._send(
            client,
            m.Welcome(
                message.seq,
                client,
                applied,
                registry.id,
                registry.epoch,
                registry.identity.pid,
                registry.capacity_bytes,
            ),
        )
        for lease_id in sorted(self._spares.get(client, ())):  # told again: the first telling may not have been heard
            lease = self.rows.leases[lease_id]
            self._send(client, spare_message(applied, lease, self.rows.segments[lease.segment]))
        return client

    def detached(self, client: int, now_ns: int, reason: str = "") -> None:
        """The connection of `client` ended; its process is not proved dead, so its leases stay."""
        row = self.rows.clients.get(client)
        if row is None or row.state is not ClientState.CONNECTED:
            return
        self._forget_waiters(client, now_ns)
        self.rows.put(replace(row, state=ClientState.DETACHED, since_ns=now_ns))
        if reason:
            self.rows.record(now_ns, EventKind.CLIENT_DROPPED, client=client, detail=reason)

    def holder_died(self, client: int, now_ns: int) -> None:
        """The process of `client` is proved dead: everything it held ends, tainted."""
        row = self.rows.clients.get(client)
        if row is None or row.state is ClientState.ENDED:
            return
        for lease_id in sorted(self.rows.leases_of.get(client, ())):
            lease = self.rows.leases[lease_id]
            self.counters["reclaimed"] += 1
            self.rows.record(now_ns, EventKind.HOLDER_DIED, lease.segment, lease.id, client, row.identity.command)
            self._end_lease(lease, now_ns, tainted=True)
        self._client_ended(client, now_ns)

    def owner_ended(self, now_ns: int) -> None:
        """The process that the registry was started for has ended; it serves whoever is left, then stops."""
        del now_ns
        self._owner_ended = True
        self._stop_if_unneeded()

    def is_ended(self, client: int) -> bool:
        """Whether `client` is dead or gone."""
        row = self.rows.clients.get(client)
        return row is None or row.state is ClientState.ENDED

    # --- what clients say ----------------------------------------------------------------------------------------

    def knows_ticket(self, ticket: int) -> bool:
        """Whether `ticket` is live; if not, its sender's mail may not have been read yet."""
        return ticket in self.rows.tickets

    def apply(self, client: int, message: m.ClientMessage | m.Notice, now_ns: int) -> None:
        """Carry out one message of an admitted client, or refuse it."""
        if isinstance(message, m.NOTICES):
            if message.seq <= self.rows.applied.get(client, 0):
                return
            self.rows.put(AppliedRow(client, message.seq))
        self.counters["messages"] += 1
        try:
            _HANDLERS[type(message)](self, client, message, now_ns)
        except Refusal as refusal:
            self._refuse(client, message.seq, refusal, now_ns)

    def _lease(self, client: int, message: m.Lease, now_ns: int) -> None:
        rows = self.rows
        self._require_own_id(client, message.lease)
        held = rows.leases.get(message.lease)
        if held is not None:  # asked again after a takeover
            segment = rows.segments[held.segment]
            self._send(client, granted(message.seq, held, segment))
            return
        if rows.registry.closing:
            raise closing_refusal(rows.registry)
        self._require_free_name(message.name)
        # the client asks for whole pages; what it asks for is what is counted, so round here as well
        waiter = Waiter(
            client, replace(message, size_bytes=file_size(message.size_bytes)), now_ns, now_ns + message.timeout_ns
        )
        if waiter.request.size_bytes > rows.registry.capacity_bytes:
            raise capacity_refusal(rows, waiter, self.shm_free_bytes, now_ns)
        self._lease_queue.append(waiter)
        self._at(waiter.deadline_ns, "lease", 0)
        self.peaks["waiting"] = max(self.peaks["waiting"], len(self._lease_queue))
        self._serve_leases(now_ns)

    def _decline(self, client: int, message: m.Decline, now_ns: int) -> None:
        lease = self._held_by(client, message.lease)
        segment = self.rows.segments[lease.segment]
        if segment.state is not SegmentState.FILLING:
            raise not_held_refusal(lease.id, "only a fresh grant can be declined")
        request = m.Lease(
            message.seq, lease.id, segment.name, segment.size_bytes, segment.nbytes, segment.layout, lease.site,
            lease.due_ns, message.timeout_ns,
        )  # fmt: skip
        self.rows.drop_lease(lease)
        self._retire(segment)
        waiter = Waiter(client, request, now_ns, now_ns + message.timeout_ns, now_ns + SHORTAGE_RETRY_NS)
        self._lease_queue.put_back(waiter)
        self._at(waiter.not_before_ns, "lease", 0)
        self._at(waiter.deadline_ns, "lease", 0)

    def _attach(self, client: int, message: m.Attach, now_ns: int) -> None:
        rows = self.rows
        self._require_own_id(client, message.lease)
        held = rows.leases.get(message.lease)
        if held is not None:
            self._send(client, _attached(message.seq, held, rows.segments[held.segment]))
            return
        if rows.registry.closing:
            raise closing_refusal(rows.registry)
        number = rows.by_name.get(message.name)
        if number is not None and rows.segments[number].state is SegmentState.PUBLISHED:
            self._grant_reader(client, message, rows.segments[number], now_ns)
            return
        waiter = Waiter(client, message, now_ns, now_ns + message.timeout_ns)
        if message.timeout_ns == 0:
            raise not_found_refusal(rows, waiter, now_ns)
        self._attach_queue.append(waiter)
        self._at(waiter.deadline_ns, "attach", 0)

    def _grant_reader(self, client: int, message: m.Attach, segment: SegmentRow, now_ns: int) -> None:
        if message.lease in self.rows.leases:
            self._refuse(client, message.seq, reused_id_refusal(message.lease), now_ns)
            return
        if segment.readers_expected:
            segment = replace(segment, readers_expected=segment.readers_expected - 1)
            self.rows.put(segment)
        lease = self._add_lease(message.lease, segment, LeaseMode.READ, message.seq, message.site, message.due_ns, now_ns)
        self._send(client, _attached(message.seq, lease, segment))

    def _inherit(self, client: int, message: m.Inherit, now_ns: int) -> None:
        self._require_own_id(client, message.lease)
        held = self.rows.leases.get(message.lease)
        if held is None:
            parent = self.rows.leases.get(message.parent_lease)
            if parent is None or parent.mode is LeaseMode.SPARE:
                raise not_held_refusal(message.parent_lease, "the process that it was inherited from has released it")
            segment = self.rows.segments[parent.segment]
            held = self._add_lease(message.lease, segment, parent.mode, message.seq, message.site, 0, now_ns)
        self._send(client, _attached(message.seq, held, self.rows.segments[held.segment]))

    def _redeem(self, client: int, message: m.Redeem, now_ns: int) -> None:
        del client, now_ns
        raise ticket_refusal(message.ticket, self._tombstones.get(message.ticket))

    def _expose(self, client: int, message: m.Expose, now_ns: int) -> None:
        del now_ns
        segment = self.rows.segments[self._held_by(client, message.lease).segment]
        if not segment.alias:
            segment = replace(segment, alias=f"lh-{self.rows.registry.id}-{segment.number}", exposed=True)
            self.rows.put(segment)
        self.effects.append(LinkAlias(segment.number, segment.alias, client, message.seq))

    def alias_linked(self, effect: LinkAlias, failure: str, now_ns: int) -> None:
        """The segment has its name in /dev/shm, or could not get it."""
        if failure:
            refusal = Refusal(m.RefusalCode.NOT_HELD, f"segment {effect.segment} cannot be named in /dev/shm: {failure}")
            self._refuse(effect.client, effect.seq, refusal, now_ns)
        else:
            self._send(effect.client, m.Exposed(effect.seq, effect.alias))

    def _statistics(self, client: int, message: m.Statistics, now_ns: int) -> None:
        rows = self.rows
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for segment in rows.segments.values():
            counts[segment.state] += 1
            sizes[segment.state] += segment.size_bytes
        leases = Counter(str(lease.mode) for lease in rows.leases.values())
        leases["lingering"] = sum(lease.state is LeaseState.LINGERING for lease in rows.leases.values())
        self._send(
            client,
            m.Figures(
                message.seq, rows.registry.capacity_bytes, self.shm_free_bytes, rows.registry.epoch,
                now_ns - self._started_ns, sum(c.state is not ClientState.ENDED for c in rows.clients.values()),
                len(rows.tickets), len(self._lease_queue) + len(self._attach_queue),
                dict(counts), dict(sizes), dict(leases), dict(self.counters), dict(self.peaks),
            ),
        )  # fmt: skip

    def _trim(self, client: int, message: m.Trim, now_ns: int) -> None:
        self._send(client, m.Done(message.seq, self._trim_warm(now_ns)))

    def _ping(self, client: int, message: m.Ping, now_ns: int) -> None:
        del now_ns
        self._send(client, m.Done(message.seq))

    def _close(self, client: int, message: m.Close, now_ns: int) -> None:
        owner, asking = self.rows.registry.owner, self.rows.clients[client].identity
        if owner is not None and (owner.pid, owner.start_ticks) != (asking.pid, asking.start_ticks):
            raise Refusal(
                m.RefusalCode.PERMISSION,
                f"registry {self.rows.registry.id} belongs to pid {owner.pid}; pid {asking.pid} cannot close it",
            )
        holders = self.close(now_ns)
        self._send(client, m.Closed(message.seq, holders))
        self.effects.append(Stop())

    def close(self, now_ns: int) -> list[str]:
        """Refuse everything new and give all names and memory back; who still holds a lease, in words."""
        rows = self.rows
        holders = [_holder_in_words(rows, lease) for lease in rows.leases.values() if lease.mode is not LeaseMode.SPARE]
        rows.put(replace(rows.registry, closing=True))
        if holders:
            rows.record(now_ns, EventKind.CLOSED_WITH_HOLDERS, detail="; ".join(holders)[:512])
        waiting = [(w.client, w.request.seq) for w in self._lease_queue.drain()]
        waiting += [(w.client, w.request.seq) for w in self._attach_queue.drain()]
        for client, seq in waiting:
            self._refuse(client, seq, closing_refusal(rows.registry), now_ns)
        for segment in list(rows.segments.values()):
            if segment.state is not SegmentState.RETIRING:
                # a spare counts as held too: its claim may be on its way
                held = bool(rows.leases_on.get(segment.number))
                self._retire(replace(segment, exposed=segment.exposed or held))
        return holders

    # --- notices -------------------------------------------------------------------------------------------------

    def _claim(self, client: int, message: m.Claim, now_ns: int) -> None:
        lease = self._held_by(client, message.lease)
        if lease.mode is not LeaseMode.SPARE:
            raise not_held_refusal(lease.id, "it is not a spare")
        segment = self.rows.segments[lease.segment]
        self._spares[client].discard(lease.id)
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
            self._at(message.deadline_ns, "readers", segment.number)
            self.rows.put(segment)
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
        lease = self._held_by(client, message.lease)
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

    # --- what the shell found out --------------------------------------------------------------------------------

    def segment_created(self, number: int, now_ns: int) -> None:
        """The file of a segment exists, its pages not reserved yet."""
        segment = self.rows.segments[number]
        wanted_by = self._creating.pop(number)
        if isinstance(wanted_by, Waiter):
            self._grant_writer(wanted_by, segment, SegmentEvent.CREATED, now_ns)
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
        if wanted_by.cancelled:
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
            self._spares[client_of(lease.id)].discard(lease.id)
            self.rows.drop_lease(lease)
            self._retire(self.rows.segments[lease.segment])
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
        elif segment.state is SegmentState.RESERVED:
            self._revoke(segment)

    def _retire_time(self, key: int, now_ns: int) -> None:
        del now_ns
        segment = self.rows.segments.get(key)
        if segment is not None and segment.state is SegmentState.RETIRING:
            self._retiring[key] = segment.size_bytes
            self.effects.append(RetireSegment(key, segment.alias, punch=not segment.exposed))

    def _restore(self, now_ns: int) -> None:
        rows = self.rows
        for client in list(rows.clients.values()):
            if client.state is ClientState.CONNECTED:
                rows.put(replace(client, state=ClientState.DETACHED, since_ns=now_ns))
        for lease in rows.leases.values():
            if lease.mode is LeaseMode.SPARE:
                self._spares[client_of(lease.id)].add(lease.id)
        for ticket in rows.tickets.values():
            self._at(ticket.deadline_ns, "ticket", ticket.id)
        for segment in list(rows.segments.values()):
            match segment.state:
                case SegmentState.RETIRING:
                    self._at(now_ns, "retire", segment.number)
                case SegmentState.CREATING:
                    self._retire(segment)
                case SegmentState.WARM | SegmentState.RESERVED:
                    self._at(segment.created_ns + rows.registry.warm_idle_ns, "warm", segment.number)
                case _ if segment.readers_expected:
                    self._at(segment.readers_deadline_ns, "readers", segment.number)
        rows.record(now_ns, EventKind.TAKEOVER, detail=f"epoch {rows.registry.epoch}, pid {rows.registry.identity.pid}")
        self.counters["takeovers"] += 1


def _attached(seq: int, lease: LeaseRow, segment: SegmentRow) -> m.Attached:
    writable = lease.mode is LeaseMode.WRITE and segment.state is SegmentState.FILLING
    return m.Attached(
        seq, lease.id, segment.number, segment.generation, segment.size_bytes, segment.nbytes, segment.layout,
        segment.name, writable,
    )  # fmt: skip


def _holder_in_words(rows: Rows, lease: LeaseRow) -> str:
    client = rows.clients.get(client_of(lease.id))
    who = "a client that is gone" if client is None else f"pid {client.identity.pid}"
    segment = rows.segments[lease.segment]
    what = f"{segment.name!r}" if segment.name else f"segment {segment.number}"
    return f"{who} holds {what}" + (f" (lease taken at {lease.site})" if lease.site else "")


_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    m.Lease: Table._lease,
    m.Decline: Table._decline,
    m.Attach: Table._attach,
    m.Inherit: Table._inherit,
    m.Redeem: Table._redeem,
    m.Expose: Table._expose,
    m.Statistics: Table._statistics,
    m.Trim: Table._trim,
    m.Ping: Table._ping,
    m.Close: Table._close,
    m.Claim: Table._claim,
    m.Publish: Table._publish,
    m.Mint: Table._mint,
    m.Redeemed: Table._redeemed,
    m.Linger: Table._linger,
    m.Release: Table._release,
    m.Share: Table._share,
    m.Bye: Table._bye,
}
_TIMERS: Final[dict[str, Callable[[Table, int, int], None]]] = {
    "lease": Table._lease_time,
    "attach": Table._attach_time,
    "ticket": Table._ticket_time,
    "readers": Table._readers_time,
    "warm": Table._warm_time,
    "retire": Table._retire_time,
}
