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

The table is made of parts that each own their state: `Pool` the files, `Prefetch` the spares, `Leases`, `Grants` those who wait
for a new segment, `Readers` those who attach, `Tickets`, `Clients`. Rows, outbox and timers are common to all. Every command
ends with `_finish`: what has become free is granted to those who wait.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.clients import Clients
from shmlease.core.effects import Effect, LinkAlias, RevokeSpare, Stop
from shmlease.core.grants import Grants
from shmlease.core.leases import Leases
from shmlease.core.limits import Limits, is_better, shortfalls
from shmlease.core.model import (
    AppliedRow,
    ClientState,
    EventKind,
    Identity,
    LeaseRow,
    LeaseState,
    RegistryRow,
    SegmentState,
    Snapshot,
    client_of,
)
from shmlease.core.os_names import os_name_of
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.prefetch import Prefetch
from shmlease.core.readers import Readers
from shmlease.core.refusals import Refusal, closing_refusal, not_held_refusal
from shmlease.core.requirements import held_by
from shmlease.core.rows import Rows
from shmlease.core.tickets import Tickets
from shmlease.core.timers import Timers
from shmlease.core.transitions import LeaseEvent

__all__ = ["IDLE_NS", "Table"]

# A registry that nobody has asked for ends when it has had no client, lease or ticket for so long: a program that is started
# again and again meets it, and it is gone before anybody wonders what it is.
IDLE_NS: Final = 60_000_000_000


class Table:
    """The lease table of one registry.

    Parameters
    ----------
    registry : RegistryRow
        Who serves the table, and its limits.
    snapshot : Snapshot, optional
        What a predecessor left: every client in it counts as detached until it resumes or is proved dead.
    now_ns : int
        The time, CLOCK_MONOTONIC.
    inherited : str
        What else is known of how the predecessor ended, for the event log.
    """

    def __init__(
        self, registry: RegistryRow, snapshot: Snapshot | None = None, now_ns: int = 0, inherited: str = ""
    ) -> None:
        self.rows = Rows(registry) if snapshot is None else Rows.of(registry, snapshot)
        self._outbox = Outbox(self.rows)
        self._timers = Timers()
        self._pool = Pool(self.rows, self._outbox, self._timers)
        self._prefetch = Prefetch(self.rows, self._outbox, self._timers, self._pool)
        self._leases = Leases(self.rows, self._outbox, self._pool, self._prefetch)
        self._grants = Grants(self.rows, self._outbox, self._timers, self._pool, self._prefetch, self._leases)
        self._readers = Readers(self.rows, self._outbox, self._timers, self._leases)
        self._tickets = Tickets(self.rows, self._outbox, self._timers, self._leases)
        self._clients = Clients(self.rows, self._outbox, self._leases, self._prefetch, self._forget_requests)
        self._handlers: dict[type, Callable[..., None]] = {
            m.Lease: self._grants.lease,
            m.Decline: self._grants.decline,
            m.Attach: self._readers.attach,
            m.Inherit: self._readers.inherit,
            m.Publish: self._readers.publish,
            m.Mint: self._tickets.mint,
            m.Redeem: self._tickets.redeem,
            m.Redeemed: self._tickets.redeemed,
            m.Linger: self._leases.linger,
            m.Release: self._leases.release,
            m.Share: self._leases.share,
            m.Claim: self._claim,
            m.Expose: self._expose,
            m.Statistics: self._statistics,
            m.Trim: self._trim,
            m.Ping: self._ping,
            m.Close: self._close,
            m.Bye: self._clients.bye,
        }
        self.descriptors_in_use = self.descriptors_limit = 0  # as the shell last counted them
        self._started_ns = now_ns
        self._idle_since_ns: int | None = None
        self._timers.handle("idle", None, lambda entries: entries if self._idle_since_ns is not None else set())
        self._stopping = False
        if snapshot is not None:
            self._restore(now_ns, inherited)

    @property
    def effects(self) -> deque[Effect]:
        """What the shell is to carry out, in this order."""
        return self._outbox.effects

    @property
    def counters(self) -> Counter[str]:
        """What has happened since this registry process began."""
        return self._outbox.counters

    @property
    def shm_free_bytes(self) -> int:
        """What /dev/shm has left beside what is promised, as the shell last saw it."""
        return self._pool.shm_free_bytes

    @shm_free_bytes.setter
    def shm_free_bytes(self, value: int) -> None:
        self._pool.shm_free_bytes = value

    # --- who is there --------------------------------------------------------------------------------------------

    def hello(self, message: m.Hello, identity: Identity, now_ns: int) -> int:
        """Admit a client, or let one resume; the client's id.

        Raises
        ------
        Refusal
            It speaks another protocol, names a client that is not it, or the registry is closing.
        """
        client = self._clients.hello(message, identity, now_ns)
        self._finish(now_ns)
        return client

    def hands_over_to(self, limits: Limits | None, identity: Identity, now_ns: int) -> bool:
        """Whether the process that may use `limits` is to start a better registry than this one; that is then recorded."""
        registry = self.rows.registry
        if limits is None or registry.limits is None or registry.wanted is None or registry.closing:
            return False
        if not is_better(limits, registry.limits, registry.wanted):
            return False
        lacked = shortfalls(registry.limits, registry.wanted)
        detail = f"to pid {identity.pid}, for this process had {lacked}"
        self.rows.record(now_ns, EventKind.HANDED_OVER, detail=detail)
        return True

    def makes_way_for(self, identity: Identity, now_ns: int) -> bool:
        """Whether the process that its user has started to serve may go on in this one's place; that is then recorded."""
        registry = self.rows.registry
        if registry.closing or not registry.ends_when_idle:
            return False
        self.rows.record(now_ns, EventKind.HANDED_OVER, detail=f"to pid {identity.pid}, which was started to serve")
        return True

    def detached(self, client: int, now_ns: int, reason: str = "") -> None:
        """The connection of `client` ended; its process is not proved dead, so its leases stay."""
        self._clients.detached(client, now_ns, reason)
        self._finish(now_ns)

    def holder_died(self, client: int, now_ns: int) -> None:
        """The process of `client` is proved dead: everything it held ends, tainted."""
        self._clients.died(client, now_ns)
        self._finish(now_ns)

    def owner_ended(self, now_ns: int) -> None:
        """The process that the registry was started for has ended; it serves whoever is left, then stops."""
        self._clients.owner_has_ended = True
        self._finish(now_ns)

    def is_ended(self, client: int) -> bool:
        """Whether `client` is dead or gone."""
        return self._clients.has_ended(client)

    # --- what clients say ----------------------------------------------------------------------------------------

    def knows_ticket(self, ticket: int) -> bool:
        """Whether `ticket` is live; if not, its sender's notices may not have been read yet."""
        return ticket in self.rows.tickets

    def apply(self, client: int, message: m.ClientMessage | m.Notice, now_ns: int) -> None:
        """Carry out one message of an admitted client, or refuse it."""
        is_notice = isinstance(message, m.NOTICES)
        if self.rows.registry.closing:
            if not is_notice:
                self._outbox.refuse(client, message.seq, closing_refusal(self.rows.registry), now_ns)
            return
        if is_notice:
            if message.seq <= self.rows.applied.get(client, 0):
                return
            self.rows.put(AppliedRow(client, message.seq))
        self.counters["messages"] += 1
        try:
            self._handlers[type(message)](client, message, now_ns)
        except Refusal as refusal:
            self._outbox.refuse(client, message.seq, refusal, now_ns)
        self._finish(now_ns)

    def give_up_on(self, client: int, message: m.ClientMessage | m.Notice, refusal: Refusal, now_ns: int) -> None:
        """Do not apply `message`, which registries die of; what it was granted before, if anything, ends."""
        if isinstance(message, m.NOTICES):
            if message.seq <= self.rows.applied.get(client, 0):
                return
            self.rows.put(AppliedRow(client, message.seq))
        elif isinstance(message, m.Lease | m.Attach | m.Inherit | m.Decline):
            lease = self.rows.leases.get(message.lease)
            if lease is not None and client_of(lease.id) == client:
                self._leases.end(lease, now_ns, tainted=True)
        self._outbox.refuse(client, message.seq, refusal, now_ns)

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
            return parent is None or parent.state is LeaseState.RESERVED
        return False

    def _expose(self, client: int, message: m.Expose, now_ns: int) -> None:
        del now_ns
        segment = self.rows.segments[held_by(self.rows, client, message.lease).segment]
        if not segment.alias:
            segment = replace(segment, alias=os_name_of(segment, self.rows.registry), exposed=True)
            self.rows.put(segment)
        self._outbox.add(LinkAlias(segment.number, segment.alias, client, message.seq))

    def _statistics(self, client: int, message: m.Statistics, now_ns: int) -> None:
        rows = self.rows
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for segment in rows.segments.values():
            counts[segment.state] += 1
            sizes[segment.state] += segment.size_bytes
        figures = m.Figures(
            message.seq,
            rows.registry.capacity_bytes,
            self.shm_free_bytes,
            rows.registry.epoch,
            now_ns - self._started_ns,
            sum(row.state is not ClientState.ENDED for row in rows.clients.values()),
            len(rows.tickets),
            len(self._grants) + len(self._readers),
            dict(counts),
            dict(sizes),
            _count_leases(rows),
            dict(self._outbox.counters),
            dict(self._outbox.peaks),
            self.descriptors_in_use,
            self.descriptors_limit,
        )
        self._outbox.send(client, figures)

    def _trim(self, client: int, message: m.Trim, now_ns: int) -> None:
        del now_ns
        self._outbox.send(client, m.Done(message.seq, self.trim_warm()))

    def _ping(self, client: int, message: m.Ping, now_ns: int) -> None:
        del now_ns
        self._outbox.send(client, m.Done(message.seq))

    def _close(self, client: int, message: m.Close, now_ns: int) -> None:
        owner, asking = self.rows.registry.owner, self.rows.clients[client].identity
        if owner is not None and not owner.may_be(asking):
            raise Refusal(
                m.RefusalCode.PERMISSION,
                f"registry {self.rows.registry.id} belongs to pid {owner.pid}; pid {asking.pid} cannot close it",
            )
        holders = self.close(now_ns)
        self._outbox.send(client, m.Closed(message.seq, holders))
        self._stop()

    def _claim(self, client: int, message: m.Claim, now_ns: int) -> None:
        lease = held_by(self.rows, client, message.lease, spare=True)
        if lease.state is not LeaseState.RESERVED:
            raise not_held_refusal(lease.id, "it is not a spare")
        segment = self._prefetch.claim(client, lease, message, now_ns)
        if message.published:
            self._readers.publish_segment(segment, now_ns)

    # --- what the shell reports of effects -------------------------------------------------------------------------

    def segment_created(self, number: int, now_ns: int) -> None:
        """The file of a segment exists, its pages not reserved yet."""
        if self.rows.registry.closing:
            self._pool.retire(self.rows.segments[number])
            return
        if not self._prefetch.created(number, now_ns):
            self._grants.created(number, now_ns)
        self.counters["created"] += 1
        self._finish(now_ns)

    def segment_failed(self, number: int, reason: str, shm_free_bytes: int, now_ns: int, *, passes: bool = True) -> None:
        """The file could not be made: /dev/shm has no room, or, if that does not pass, another `reason`."""
        self.shm_free_bytes = shm_free_bytes
        self._pool.failed(number)
        if not self._prefetch.failed(number):
            self._grants.failed(number, reason, now_ns, passes=passes)
        self._finish(now_ns)

    def spare_revoked(self, effect: RevokeSpare, revoked: bool, now_ns: int) -> None:
        """A spare was taken back (its file is unlinked), or its client has claimed it."""
        self._prefetch.revoked(effect, revoked)
        self._finish(now_ns)

    def token_voided(self, ticket: int, claimed_by: int | None, now_ns: int) -> None:
        """An expired ticket cannot be redeemed any more, or had just been claimed by a client whose notice is to come."""
        self._tickets.voided(ticket, claimed_by, now_ns)
        self._finish(now_ns)

    def redeemer_ended(self, ticket: int, client: int, now_ns: int) -> None:
        """Who had claimed the token of a live ticket has ended before it said so."""
        self._tickets.redeemer_ended(ticket, client, now_ns)
        self._finish(now_ns)

    def segment_retired(self, number: int, failure: str, now_ns: int) -> None:
        """The file of a segment is gone, or could not be unlinked and is tried again."""
        self._pool.retired(number, failure, now_ns)
        self._finish(now_ns)

    def segment_missing(self, number: int, now_ns: int) -> None:
        """Somebody removed the file of a live segment; whoever maps it keeps it."""
        segment = self.rows.segments.get(number)
        if segment is not None and segment.state is not SegmentState.RETIRING:
            self.rows.record(now_ns, EventKind.SEGMENT_MISSING, number, client=segment.creator, detail=segment.name or "")
            if segment.state is SegmentState.WARM:
                self._pool.retire(segment)
            else:
                self._leases.taint(number)

    def alias_linked(self, effect: LinkAlias, failure: str, now_ns: int) -> None:
        """The segment has its name in /dev/shm, or could not get it."""
        if failure:
            refusal = Refusal(m.RefusalCode.NOT_HELD, f"segment {effect.segment} cannot be named in /dev/shm: {failure}")
            self._outbox.refuse(effect.client, effect.seq, refusal, now_ns)
        else:
            self._outbox.send(effect.client, m.Exposed(effect.seq, effect.alias))

    # --- time and room ---------------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do next; None if nothing is pending."""
        return self._timers.next_ns()

    def tick(self, now_ns: int, may_run: Callable[[str, int], bool] = lambda *_: True) -> None:
        """Do what has come due, of each kind and key what `may_run`."""
        self._timers.run_due(now_ns, may_run)
        self._finish(now_ns)

    def wants_to_grant_ahead(self) -> bool:
        """Whether a client took an unnamed segment since `grant_ahead` was last called."""
        return self._prefetch.is_due

    def grant_ahead(self, now_ns: int, *, allowed: bool = True) -> None:
        """Set the next segments aside for clients that have just taken one, unless others wait for room."""
        self._prefetch.grant_ahead(now_ns, allowed=allowed and not self._grants and not self.rows.registry.closing)

    def trim_warm(self) -> int:
        """Give back all that is only kept warm or granted ahead; the bytes that the warm segments take."""
        freed_bytes = self._pool.trim()
        self._prefetch.revoke_all()
        return freed_bytes

    def _finish(self, now_ns: int) -> None:
        """The end of every command: serve those who wait, and stop if nobody needs the registry any more."""
        self._grants.serve(now_ns)
        if self._clients.owner_has_ended and not self._is_needed():
            self._stop()
        elif self.rows.registry.ends_when_idle:
            self._stop_when_idle(now_ns)

    def _stop_when_idle(self, now_ns: int) -> None:
        if self._is_needed():
            self._idle_since_ns = None
        elif self._idle_since_ns is None:
            self._idle_since_ns = now_ns
            self._timers.at(now_ns + IDLE_NS, "idle")
        elif now_ns >= self._idle_since_ns + IDLE_NS:
            self._stop()

    def _is_needed(self) -> bool:
        return bool(self.rows.tickets) or not self._clients.all_have_ended() or self._readers.are_expected()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._outbox.add(Stop())

    def _forget_requests(self, client: int) -> None:
        self._grants.forget(client)
        self._readers.forget(client)

    # --- the end, and a new beginning --------------------------------------------------------------------------------

    def close(self, now_ns: int) -> list[str]:
        """Refuse everything new and give all names and memory back; who still holds a lease, in words."""
        rows = self.rows
        holders = [
            _holder_in_words(rows, lease) for lease in rows.leases.values() if lease.state is not LeaseState.RESERVED
        ]
        rows.put(replace(rows.registry, closing=True))
        if holders:
            rows.record(now_ns, EventKind.CLOSED_WITH_HOLDERS, detail="; ".join(holders)[:512])
        self._grants.refuse_all(now_ns)
        self._readers.refuse_all(now_ns)
        for segment in list(rows.segments.values()):
            if segment.state not in (SegmentState.CREATING, SegmentState.RETIRING):
                # a spare counts as held too: its claim may be on its way
                held = bool(rows.leases_on.get(segment.number))
                self._pool.retire(replace(segment, exposed=segment.exposed or held))
        for lease in list(rows.leases.values()):
            rows.move_lease(lease, LeaseEvent.ENDED)
        for ticket in list(rows.tickets.values()):
            rows.drop_ticket(ticket)
        self._prefetch.clear()
        return holders

    def _restore(self, now_ns: int, inherited: str) -> None:
        rows = self.rows
        self._clients.restore(now_ns)
        for lease in rows.leases.values():
            self._prefetch.restore(lease)
        for ticket in rows.tickets.values():
            self._tickets.restore(ticket)
        for segment in list(rows.segments.values()):
            self._pool.restore(segment, now_ns)
            self._readers.restore(segment)
        detail = f"epoch {rows.registry.epoch}, pid {rows.registry.identity.pid}{inherited}"
        rows.record(now_ns, EventKind.TAKEOVER, detail=detail)
        self.counters["takeovers"] += 1


def _count_leases(rows: Rows) -> dict[str, int]:
    """Leases by mode, those of spares apart; those that linger are counted again under that word."""
    counts: Counter[str] = Counter()
    for lease in rows.leases.values():
        counts["spare" if lease.state is LeaseState.RESERVED else lease.mode] += 1
        counts["lingering"] += lease.state is LeaseState.LINGERING
    return dict(counts)


def _holder_in_words(rows: Rows, lease: LeaseRow) -> str:
    client = rows.clients.get(client_of(lease.id))
    who = "a client that is gone" if client is None else f"pid {client.identity.pid}"
    segment = rows.segments[lease.segment]
    what = f"{segment.name!r}" if segment.name else f"segment {segment.number}"
    return f"{who} holds {what}" + (f" (lease taken at {lease.site})" if lease.site else "")
