"""The lease table: a state machine without I/O, clock or threads.

Rules:

* Everything that decides who may map what is here. `apply` takes one message of one client, the other methods take what
  the registry's shell found out (a holder died, a file was made, time passed); each returns nothing and adds to `effects`,
  which the shell carries out and answers.
* A command is checked whole before anything changes: a refused one leaves the table as it was.
* A segment ends when it has no lease, no ticket and no reader expected. It then goes warm, or, if something the table does
  not know may still map it, is unlinked.
* Notices are applied once, by their sequence number. Requests may arrive twice as well: each names the lease that it is
  for, and what was granted before is granted again.
* Requests that must wait do so in order of arrival; one that needs much is not overtaken by ones that need little.

The table is made of parts that each own their state: `Pool` the files, `Prefetch` the spares, `Leases`, `Grants` those who
wait for a new segment, `Readers` those who attach, `Tickets`, `Names`, `Clients`, `Ending` the end of the registry,
`Figures` the statistics. Rows, outbox and timers are common to all. Every command ends with `_finish`: what has become free
is granted to those who wait.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from shmlease.core import messages as m
from shmlease.core.abandonments import Abandonments
from shmlease.core.aliases import Aliases
from shmlease.core.clients import Clients
from shmlease.core.effects import Effect, RevokeSpare
from shmlease.core.grants import Grants
from shmlease.core.leases import Leases
from shmlease.core.model import EventKind, Identity, LeaseState, RegistryRow, SegmentState, client_of
from shmlease.core.names import Names
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.prefetch import Prefetch
from shmlease.core.readers import Readers
from shmlease.core.refusals import Refusal, closing_refusal
from shmlease.core.rows import Rows
from shmlease.core.shutdown import Ending
from shmlease.core.snapshot import Snapshot
from shmlease.core.statistics import Figures
from shmlease.core.tickets import Tickets
from shmlease.core.timers import Timers
from shmlease.core.uses import Use

__all__ = ["Table"]


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

    Attributes
    ----------
    aliases : Aliases
        Names in /dev/shm; told what came of a `LinkAlias`.
    clients : Clients
        Who is there.
    ending : Ending
        Closes the registry, or leaves it to another process.
    figures : Figures
        What the statistics tell; the shell adds what it measures.
    """

    def __init__(
        self, registry: RegistryRow, snapshot: Snapshot | None = None, now_ns: int = 0, inherited: str = ""
    ) -> None:
        self.rows = Rows(registry) if snapshot is None else Rows.of(registry, snapshot)
        self._outbox = Outbox(self.rows)
        self._timers = Timers()
        self._pool = Pool(self.rows, self._outbox, self._timers)
        self._prefetch = Prefetch(self.rows, self._outbox, self._timers, self._pool)
        self._abandonments = Abandonments(self.rows, self._timers)
        self._leases = Leases(self.rows, self._outbox, self._pool, self._prefetch, self._abandonments)
        self._grants = Grants(
            self.rows, self._outbox, self._timers, self._pool, self._prefetch, self._leases, self._abandonments
        )
        self._readers = Readers(self.rows, self._outbox, self._timers, self._leases, self._abandonments)
        self._names = Names(self.rows, self._outbox, self._leases)
        self._tickets = Tickets(self.rows, self._outbox, self._timers, self._leases, self._names)
        self.clients = Clients(self.rows, self._outbox, self._leases, self._prefetch, self._forget_requests)
        self.aliases = Aliases(self.rows, self._outbox, self._names)
        self.ending = Ending(
            self.rows, self._outbox, self._timers, self._pool, self._prefetch, self._grants, self._readers, self.clients
        )
        self.figures = Figures(self.rows, self._outbox, self._pool, lambda: len(self._grants) + len(self._readers), now_ns)
        self._handlers: dict[type, Callable[..., None]] = {
            m.Lease: self._grants.lease,
            m.Decline: self._grants.decline,
            m.Attach: self._readers.attach,
            m.AttachSegment: self._readers.attach_segment,
            m.Withdraw: self._names.withdraw,
            m.Inherit: self._readers.inherit,
            m.Publish: self._readers.publish,
            m.Mint: self._tickets.mint,
            m.Redeem: self._tickets.redeem,
            m.Redeemed: self._tickets.redeemed,
            m.Revoked: self._tickets.revoked,
            m.Detach: self._leases.detach,
            m.Linger: self._leases.linger,
            m.Release: self._leases.release,
            m.Share: self._leases.share,
            m.Claim: self._claim,
            m.Expose: self.aliases.expose,
            m.Link: self.aliases.link,
            m.Unlink: self._names.unlink,
            m.Statistics: self.figures.send,
            m.Trim: lambda client, message, _: self._outbox.send(client, m.Done(message.seq, self.trim_warm())),
            m.Ping: lambda client, message, _: self._outbox.send(client, m.Done(message.seq)),
            m.Close: self.ending.close_for,
            m.Bye: self.clients.bye,
        }
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
        client = self.clients.hello(message, identity, now_ns)
        self._finish(now_ns)
        return client

    def detached(self, client: int, now_ns: int, reason: str = "") -> None:
        """The connection of `client` ended; its process is not proved dead, so its leases stay."""
        self.clients.detached(client, now_ns, reason)
        self._finish(now_ns)

    def holder_died(self, client: int, now_ns: int) -> None:
        """The process of `client` is proved dead: everything it held ends, tainted."""
        self.clients.died(client, now_ns)
        self._finish(now_ns)

    def owner_ended(self, now_ns: int) -> None:
        """The process that the registry was started for has ended; it serves whoever is left, then stops."""
        self.clients.owner_has_ended = True
        self._finish(now_ns)

    # --- messages -----------------------------------------------------------------------------------------------

    def knows_ticket(self, ticket: int) -> bool:
        """Whether `ticket` is live; if not, its sender's notices may not have been read yet."""
        return ticket in self.rows.tickets

    def apply(self, client: int, message: m.ClientMessage | m.Notice, now_ns: int) -> None:
        """Carry out one message of an admitted client, or refuse it."""
        is_notice = type(message) in m.NOTICES
        if self.rows.registry.closing:
            if not is_notice:
                self._outbox.refuse(client, message.seq, closing_refusal(self.rows.registry), now_ns)
            return
        if is_notice:
            if message.seq <= self.rows.applied.get(client, 0):
                return
            self.rows.note_applied(client, message.seq)
        self.counters["messages"] += 1
        try:
            self._handlers[type(message)](client, message, now_ns)
        except Refusal as refusal:
            self._outbox.refuse(client, message.seq, refusal, now_ns)
        self._finish(now_ns)

    def give_up_on(self, client: int, message: m.ClientMessage | m.Notice, refusal: Refusal, now_ns: int) -> None:
        """Do not apply `message`, which registries die of; what it was granted before, if anything, ends."""
        if type(message) in m.NOTICES:
            if message.seq <= self.rows.applied.get(client, 0):
                return
            self.rows.note_applied(client, message.seq)
        elif isinstance(message, m.GRANTING):
            lease = self.rows.leases.get(message.lease)
            if lease is not None and client_of(lease.id) == client:
                self._leases.end(lease, now_ns, tainted=True)
        self._outbox.refuse(client, message.seq, refusal, now_ns)

    def would_refuse(self, message: m.ClientMessage) -> bool:
        """Whether `message` asks for what is not there, and does not wait for it."""
        rows = self.rows
        if isinstance(message, m.Attach):
            number = rows.by_name.get(message.name)
            is_there = number is not None and rows.segments[number].state is SegmentState.PUBLISHED
            return not is_there and (message.timeout_ns == 0 or self._abandonments.of(message.name) is not None)
        if isinstance(message, m.AttachSegment):
            segment = rows.segments.get(message.segment)
            return segment is None or (segment.generation, segment.state) != (message.generation, SegmentState.PUBLISHED)
        if isinstance(message, m.Withdraw):
            return self._names.named_by(message) is None
        if isinstance(message, m.Lease):
            missing = rows.used_bytes + message.size_bytes > rows.registry.capacity_bytes
            return message.name in rows.by_name or (message.timeout_ns == 0 and missing)
        if isinstance(message, m.Inherit):
            parent = rows.leases.get(message.parent_lease)
            return parent is None or parent.state is LeaseState.RESERVED
        return False

    def _claim(self, client: int, message: m.Claim, now_ns: int) -> None:
        segment = self._prefetch.claim(client, message, now_ns)
        if message.published:
            self._readers.publish_segment(segment, now_ns)

    def note_use(self, client: int, use: Use, now_ns: int) -> None:
        """What `client` did with the spare that it keeps, of which no notice tells."""
        if not self.rows.registry.closing:
            self._prefetch.note_use(client, use, now_ns)
            self._finish(now_ns)

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
        """Who had claimed the token of a live ticket has ended before its notice of that."""
        self._tickets.redeemer_ended(ticket, client, now_ns)
        self._finish(now_ns)

    def receiver_ended(self, ticket: int, now_ns: int) -> None:
        """The process that a ticket was made for is proved dead."""
        self._tickets.receiver_ended(ticket, now_ns)
        self._finish(now_ns)

    def segment_retired(self, number: int, failure: str, now_ns: int, recycled_as: int = 0) -> None:
        """The file of a segment is gone, or that of segment `recycled_as`, or could not be unlinked and is tried again."""
        self._pool.retired(number, failure, now_ns, recycled_as)
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
        if self._grants.queue:
            self._grants.serve(now_ns)
        if self._abandonments.news:
            self._readers.serve(now_ns)
        if self.clients.owner_has_ended or self.rows.registry.ends_when_idle:
            self.ending.stop_if_unneeded(now_ns)

    def _forget_requests(self, client: int) -> None:
        self._grants.forget(client)
        self._readers.forget(client)

    # --- a new beginning -----------------------------------------------------------------------------------------------

    def _restore(self, now_ns: int, inherited: str) -> None:
        rows = self.rows
        self.clients.restore(now_ns)
        self._prefetch.restore()
        for ticket in rows.tickets.values():
            self._tickets.restore(ticket)
        for segment in list(rows.segments.values()):
            self._pool.restore(segment, now_ns)
            self._readers.restore(segment)
            self.aliases.restore(segment)
        detail = f"epoch {rows.registry.epoch}, pid {rows.registry.identity.pid}{inherited}"
        rows.record(now_ns, EventKind.TAKEOVER, detail=detail)
        self.counters["takeovers"] += 1
