"""Between packets and the lease table: decode, apply, commit, carry out.

The server owns no socket, file or clock; it is given them (`Transport`, `Store`, `Log`, `Clock`), so that the same code
runs in the registry process, in one process for tests, and in a simulation that crashes it between any two effects.

The order within `settle` is the safety of the whole: what the next decision needs is found out first, then all changes go
into the ledger as one commit, and only then is the world told. Whatever a client or the file system sees has been
committed; whatever was not committed has not happened.
"""

from __future__ import annotations

import errno
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final, Protocol

from shmlease.core import messages as m
from shmlease.core.effects import (
    BEFORE_COMMIT,
    CreateSegment,
    DropClient,
    DropToken,
    Effect,
    LinkAlias,
    RetireSegment,
    RevokeSpare,
    Send,
    Stop,
    VoidToken,
)
from shmlease.core.model import Change, ClientState, EventKind, Identity, Row, SegmentState, client_of, number_of
from shmlease.core.refusals import Refusal, descriptors_refusal, fault_refusal, running_refusal
from shmlease.core.table import Table
from shmlease.core.wire import decode_client_packet, encode
from shmlease.core.work import Unit, detach_unit, effect_unit, end_unit, hello_unit, message_unit, timer_unit
from shmlease.errors import ProtocolError
from shmlease.registry.quarantine import Quarantine
from shmlease.registry.reservations import Reservations
from shmlease.system.clock import Clock
from shmlease.system.descriptors import Descriptors
from shmlease.system.exhaustion import explained
from shmlease.units import format_bytes

__all__ = ["DESCRIPTORS_OF_CLIENT", "RESERVED_DESCRIPTORS", "Log", "Server", "Store", "Transport"]

# What makes the table grow is refused when the ledger has no room; what shrinks it is always written.
_GROWING: Final = (m.Lease, m.Attach, m.Inherit)
# What is short now and may be there in a moment; anything else that a file cannot be made for will be so in a moment, too.
_PASSING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.EEXIST}
)
# Descriptors kept for the registry's own work: two strangers who are yet to say hello, /proc, a segment that is taken back and
# the one that is unlinked meanwhile, the ledger being written anew; and as many again.
RESERVED_DESCRIPTORS: Final = 12
DESCRIPTORS_OF_CLIENT: Final = 3  # connection, pidfd, notice log
# Some replies carry a layout of up to 32 KiB: two such and the rest stay within one packet.
_REPLIES_IN_PACKET: Final = 16


class Transport(Protocol):
    """Carries packets to and from clients."""

    def send(self, client: int, packet: bytes) -> None:
        """Send, or drop the client if it does not read what it is sent; never block."""
        ...

    def unread(self) -> list[int]:
        """Clients that have sent packets which were not handed to the server yet."""
        ...

    def descriptors(self) -> Descriptors:
        """How many descriptors this process has open, and may have."""
        ...

    def drop(self, client: int) -> None:
        """Close the connection of `client`, if it has one."""
        ...

    def stop(self) -> None:
        """End the loop that serves this server."""
        ...


class Store(Protocol):
    """The files of the registry: see `shmlease.system.directory.RegistryDirectory`."""

    def create_segment(self, number: int, size_bytes: int) -> None: ...
    def unreserved_bytes(self, number: int) -> int: ...
    def retire_segment(self, number: int, alias: str, *, punch: bool) -> None: ...
    def link_alias(self, number: int, alias: str) -> None: ...
    def free_bytes(self) -> int: ...
    def revoke_spare(self, number: int, generation: int) -> bool: ...
    def void_token(self, ticket: int) -> int | None: ...
    def drop_token(self, ticket: int, client: int) -> None: ...
    def create_notice_log(self, client: int) -> None: ...
    def read_notice_log(self, client: int, applied: int) -> list[m.Notice]: ...
    def drop_notice_log(self, client: int) -> None: ...
    def entries(self) -> Iterator[tuple[str, int, int | None]]: ...
    def remove_entry(self, kind: str, number: int, client: int | None) -> None: ...


class Log(Protocol):
    """The ledger: see `shmlease.system.ledger.Ledger`."""

    def wants_compaction(self) -> bool: ...
    def has_room(self) -> bool: ...
    def commit(self, changes: Sequence[Change]) -> None: ...
    def compact(self, rows: Iterable[Row]) -> None: ...


class Server:
    """Serves one lease table."""

    def __init__(
        self,
        table: Table,
        store: Store,
        log: Log,
        transport: Transport,
        clock: Clock,
        quarantine: Quarantine | None = None,
        on_change: Callable[[Change], None] = lambda _: None,
    ) -> None:
        self.table = table
        self.is_handed_over = False  # to a successor that is yet to be started: everything is to be left as it is
        self._store = store
        self._log = log
        self._transport = transport
        self._clock = clock
        self._quarantine = quarantine or Quarantine(None, clock)
        self._on_change = on_change
        self._settling = False
        self._reservations = Reservations(store.unreserved_bytes)
        # clients that have rung lately, and when to look at their notice logs again
        self._look_again_ns: dict[int, int] = {}
        self._heard: defaultdict[int, deque[m.Notice]] = defaultdict(deque)  # read from notice logs, not applied yet
        self._applying: set[int] = set()
        self._gone: set[int] = set()  # clients that have ended, and may have left tokens that nobody was told of

    # --- what happens --------------------------------------------------------------------------------------------

    def hello(self, packet: bytes, identity: Identity) -> int | bytes:
        """Admit the process that sent `packet` as its first: its client id, or the packet that refuses it.

        An empty one if that process may use more than this one: it is to start the next registry, and this one ends.
        """
        now_ns = self._clock.now_ns()
        seq = 0
        try:
            message = decode_client_packet(packet)[0]
            if not isinstance(message, m.Hello):
                raise ProtocolError(f"a connection begins with Hello, not {type(message).__name__}")
            seq = message.seq
            if message.to_serve:
                if not self.table.makes_way_for(identity, now_ns):
                    raise running_refusal(self.table.rows)
                self.is_handed_over = True
                self._transport.stop()
                return b""
            if self.table.hands_over_to(message.limits, identity, now_ns):
                self.is_handed_over = True
                self._transport.stop()
                return b""  # what it would read if this process had died: it goes on as then
            if not self._log.has_room():
                raise Refusal(m.RefusalCode.CAPACITY, "/dev/shm has no room for the lease table to grow")
            if message.resume:
                self._read_notice_log(message.resume)
            else:
                self._require_descriptors()
            unit = hello_unit(identity)
            if not self._may_begin(unit):
                raise fault_refusal(self.table.rows, unit)
            client = self.table.hello(message, identity, now_ns)
            if not message.resume:
                self._store.create_notice_log(client)
        except Refusal as refusal:
            return encode([m.Refused(seq, refusal.code, refusal.message, refusal.facts)])
        except ProtocolError as error:
            return encode([m.Refused(seq, m.RefusalCode.PROTOCOL, str(error))])
        except OSError as error:
            self.table.detached(client, now_ns)
            self.table.holder_died(client, now_ns)
            return encode([m.Refused(seq, m.RefusalCode.CAPACITY, f"no room for a notice log: {error.strerror}")])
        return client

    def received(self, client: int, packet: bytes) -> None:
        """Apply one packet of an admitted client; one that breaks the protocol ends its connection.

        What the client, or anybody else who has rung lately, wrote to its notice log before comes first: a request is answered
        by a registry that knows everything that was said before it was asked.
        """
        now_ns = self._clock.now_ns()
        try:
            received = decode_client_packet(packet)
            if any(isinstance(message, m.Hello) for message in received):
                raise ProtocolError("a second Hello")
        except ProtocolError as error:
            self.disconnected(client, f"protocol violation: {error}")
            self._transport.drop(client)
            return
        self._look_again_ns[client] = now_ns + m.LOOK_AGAIN_NS
        self._read_notice_log(client)
        for message in received:
            if isinstance(message, m.Ring):
                continue
            self._hear_all()
            if isinstance(message, m.Statistics):
                self.settle()  # figures of what is, not of what is under way
                self._reservations.look_at_all()
                self._note_room()
                self.table.descriptors_in_use, self.table.descriptors_limit = self._transport.descriptors()
            if self.table.is_ended(client):  # what one who is dead or gone has asked for nobody waits for
                return
            if self.table.would_refuse(message):  # what would change that may have been said, and rung for, just before
                for other in self._transport.unread():
                    self._read_notice_log(other)
            self._apply(client, message, now_ns)

    def disconnected(self, client: int, reason: str = "") -> None:
        """The connection of `client` ended; what it wrote before counts, though its ring was lost with the connection."""
        self._read_notice_log(client)
        if self._may_begin(detach_unit(client)):
            self.table.detached(client, self._clock.now_ns(), reason)

    def died(self, client: int) -> None:
        """The process of `client` is proved dead; what it said before counts."""
        self._read_notice_log(client)
        if self._may_begin(end_unit(client)):
            self.table.holder_died(client, self._clock.now_ns())

    def tick(self) -> None:
        """Do what has come due, and read the notice logs of those who cannot be heard."""
        now_ns = self._clock.now_ns()
        for client in [client for client, look_ns in self._look_again_ns.items() if look_ns <= now_ns]:
            del self._look_again_ns[client]
            self._read_notice_log(client)
        self.table.tick(now_ns, lambda kind, key: self._may_begin(timer_unit(kind, key)))

    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do next; None if nothing is pending."""
        deadlines = [*self._look_again_ns.values()]
        due_ns = self.table.next_deadline_ns()
        if due_ns is not None:
            deadlines.append(due_ns)
        return min(deadlines, default=None)

    def recover(self, dead: Iterable[int]) -> None:
        """After a takeover: catch up with the notice logs, reclaim from the dead, and remove what no row speaks of."""
        table, now_ns = self.table, self._clock.now_ns()
        for client in list(table.rows.clients.values()):
            if client.state is not ClientState.ENDED:
                self._read_notice_log(client.id)
                # it may go on writing without ringing until it finds that its registry has died
                self._look_again_ns[client.id] = now_ns + m.LOOK_AGAIN_NS
        for client_id in dead:
            if self._may_begin(end_unit(client_id)):
                table.holder_died(client_id, now_ns)
        self.settle()
        present = set()
        rows = table.rows
        writing = {client.id for client in rows.clients.values() if client.state is not ClientState.ENDED}
        known: dict[str, Container[int]] = {"s": rows.segments, "t": rows.tickets, "j": writing}
        for kind, number, redeemer in list(self._store.entries()):
            if kind == "s":
                present.add(number)
            if kind == "t" and redeemer is not None and table.is_ended(redeemer):
                self._end_claim(number, redeemer)
            elif number not in known[kind] and not (kind == "t" and self._may_still_come(number, redeemer)):
                self._store.remove_entry(kind, number, redeemer)
        for number, segment in list(table.rows.segments.items()):
            if number not in present and segment.state is not SegmentState.RETIRING:
                table.segment_missing(number, now_ns)
        self.settle()

    def settle(self) -> None:
        """Carry out everything that was decided, in the order that a crash at any point survives."""
        if self._settling:
            return  # called for what a notice log says that is read meanwhile: the call that is at it goes on to that
        self._settling = True
        try:
            self._carry_out()
        finally:
            self._settling = False
        self._quarantine.settled()

    def _carry_out(self) -> None:
        table = self.table
        while True:
            if table.wants_to_grant_ahead():
                if not self._applying:  # else a notice log is being read: to read others now would disturb their order
                    self._hear_all()  # what others have released can be granted ahead in place of something fresh
                table.grant_ahead(self._clock.now_ns(), allowed=self._log.has_room())
            told: list[Effect] = []
            while table.effects:
                effect = table.effects.popleft()
                if isinstance(effect, BEFORE_COMMIT):
                    _BEFORE[type(effect)](self, effect)
                else:
                    told.append(effect)
            changes = table.rows.take_changes()
            if changes:
                self._commit(changes, told)
            if not told and not table.wants_to_grant_ahead():
                if not self._gone or self._applying:
                    return
                self._sweep_tokens()
            replies: defaultdict[int, list[m.RegistryMessage]] = defaultdict(list)
            for effect in told:
                if isinstance(effect, Send):
                    replies[effect.client].append(effect.message)
                else:
                    if isinstance(effect, DropClient | Stop):
                        self._send_all(replies)
                    self._act(effect)
            self._send_all(replies)

    def _act(self, effect: Effect) -> None:
        if self._may_begin(effect_unit(effect)):
            _AFTER[type(effect)](self, effect)

    def _may_begin(self, unit: Unit) -> bool:
        """Begin a unit of work, unless registries die of it."""
        if self._quarantine.is_settled_first:
            self.settle()
        if not self._quarantine.is_refused(unit):
            self._quarantine.begin(unit)
            return True
        if not unit.is_message:  # else its sender is told, and that is recorded
            refusal = fault_refusal(self.table.rows, unit)
            self.table.rows.record(self._clock.now_ns(), EventKind.REQUEST_REFUSED, detail=refusal.message)
        return False

    def _require_descriptors(self) -> None:
        """Refuse a newcomer for whom, beside those who may come back, there are not descriptors enough."""
        in_use, limit = self._transport.descriptors()
        clients = self.table.rows.clients.values()
        missed = sum(client.state is ClientState.DETACHED for client in clients)  # each takes one when it comes back
        if in_use + missed + 1 > limit - RESERVED_DESCRIPTORS:  # one for the notice log: the rest is open already
            raise descriptors_refusal(self.table.rows, in_use, limit, RESERVED_DESCRIPTORS)

    # --- the parts -----------------------------------------------------------------------------------------------

    def _apply(self, client: int, message: m.ClientMessage | m.Notice, now_ns: int) -> None:
        table = self.table
        unit = message_unit(client, message)
        may_begin = self._may_begin(unit)
        if table.is_ended(client):  # what was settled first may have been its end
            return
        if not may_begin:
            table.give_up_on(client, message, fault_refusal(table.rows, unit), now_ns)
            return
        if isinstance(message, _GROWING) and not self._log.has_room():
            self._log.compact(table.rows.all_rows())
            if not self._log.has_room():
                table.trim_warm()  # the next who asks may find room in what was only kept warm
                refused = m.Refused(
                    message.seq,
                    m.RefusalCode.CAPACITY,
                    "/dev/shm has no room for the lease table to grow; free some of it or enlarge the mount",
                    {"shm_free_bytes": self._store.free_bytes()},
                )
                table.effects.append(Send(client, refused))
                return
        table.apply(client, message, now_ns)

    def _hear_all(self) -> None:
        """Read the notice logs of all who may have written without ringing."""
        for client in list(self._look_again_ns):
            self._read_notice_log(client)

    def _read_notice_log(self, client: int) -> None:
        """Apply what `client` has written, and of others what that depends on."""
        self._go_on_with(client)
        while waiting := [other for other, heard in self._heard.items() if heard]:
            before = sum(len(self._heard[other]) for other in waiting)
            for other in waiting:
                self._go_on_with(other)
            if sum(len(heard) for heard in self._heard.values()) >= before:
                # a ring of tickets that wait for each other cannot come about in good faith
                self._apply(waiting[0], self._heard[waiting[0]].popleft(), self._clock.now_ns())

    def _go_on_with(self, client: int) -> None:
        """Apply the notices of `client` up to one that depends on what another, being read just now, is yet to say."""
        table = self.table
        if client in self._applying:
            return
        if table.is_ended(client):  # what it wrote after it had left is nobody's
            self._heard.pop(client, None)
            return
        self._applying.add(client)
        heard = self._heard[client]
        heard.extend(self._store.read_notice_log(client, table.rows.applied.get(client, 0)))
        while heard and not table.is_ended(client):
            notice = heard[0]
            if isinstance(notice, m.Redeemed) and not table.knows_ticket(notice.ticket):
                sender = client_of(notice.ticket)
                self._go_on_with(sender)
                if not table.knows_ticket(notice.ticket) and (sender in self._applying or self._heard.get(sender)):
                    break
            heard.popleft()
            self._apply(client, notice, self._clock.now_ns())
        self._applying.discard(client)
        if not heard or table.is_ended(client):
            self._heard.pop(client, None)

    def _sweep_tokens(self) -> None:
        """See to the tokens of those who have ended between what they did to a file and their notice of it.

        One that made a token and did not say so has given the ticket to nobody. One that claimed a token and did not say so
        has used the ticket up.
        """
        gone, self._gone = self._gone, set()
        for kind, ticket, redeemer in list(self._store.entries()):
            if kind != "t":
                continue
            if redeemer in gone:
                self._end_claim(ticket, redeemer)
            elif client_of(ticket) in gone and not self.table.knows_ticket(ticket):
                self._store.remove_entry(kind, ticket, redeemer)

    def _end_claim(self, ticket: int, redeemer: int) -> None:
        """Who has claimed `ticket` has ended, and did not say that it redeemed it."""
        self._read_notice_log(client_of(ticket))  # that of its making may not have been read yet
        if self.table.knows_ticket(ticket):
            self.table.redeemer_ended(ticket, redeemer, self._clock.now_ns())
        else:
            self._store.remove_entry("t", ticket, redeemer)

    def _may_still_come(self, ticket: int, redeemer: int | None) -> bool:
        """Whether the notice of a ticket's making may yet come from its sender.

        It has come, and the ticket gone again, when the ticket was redeemed and later notices have been applied.
        """
        sender = client_of(ticket)
        row = self.table.rows.clients.get(sender)
        if row is None or row.state is ClientState.ENDED:
            return False
        return redeemer is None or self.table.rows.applied.get(sender, 0) < number_of(ticket)

    def _commit(self, changes: list[Change], told: list[Effect]) -> None:
        try:
            self._log.commit(changes)
        except OSError:
            # no room even for this: let what was to be unlinked go first, and write the table anew
            for effect in [effect for effect in told if isinstance(effect, RetireSegment)]:
                told.remove(effect)
                self._retire(effect)
            self._log.compact(self.table.rows.all_rows())
            self._log.commit(changes)
        for change in changes:
            self._on_change(change)
        if self._log.wants_compaction():
            self._log.compact(self.table.rows.all_rows())

    def _send_all(self, replies: defaultdict[int, list[m.RegistryMessage]]) -> None:
        for client, pending in replies.items():
            for start in range(0, len(pending), _REPLIES_IN_PACKET):
                self._transport.send(client, encode(pending[start : start + _REPLIES_IN_PACKET]))
        replies.clear()

    def _note_room(self) -> None:
        """What /dev/shm has left beside what is promised."""
        self.table.shm_free_bytes = max(self._store.free_bytes() - self._reservations.total_bytes, 0)

    def _no_room(self) -> str:
        free = format_bytes(self.table.shm_free_bytes)
        return f"/dev/shm has not enough room, {free} free there; free some of it, which `shmlease audit` lists, or enlarge the mount"

    def _create(self, effect: CreateSegment) -> None:
        store, table, now_ns = self._store, self.table, self._clock.now_ns()
        self._note_room()
        if effect.size_bytes > table.shm_free_bytes:
            self._reservations.look_at_all()
            self._note_room()
        if effect.size_bytes > table.shm_free_bytes:
            table.segment_failed(effect.segment, self._no_room(), table.shm_free_bytes, now_ns)
            return
        try:
            store.create_segment(effect.segment, effect.size_bytes)
        except FileNotFoundError:  # somebody has removed the directory: there is nothing to serve any more
            self._transport.stop()
            return
        except OSError as error:
            reason = self._no_room() if error.errno == errno.ENOSPC else explained(error, "the registry process")
            passes = error.errno in _PASSING
            table.segment_failed(effect.segment, reason, store.free_bytes(), now_ns, passes=passes)
            return
        self._reservations.add(effect.segment, effect.size_bytes)
        table.segment_created(effect.segment, now_ns)

    def _revoke(self, effect: RevokeSpare) -> None:
        self.table.spare_revoked(effect, self._store.revoke_spare(effect.segment, effect.generation), self._clock.now_ns())

    def _void(self, effect: VoidToken) -> None:
        self.table.token_voided(effect.ticket, self._store.void_token(effect.ticket), self._clock.now_ns())

    def _link(self, effect: LinkAlias) -> None:
        failure = ""
        try:
            self._store.link_alias(effect.segment, effect.alias)
        except OSError as error:
            failure = str(error)
        self.table.alias_linked(effect, failure, self._clock.now_ns())

    def _retire(self, effect: RetireSegment) -> None:
        failure = ""
        try:
            self._store.retire_segment(effect.segment, effect.alias, punch=effect.punch)
        except OSError as error:
            failure = str(error)
        self._reservations.discard(effect.segment)
        self.table.segment_retired(effect.segment, failure, self._clock.now_ns())

    def _drop_token(self, effect: DropToken) -> None:
        self._store.drop_token(effect.ticket, effect.client)

    def _drop_client(self, effect: DropClient) -> None:
        self._gone.add(effect.client)
        self._look_again_ns.pop(effect.client, None)
        self._heard.pop(effect.client, None)
        self._transport.drop(effect.client)
        self._store.drop_notice_log(effect.client)

    def _stop(self, effect: Stop) -> None:
        del effect
        self._transport.stop()


_BEFORE: Final[dict[type, Callable[..., None]]] = {
    CreateSegment: Server._create,
    RevokeSpare: Server._revoke,
    VoidToken: Server._void,
}
_AFTER: Final[dict[type, Callable[..., None]]] = {
    LinkAlias: Server._link,
    RetireSegment: Server._retire,
    DropToken: Server._drop_token,
    DropClient: Server._drop_client,
    Stop: Server._stop,
}
