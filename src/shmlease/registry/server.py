"""Between packets and the lease table: decode, apply, commit, carry out.

The server owns no socket, file or clock; it is given them (`Transport`, `Store`, `Log`, `Clock`), so that the same code
runs in the registry process, in one process for tests, and in a simulation that crashes it between any two effects.

The order within `settle` is the safety of the whole: what the next decision needs is found out first, then all changes go
into the ledger as one commit, and only then does it become visible to others. Whatever a client or the file system sees has
been committed; whatever was not committed has not happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import BEFORE_COMMIT, DropClient, Effect, RetireSegment, Send, Stop
from shmlease.core.model import Change, ClientState, EventKind, Identity
from shmlease.core.refusals import Refusal, descriptors_refusal, fault_refusal, running_refusal
from shmlease.core.table import Table
from shmlease.core.uses import Use
from shmlease.core.wire import decode_client_packet, encode
from shmlease.core.work_units import (
    Unit,
    detach_unit,
    effect_unit,
    end_unit,
    hello_unit,
    message_unit,
    timer_unit,
    use_unit,
)
from shmlease.errors import ProtocolError
from shmlease.registry.actions import Actions
from shmlease.registry.interfaces import Log, Store, Transport
from shmlease.registry.leftovers import Leftovers
from shmlease.registry.notice_reader import NoticeReader
from shmlease.registry.quarantine import Quarantine
from shmlease.system.clock import Clock

__all__ = ["DESCRIPTORS_OF_CLIENT", "RESERVED_DESCRIPTORS", "Server"]

# What makes the table grow is refused when the ledger has no room; what shrinks it is always written.
_GROWING: Final = frozenset(m.GRANTING) - {m.Decline}  # whose lease has its row already
# What is done only once all replies so far were sent.
_AFTER_REPLIES: Final = (DropClient, Stop)
# Descriptors kept for the registry's own work: two strangers who are yet to say hello, /proc, a segment that is taken back
# and the one that is unlinked meanwhile, the ledger being written anew; and as many again.
RESERVED_DESCRIPTORS: Final = 12
DESCRIPTORS_OF_CLIENT: Final = 3  # connection, pidfd, notice log
# Some replies carry a layout of up to 32 KiB: two such and the rest stay within one packet.
_REPLIES_IN_PACKET: Final = 16


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
        on_commit: Callable[[list[Change]], None] = lambda _: None,
    ) -> None:
        self.table = table
        self.is_handed_over = False  # to a successor that is yet to be started: everything is to be left as it is
        self._store = store
        self._log = log
        self._transport = transport
        self._clock = clock
        self._quarantine = quarantine or Quarantine(None, clock)
        self._on_commit = on_commit
        self._settling = False
        self._notices = NoticeReader(table, store, self._apply, self._note_use)
        self._leftovers = Leftovers(table, store, clock, self._notices.read)
        self._actions = Actions(table, store, transport, clock, self._forget)

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
                if not self.table.ending.makes_way_for(identity, now_ns):
                    raise running_refusal(self.table.rows)
                self.is_handed_over = True
                self._transport.stop()
                return b""
            if self.table.ending.hands_over_to(message.limits, identity, now_ns):
                self.is_handed_over = True
                self._transport.stop()
                return b""  # what it would read if this process had died: it goes on as then
            if not self._log.has_room():
                raise Refusal(m.RefusalCode.CAPACITY, "/dev/shm has no room for the lease table to grow")
            if message.resume:
                self._notices.read(message.resume)
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

        The notices that this client, or anybody else, wrote before come first: a request is answered by a registry that
        knows everything that happened before it was sent.
        """
        now_ns = self._clock.now_ns()
        try:
            received = decode_client_packet(packet)
            if m.Hello in map(type, received):
                raise ProtocolError("a second Hello")
        except ProtocolError as error:
            self.disconnected(client, f"protocol violation: {error}")
            self._transport.drop(client)
            return
        self._notices.look_again_at(client, now_ns)
        for message in received:
            if isinstance(message, m.Ring):
                self._notices.read(client)
                continue
            self._notices.read_all()  # this client's among them
            if isinstance(message, m.Statistics):
                self.settle()  # figures of what is, not of what is under way
                self._actions.measure_room()
                self.table.figures.descriptors = self._transport.descriptors()
            if self.table.would_refuse(message):  # a notice and a Ring that were sent just before may change that
                for other in self._transport.unread():
                    self._notices.read(other)
            self._apply(client, message)

    def disconnected(self, client: int, reason: str = "") -> None:
        """The connection of `client` ended; its notices count, though a Ring may be lost with the connection."""
        self._notices.read(client)
        if self._may_begin(detach_unit(client)):
            self.table.detached(client, self._clock.now_ns(), reason)

    def died(self, client: int) -> None:
        """The process of `client` is proved dead; its notices count."""
        self._notices.read(client)
        if self._may_begin(end_unit(client)):
            self.table.holder_died(client, self._clock.now_ns())

    def tick(self) -> None:
        """Do what has come due, and read the notice logs whose clients may have written without a Ring."""
        now_ns = self._clock.now_ns()
        self._notices.read_due(now_ns)
        self.table.tick(now_ns, lambda kind, key: self._may_begin(timer_unit(kind, key)))

    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do next; None if nothing is pending."""
        notices_ns, table_ns = self._notices.next_deadline_ns(), self.table.next_deadline_ns()
        if notices_ns is None or table_ns is None:
            return table_ns if notices_ns is None else notices_ns
        return min(notices_ns, table_ns)

    def recover(self, dead: Iterable[int]) -> None:
        """After a takeover: catch up with the notice logs, reclaim from the dead, and remove what no row speaks of."""
        table, now_ns = self.table, self._clock.now_ns()
        for client in list(table.rows.clients.values()):
            if client.state is not ClientState.ENDED:
                self._notices.read(client.id)
                # it may go on writing without a Ring until it finds that its registry has died
                self._notices.look_again_at(client.id, now_ns)
        for client_id in dead:
            if self._may_begin(end_unit(client_id)):
                table.holder_died(client_id, now_ns)
        self.settle()
        self._leftovers.remove_all()
        self.settle()

    def settle(self) -> None:
        """Carry out everything that was decided, in the order that a crash at any point survives."""
        if self._settling:
            return  # called while notices are applied: the call that is settling goes on to what they decide
        self._settling = True
        try:
            self._carry_out()
        finally:
            self._settling = False
        self._quarantine.settled()

    def _carry_out(self) -> None:
        table = self.table
        effects = table.effects
        while True:
            if table.wants_to_grant_ahead():
                if (
                    not self._notices.is_reading
                ):  # else a notice log is being read: to read others now would disturb their order
                    self._notices.read_all()  # what others have released can be granted ahead in place of something fresh
                table.grant_ahead(self._clock.now_ns(), allowed=self._log.has_room())
            after_commit: list[Effect] = []
            while effects:
                effect = effects.popleft()
                if isinstance(effect, BEFORE_COMMIT):
                    self._actions.carry_out(effect)
                else:
                    after_commit.append(effect)
            changes = table.rows.take_changes()
            if changes:
                self._commit(changes, after_commit)
            if not after_commit and not table.wants_to_grant_ahead():
                if not self._leftovers.may_exist or self._notices.is_reading:
                    return
                self._leftovers.remove_tokens()
            replies: defaultdict[int, list[m.RegistryMessage]] = defaultdict(list)
            for effect in after_commit:
                if isinstance(effect, Send):
                    replies[effect.client].append(effect.message)
                else:
                    if isinstance(effect, _AFTER_REPLIES):
                        self._send_all(replies)
                    self._act(effect)
            self._send_all(replies)

    def _act(self, effect: Effect) -> None:
        if self._may_begin(effect_unit(effect)):
            self._actions.carry_out(effect)

    def _may_begin(self, unit: Unit) -> bool:
        """Begin a unit of work, unless registries die of it."""
        if self._quarantine.is_settled_first:
            self.settle()
        if self._quarantine.begin(unit):
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

    def _apply(self, client: int, message: m.ClientMessage | m.Notice) -> None:
        table, now_ns = self.table, self._clock.now_ns()
        unit = message_unit(client, message)
        may_begin = self._may_begin(unit)
        if table.clients.has_ended(client):  # what one who is dead or gone has asked for nobody waits for
            return
        if not may_begin:
            table.give_up_on(client, message, fault_refusal(table.rows, unit), now_ns)
            return
        if type(message) in _GROWING and not self._log.has_room():
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

    def _note_use(self, client: int, use: Use) -> None:
        if self._may_begin(use_unit(client)):
            self.table.note_use(client, use, self._clock.now_ns())

    def _commit(self, changes: list[Change], after_commit: list[Effect]) -> None:
        try:
            self._log.commit(changes)
        except OSError:
            # no room even for this: let what was to be unlinked go first, and write the table anew
            for effect in [effect for effect in after_commit if isinstance(effect, RetireSegment)]:
                after_commit.remove(effect)
                self._actions.retire(replace(effect, recycled_as=0))
            self._log.compact(self.table.rows.all_rows())
            self._log.commit(changes)
        self._on_commit(changes)
        if self._log.wants_compaction():
            self._log.compact(self.table.rows.all_rows())

    def _send_all(self, replies: defaultdict[int, list[m.RegistryMessage]]) -> None:
        for client, pending in replies.items():
            for start in range(0, len(pending), _REPLIES_IN_PACKET):
                self._transport.send(client, encode(pending[start : start + _REPLIES_IN_PACKET]))
        replies.clear()

    def _forget(self, client: int) -> None:
        self._leftovers.client_ended(client)
        self._notices.forget(client)
