"""The lease table against a deliberately naive model that shares no code with it.

The model keeps flat lists and looks through all of them for every question. It knows nothing of warm pools, spares or
effects: only who holds what, what was promised to whom, and how much room that leaves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rig.shell import PAGE, S, Shell
from shmlease.core import messages as m
from shmlease.core.model import LeaseMode, LeaseState, SegmentState

CAPACITY = 20
WARM = 8
NAMES = ["a", "b", "c"]


@dataclasses.dataclass(eq=False)
class ModelSegment:
    number: int
    pages: int
    name: str | None
    published: bool = False
    readers: int = 0
    readers_until: int = 0
    dirty: bool = False  # a holder died, left, lingered; a ticket or reader never came; a fork or a name made it known


@dataclasses.dataclass(eq=False)
class Promise:
    """A lease or a ticket."""

    id: int
    client: int
    segment: ModelSegment
    until: int = 0
    lingers: bool = False
    is_detached: bool = False


@dataclasses.dataclass(eq=False)
class Waiting:
    client: int
    seq: int
    until: int
    pages: int = 0
    name: str | None = None


class LeaseTable(RuleBasedStateMachine):
    """Clients come, ask, publish, pass on, release, die, and the registry is killed now and then."""

    @initialize()
    def begin(self) -> None:
        self.shell = Shell(CAPACITY, WARM, warm_idle_s=5)
        self.clients: list[int] = []
        self.pids: dict[int, int] = {}
        self.leases: list[Promise] = []
        self.tickets: list[Promise] = []
        self.room_queue: list[Waiting] = []
        self.name_queue: list[Waiting] = []
        self.taken: list[m.Spare] = []  # spares whose client has locked the file and not said so yet
        self.abandoned: dict[str, int] = {}  # name -> until when that is remembered
        self.unique = 0

    # --- what the model is asked -------------------------------------------------------------------------------------

    def segments(self) -> list[ModelSegment]:
        """Those that somebody has a right to."""
        found: list[ModelSegment] = []
        for promise in [*self.leases, *self.tickets]:
            if promise.segment not in found:
                found.append(promise.segment)
        return found + [segment for segment in self.kept_for_readers if segment not in found]

    @property
    def kept_for_readers(self) -> list[ModelSegment]:
        return [segment for segment in self.known if segment.readers]

    @property
    def known(self) -> list[ModelSegment]:
        self._known = getattr(self, "_known", [])
        return self._known

    def named(self, name: str | None) -> ModelSegment | None:
        return next((s for s in self.segments() if name is not None and s.name == name), None)

    def pages_in_use(self) -> int:
        return sum(s.pages for s in self.segments()) + sum(spare.size_bytes // PAGE for spare in self.taken)

    # --- how the model goes on ----------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Whoever is first in line gets room when there is some."""
        while self.room_queue:
            first = self.room_queue[0]
            if self.named(first.name) is not None:
                self.room_queue.pop(0)
                assert self.shell.answer(first.client, first.seq).code is m.RefusalCode.EXISTS
            elif self.pages_in_use() + first.pages <= CAPACITY:
                self.room_queue.pop(0)
                self.granted(first.client, self.shell.answer(first.client, first.seq), first.pages, first.name)
            else:
                assert self.shell.answer(first.client, first.seq) is None
                return

    def granted(self, client: int, answer: Any, pages: int, name: str | None) -> None:
        assert isinstance(answer, m.Granted), answer
        assert pages * PAGE <= answer.size_bytes <= max(pages * PAGE * 1.25, PAGE)
        segment = ModelSegment(answer.segment, answer.size_bytes // PAGE, name)
        self.known.append(segment)
        self.abandoned.pop(name or "", None)
        self.leases.append(Promise(answer.lease, client, segment))

    def attached(self, client: int, answer: Any, segment: ModelSegment) -> None:
        assert isinstance(answer, m.Attached), answer
        assert (answer.segment, answer.writable) == (segment.number, False)
        segment.readers = max(segment.readers - 1, 0)
        self.leases.append(Promise(answer.lease, client, segment))

    def client_is_gone(self, client: int) -> None:
        self.clients.remove(client)
        for promise in [p for p in self.leases if p.client == client]:
            promise.segment.dirty = True
            self.ended(promise)
        self.taken = [spare for spare in self.taken if spare.lease >> 40 != client]
        self.stops_waiting(client)

    def ended(self, promise: Promise) -> None:
        self.leases.remove(promise)
        is_last = not any(other.segment is promise.segment for other in self.leases)
        if is_last and not promise.lingers:
            self.abandon(promise.segment)

    def abandon(self, segment: ModelSegment) -> None:
        """Nobody will publish it."""
        if segment.published or segment.name is None:
            return
        self.abandoned[segment.name] = self.shell.now + 60 * S
        for waiting in [w for w in self.name_queue if w.name == segment.name]:
            self.name_queue.remove(waiting)
            if waiting.client in self.clients:
                assert self.shell.answer(waiting.client, waiting.seq).code is m.RefusalCode.ABANDONED

    def stops_waiting(self, client: int) -> None:
        self.room_queue = [w for w in self.room_queue if w.client != client]
        self.name_queue = [w for w in self.name_queue if w.client != client]
        self.serve()

    def one(self, choice: int, among: list[Any]) -> Any:
        return among[choice % len(among)]

    def is_readers(self, promise: Promise) -> bool:
        return self.shell.table.rows.leases[promise.id].mode is LeaseMode.READ

    # --- rules ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < 5)
    @rule()
    def connect(self) -> None:
        self.unique += 1
        client = self.shell.hello(3000 + self.unique)
        assert client not in self.pids, "an id is never given twice"
        self.pids[client] = 3000 + self.unique
        self.clients.append(client)

    @precondition(lambda self: self.clients)
    @rule(who=st.integers(0, 99), pages=st.integers(1, 8) | st.integers(1, 25), name=st.sampled_from([None, *NAMES]))
    def lease_now_or_never(self, who: int, pages: int, name: str | None) -> None:
        client = self.one(who, self.clients)
        fits = self.pages_in_use() + pages <= CAPACITY and not self.room_queue
        taken = self.named(name) is not None
        answer = self.shell.lease(client, pages, name)
        if taken:
            assert answer.code is m.RefusalCode.EXISTS
        elif not fits:
            assert answer.code is m.RefusalCode.CAPACITY
        else:
            self.granted(client, answer, pages, name)

    @precondition(lambda self: self.clients)
    @rule(who=st.integers(0, 99), pages=st.integers(1, CAPACITY), seconds=st.integers(1, 50), named=st.booleans())
    def lease_or_wait(self, who: int, pages: int, seconds: int, named: bool) -> None:
        client = self.one(who, self.clients)
        self.unique += 1
        self.shell.now += 1
        name = f"own {self.unique}" if named else None
        fields = (self.shell.new_id(client), name, pages * PAGE, pages * PAGE, b"", "", 0, seconds * S + self.unique)
        seq = self.shell.say(client, m.Lease, *fields)
        self.room_queue.append(Waiting(client, seq, self.shell.now + seconds * S + self.unique, pages, name))
        self.serve()

    @precondition(lambda self: any(self.shell.spares(client) for client in self.clients))
    @rule(which=st.integers(0, 99))
    def take_spare(self, which: int) -> None:
        taken = [spare.lease for spare in self.taken]
        free = [s for client in self.clients for s in self.shell.spares(client) if s.lease not in taken]
        free = [s for s in free if self.shell.table.rows.leases[s.lease].state is LeaseState.RESERVED]
        if free:
            spare = self.one(which, free)
            self.shell.claimed.add(spare.segment)
            self.taken.append(spare)

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 99), published=st.booleans())
    def claim_spare(self, which: int, published: bool) -> None:
        spare = self.one(which, self.taken)
        client = spare.lease >> 40
        self.shell.say(client, m.Claim, spare.lease, 8, b"", "", 0, published)
        self.taken.remove(spare)
        self.shell.claimed.discard(spare.segment)
        segment = ModelSegment(spare.segment, spare.size_bytes // PAGE, None, published)
        self.known.append(segment)
        self.leases.append(Promise(spare.lease, client, segment))
        self.serve()

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 99), readers=st.sampled_from([0, 0, 1, 2]), seconds=st.integers(1, 30))
    def publish(self, which: int, readers: int, seconds: int) -> None:
        promise = self.one(which, self.leases)
        segment = promise.segment
        self.unique += 1
        self.shell.now += 1
        until = self.shell.now + seconds * S + self.unique
        self.shell.say(promise.client, m.Publish, promise.id, readers, until if readers else 0)
        segment.published = True
        self.abandoned.pop(segment.name or "", None)
        if readers:
            segment.readers, segment.readers_until = readers, until
        for waiting in [w for w in self.name_queue if w.name == segment.name]:
            self.name_queue.remove(waiting)
            self.attached(waiting.client, self.shell.answer(waiting.client, waiting.seq), segment)

    @precondition(lambda self: self.clients)
    @rule(who=st.integers(0, 99), name=st.sampled_from(NAMES), seconds=st.sampled_from([0, 0, 5, 20]))
    def attach(self, who: int, name: str, seconds: int) -> None:
        client = self.one(who, self.clients)
        self.unique += 1
        timeout_ns = seconds * S + self.unique if seconds else 0
        seq = self.shell.say(client, m.Attach, self.shell.new_id(client), name, "", 0, timeout_ns)
        segment, answer = self.named(name), self.shell.answer(client, seq)
        if segment is not None and segment.published:
            self.attached(client, answer, segment)
        elif name in self.abandoned:
            assert answer.code is m.RefusalCode.ABANDONED
        elif seconds:
            assert answer is None
            self.name_queue.append(Waiting(client, seq, self.shell.now + timeout_ns, name=name))
        else:
            assert answer.code is m.RefusalCode.NOT_FOUND

    @precondition(lambda self: self.leases and self.clients)
    @rule(which=st.integers(0, 99), who=st.integers(0, 99), is_stale=st.booleans())
    def attach_at(self, which: int, who: int, is_stale: bool) -> None:
        segment, client = self.one(which, self.leases).segment, self.one(who, self.clients)
        generation = self.shell.table.rows.segments[segment.number].generation + is_stale
        answer = self.shell.ask(client, m.AttachSegment, self.shell.new_id(client), segment.number, generation, "", 0)
        if segment.published and not is_stale:
            assert (answer.segment, answer.writable) == (segment.number, False)
            self.leases.append(Promise(answer.lease, client, segment))
        else:
            assert answer.code is m.RefusalCode.NOT_FOUND

    @precondition(lambda self: self.clients)
    @rule(who=st.integers(0, 99), name=st.sampled_from(NAMES))
    def withdraw(self, who: int, name: str) -> None:
        segment = self.named(name)
        self.shell.now += 1
        answer = self.shell.ask(self.one(who, self.clients), m.Withdraw, name, self.shell.now)
        if segment is None:
            assert answer.code is m.RefusalCode.NOT_FOUND
        else:
            segment.name, segment.readers = None, 0
            self.serve()

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 99))
    def detach(self, which: int) -> None:
        promise = self.one(which, self.leases)
        self.shell.say(promise.client, m.Detach, promise.id)
        promise.is_detached = not promise.lingers

    @precondition(lambda self: self.tickets and self.clients)
    @rule(which=st.integers(0, 99), who=st.integers(0, 99))
    def revoke(self, which: int, who: int) -> None:
        ticket, client = self.one(which, self.tickets), self.one(who, self.clients)
        assert self.shell.revoke(client, ticket.id)
        self.tickets.remove(ticket)
        self.serve()
        assert not self.shell.revoke(client, ticket.id)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 99), seconds=st.integers(1, 60))
    def make_ticket(self, which: int, seconds: int) -> None:
        promise = self.one(which, self.leases)
        self.unique += 1
        ticket = self.shell.new_id(promise.client)
        until = self.shell.now + seconds * S + self.unique
        self.shell.tokens[ticket] = None
        self.shell.say(promise.client, m.Mint, promise.id, ticket, until, "")
        if promise.segment.published:
            self.tickets.append(Promise(ticket, promise.client, promise.segment, until))
        else:
            assert self.shell.heard(promise.client)[-1].code is m.RefusalCode.NOT_HELD
            del self.shell.tokens[ticket]

    @precondition(lambda self: self.tickets and self.clients)
    @rule(which=st.integers(0, 99), who=st.integers(0, 99))
    def redeem(self, which: int, who: int) -> None:
        ticket, client = self.one(which, self.tickets), self.one(who, self.clients)
        lease = self.shell.redeem(client, ticket.id)
        assert lease is not None
        self.tickets.remove(ticket)
        self.leases.append(Promise(lease, client, ticket.segment))
        assert self.shell.redeem(client, ticket.id) is None, "single use"

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 99), reserved=st.booleans())
    def release(self, which: int, reserved: bool) -> None:
        promise = self.one(which, self.leases)
        self.shell.say(promise.client, m.Release, promise.id, reserved)
        self.ended(promise)
        self.serve()

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 99), kind=st.sampled_from([m.Linger, m.Share, m.Expose]))
    def make_known_elsewhere(self, which: int, kind: type) -> None:
        promise = self.one(which, self.leases)
        self.shell.say(promise.client, kind, promise.id)
        if kind is not m.Linger:
            promise.segment.dirty = True
        elif not (promise.lingers or promise.is_detached):
            promise.segment.dirty = promise.lingers = True
            if not self.is_readers(promise):
                self.abandon(promise.segment)

    @precondition(lambda self: self.leases and self.clients)
    @rule(which=st.integers(0, 99), who=st.integers(0, 99))
    def inherit(self, which: int, who: int) -> None:
        promise, client = self.one(which, self.leases), self.one(who, self.clients)
        answer = self.shell.ask(client, m.Inherit, self.shell.new_id(client), promise.id, "")
        assert answer.segment == promise.segment.number
        assert answer.writable == (not promise.segment.published and not self.is_readers(promise))
        self.leases.append(Promise(answer.lease, client, promise.segment))

    @precondition(lambda self: self.clients)
    @rule(who=st.integers(0, 99), in_order=st.booleans())
    def die_or_leave(self, who: int, in_order: bool) -> None:
        client = self.one(who, self.clients)
        self.shell.claimed -= {spare.segment for spare in self.taken if spare.lease >> 40 == client}
        if in_order:
            self.shell.say(client, m.Bye)
        else:
            self.shell.die(client)
        self.client_is_gone(client)

    @precondition(lambda self: self.clients)
    @rule(who=st.integers(0, 99))
    def lose_the_connection_and_come_back(self, who: int) -> None:
        client = self.one(who, self.clients)
        self.shell.detach(client)
        self.stops_waiting(client)
        assert self.shell.hello(self.pids[client], resume=client) == client

    @rule()
    def registry_is_killed(self) -> None:
        self.shell.take_over()
        self.room_queue.clear()
        self.name_queue.clear()
        for client in self.clients:
            self.shell.hello(self.pids[client], resume=client)

    @rule(milliseconds=st.sampled_from([1, 400, 7000, 30_000]))
    def time_passes(self, milliseconds: int) -> None:
        end = self.shell.now + milliseconds * S // 1000
        while True:
            due = [t.until for t in self.tickets] + [w.until for w in [*self.room_queue, *self.name_queue]]
            due = [at for at in due + [s.readers_until for s in self.kept_for_readers] if at <= end]
            if not due:
                break
            now = min(due)
            self.shell.wait((now - self.shell.now) / S + 2e-9)
            for ticket in [t for t in self.tickets if t.until <= now]:
                ticket.segment.dirty = True
                self.tickets.remove(ticket)
            for segment in [s for s in self.kept_for_readers if s.readers_until <= now]:
                segment.readers, segment.dirty = 0, True
            for waiting in [w for w in self.room_queue if w.until <= now]:
                self.room_queue.remove(waiting)
                assert self.shell.answer(waiting.client, waiting.seq).code is m.RefusalCode.CAPACITY
            for waiting in [w for w in self.name_queue if w.until <= now]:
                self.name_queue.remove(waiting)
                assert self.shell.answer(waiting.client, waiting.seq).code is m.RefusalCode.NOT_FOUND
            self.serve()
        self.shell.wait(max((end - self.shell.now) / S, 0))
        self.abandoned = {name: until for name, until in self.abandoned.items() if until > self.shell.now}

    @precondition(lambda self: self.clients)
    @rule()
    def trim(self) -> None:
        self.shell.ask(self.clients[0], m.Trim)
        assert self.shell.table.rows.warm.total_bytes == 0

    # --- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def leases_and_tickets_are_those_of_the_model(self) -> None:
        rows = self.shell.table.rows
        held = {(lease.id, lease.segment) for lease in rows.leases.values() if lease.state is not LeaseState.RESERVED}
        assert held == {(p.id, p.segment.number) for p in self.leases}
        assert {(t.id, t.segment) for t in rows.tickets.values()} == {(p.id, p.segment.number) for p in self.tickets}

    @invariant()
    def what_somebody_has_a_right_to_is_there(self) -> None:
        rows = self.shell.table.rows
        for segment in self.segments():
            row = rows.segments[segment.number]
            assert self.shell.files[segment.number] == segment.pages * PAGE
            assert row.name == segment.name
            assert (row.state is SegmentState.PUBLISHED) == segment.published
            assert row.readers_expected == segment.readers

    @invariant()
    def everything_else_is_clean_and_warm_or_gone(self) -> None:
        in_use = {segment.number for segment in self.segments()}
        dirty = {segment.number for segment in self.known if segment.dirty}
        for number in self.shell.files:
            if number not in in_use:
                assert self.shell.table.rows.segments[number].state in (SegmentState.WARM, SegmentState.RESERVED)
                assert number not in dirty, "never recycled"
        assert set(self.shell.table.rows.segments) == set(self.shell.files)

    @invariant()
    def bounds_hold(self) -> None:
        rows = self.shell.table.rows
        assert sum(self.shell.files.values()) == rows.used_bytes <= CAPACITY * PAGE
        assert rows.warm.total_bytes <= WARM * PAGE

    @invariant()
    def a_successor_would_find_the_same(self) -> None:
        snapshot = self.shell.snapshot()
        rows = self.shell.table.rows
        assert (snapshot.segments, snapshot.leases, snapshot.tickets) == (rows.segments, rows.leases, rows.tickets)


TestLeaseTable = LeaseTable.TestCase
# Bugs show in a few interleavings only: 40 examples missed one that 150 found, in five seconds.
TestLeaseTable.settings = settings(max_examples=max(150, settings.default.max_examples), stateful_step_count=60)
