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

from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import (
    LinkAlias,
    Stop,
)
from shmlease.core.lifetimes import granted, spare_message
from shmlease.core.model import (
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
    SegmentState,
    Snapshot,
    client_of,
)
from shmlease.core.notices import NOTICE_HANDLERS, Notices, attached
from shmlease.core.refusals import (
    Refusal,
    capacity_refusal,
    closing_refusal,
    not_found_refusal,
    not_held_refusal,
    ticket_refusal,
)
from shmlease.core.reports import SHORTAGE_RETRY_NS
from shmlease.core.room import file_size
from shmlease.core.rows import Rows
from shmlease.core.waiting import Waiter

__all__ = ["Table"]


class Table(Notices):
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
                "use the same version of shmlease on both sides",
            )
        if message.resume:
            row = self.rows.clients.get(message.resume)
            if row is None or row.secret != message.secret or not _is_of(row, identity):
                raise Refusal(m.RefusalCode.RESUME, f"there is no client {message.resume} that this process could resume")
            client = row.id
            self._forget_waiters(client, now_ns)
            known = row.identity if row.identity.pid else identity
            self.rows.put(replace(row, identity=known, state=ClientState.CONNECTED, since_ns=now_ns))
        else:
            if registry.closing:
                raise closing_refusal(registry)
            # a process that was welcomed and did not hear it says hello once more: it is no other client
            unheard = (
                row.id for row in self.rows.clients.values() if row.secret == message.secret and _is_of(row, identity)
            )
            client = next(unheard, 0) or self.rows.next_number(Mark.CLIENT)
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
        if self.rows.registry.closing:
            if not isinstance(message, m.NOTICES):
                self._refuse(client, message.seq, closing_refusal(self.rows.registry), now_ns)
            return
        if isinstance(message, m.NOTICES):
            if message.seq <= self.rows.applied.get(client, 0):
                return
            self.rows.put(AppliedRow(client, message.seq))
        self.counters["messages"] += 1
        try:
            _HANDLERS[type(message)](self, client, message, now_ns)
        except Refusal as refusal:
            self._refuse(client, message.seq, refusal, now_ns)

    def would_refuse(self, message: m.ClientMessage) -> bool:
        """Whether `message` asks for what is not there, and does not wait for it."""
        rows = self.rows
        if isinstance(message, m.Attach):
            number = rows.by_name.get(message.name)
            return message.timeout_ns == 0 and (number is None or rows.segments[number].state is not SegmentState.PUBLISHED)
        if isinstance(message, m.Lease):
            missing = rows.used_bytes + message.size_bytes > rows.registry.capacity_bytes
            return message.name in rows.by_name or (message.timeout_ns == 0 and missing)
        if isinstance(message, m.Inherit):
            parent = rows.leases.get(message.parent_lease)
            return parent is None or parent.mode is LeaseMode.SPARE
        return False

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
        if segment.state is not SegmentState.FILLING or len(self.rows.leases_on[segment.number]) > 1:
            raise not_held_refusal(lease.id, "only a fresh grant that nobody else has seen can be declined")
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
            self._send(client, attached(message.seq, held, rows.segments[held.segment]))
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

    def _inherit(self, client: int, message: m.Inherit, now_ns: int) -> None:
        self._require_own_id(client, message.lease)
        held = self.rows.leases.get(message.lease)
        if held is None:
            parent = self.rows.leases.get(message.parent_lease)
            if parent is None or parent.mode is LeaseMode.SPARE:
                raise not_held_refusal(message.parent_lease, "the process that it was inherited from has released it")
            segment = self.rows.segments[parent.segment]
            held = self._add_lease(message.lease, segment, parent.mode, message.seq, message.site, 0, now_ns)
        self._send(client, attached(message.seq, held, self.rows.segments[held.segment]))

    def _redeem(self, client: int, message: m.Redeem, now_ns: int) -> None:
        del client, now_ns
        raise ticket_refusal(message.ticket, self._tombstones.get(message.ticket))

    def _expose(self, client: int, message: m.Expose, now_ns: int) -> None:
        del now_ns
        segment = self.rows.segments[self._held_by(client, message.lease).segment]
        if not segment.alias:
            segment = replace(segment, alias=f"shmlease-{self.rows.registry.id}-{segment.number}", exposed=True)
            self.rows.put(segment)
        self.effects.append(LinkAlias(segment.number, segment.alias, client, message.seq))

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
                self.descriptors_in_use, self.descriptors_limit,
            ),
        )  # fmt: skip

    def _trim(self, client: int, message: m.Trim, now_ns: int) -> None:
        del now_ns
        self._send(client, m.Done(message.seq, self.trim_warm()))

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
        waiting += [(w.client, w.request.seq) for w in self._creating.values() if isinstance(w, Waiter)]
        for client, seq in waiting:
            self._refuse(client, seq, closing_refusal(rows.registry), now_ns)
        for segment in list(rows.segments.values()):
            if segment.state not in (SegmentState.CREATING, SegmentState.RETIRING):
                # a spare counts as held too: its claim may be on its way
                held = bool(rows.leases_on.get(segment.number))
                self._retire(replace(segment, exposed=segment.exposed or held))
        for lease in list(rows.leases.values()):
            rows.drop_lease(lease)
        for ticket in list(rows.tickets.values()):
            rows.drop_ticket(ticket)
        self._spares.clear()
        return holders

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


def _is_of(client: ClientRow, identity: Identity) -> bool:
    """Whether `client` is of that very process, and has not ended."""
    known = client.identity
    # seen from another pid namespace the same process has another pid, or none; its start time, or at least its secret, remains
    same_pid = known.pid == identity.pid or known.pid_namespace != identity.pid_namespace
    same_start = known.start_ticks == identity.start_ticks or 0 in {known.pid, identity.pid}
    return client.state is not ClientState.ENDED and same_pid and same_start


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
    **NOTICE_HANDLERS,
}
