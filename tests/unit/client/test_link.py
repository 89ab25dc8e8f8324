"""A link against a scripted registry on a clock that moves when somebody waits: hang-ups, silence, full notice logs,
threads.
"""

from __future__ import annotations

import logging
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from rig.until import until
from shmlease.client.channel import RECOVER_WITHIN_S
from shmlease.client.hold import Hold
from shmlease.client.link import Link
from shmlease.client.owned_registry import OwnedRegistry
from shmlease.client.spares import take_spare
from shmlease.core import messages as m
from shmlease.core.wire import decode_client_packet, encode
from shmlease.errors import CapacityError, ProtocolError, RegistryUnavailableError

S = 1_000_000_000


class FakeClock:
    def __init__(self) -> None:
        self.ns = 100 * S

    def now_ns(self) -> int:
        return self.ns

    def wait_s(self, seconds: float) -> None:
        self.ns += int(seconds * S)


class FakeNoticeLog:
    """Keeps the notices; has room for `room` between two restarts."""

    def __init__(self, room: int) -> None:
        self.room, self.left = room, room
        self.notices: list[m.Notice] = []
        self.restarts = 0
        self.last = 0

    def append(self, notice: m.Notice) -> bool:
        if self.left == 0:
            return False
        self.left -= 1
        self.last = notice.seq
        self.notices.append(notice)
        return True

    def restart(self) -> None:
        self.restarts += 1
        self.left = self.room


class FakeClaim:
    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        self.segment = 0

    def close(self) -> None:
        self.registry.let_gone.append(self.segment)


class FakeConnection:
    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        self.incoming: deque[bytes] = deque()
        self.inbox: deque[bytes] = deque()
        self.broken = False
        self.closed = False

    def open(self) -> None:
        if not self.registry.alive:
            raise ConnectionRefusedError
        self.registry.connections.append(self)

    def send(self, packet: bytes) -> None:
        if self.broken:
            raise BrokenPipeError
        for message in decode_client_packet(packet):
            self.registry.heard.append(message)
            self.registry.take(self, message)

    def receive(self, *, wait: bool) -> None:
        if self.incoming:
            self.inbox.append(self.incoming.popleft())
        elif self.broken:
            self.inbox.append(b"")
        elif wait and self.registry.others_act:
            self.registry.happened.wait(0.001)
        elif wait:
            self.registry.clock.wait_s(1)

    def close(self) -> None:
        self.closed = True

    def push(self, *messages: m.RegistryMessage) -> None:
        self.incoming.append(encode(messages))


class FakeRegistry:
    """An endpoint that answers as `answers` says: message type -> what to do."""

    id = "fake"
    spawn = None

    def __init__(self, notice_log_room: int = 1000) -> None:
        self.clock = FakeClock()
        self.notice_log = FakeNoticeLog(notice_log_room)
        self.connections: list[FakeConnection] = []
        self.heard: list[Any] = []
        self.alive = True
        self.there = True
        self.successors = 0
        self.let_gone: list[int] = []
        self.others_act = False  # another thread moves the story on, not the clock
        self.happened = threading.Event()
        self.greeting: Callable[[m.Hello], m.RegistryMessage] = lambda hello: m.Welcome(
            hello.seq, hello.resume or 3, 0, "fake", 1 + self.successors, 42, 4096
        )
        self.answers: dict[type, Callable[[FakeConnection, Any], None]] = {
            m.Ping: lambda connection, ping: connection.push(m.Done(ping.seq)),
        }

    def take(self, connection: FakeConnection, message: Any) -> None:
        if isinstance(message, m.Hello):
            connection.push(self.greeting(message))
        else:
            self.answers.get(type(message), lambda *_: None)(connection, message)

    def heard_of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def die(self) -> None:
        self.alive = False
        for connection in self.connections:
            connection.broken = True

    # what the link needs of an endpoint

    def exists(self) -> bool:
        return self.there

    def connection(self) -> FakeConnection:
        return FakeConnection(self)

    def limits(self) -> None:
        """It is no process."""

    def succeed(self) -> None:
        if not self.alive:
            self.successors += 1
            self.alive = True

    def open_notice_log(self, client: int) -> FakeNoticeLog:
        return self.notice_log

    def map(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def new_claim(self) -> FakeClaim:
        return FakeClaim(self)

    def claim_spare(self, segment: int, generation: int, claim: FakeClaim) -> bool:
        claim.segment = segment
        return True

    def close(self) -> None:
        """Nothing is kept open."""


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def link(registry: FakeRegistry) -> Link:
    return Link(registry)  # type: ignore[arg-type]


def ping(link: Link) -> m.Done:
    return link.request(m.Done, m.Ping)


def release(number: int) -> Callable[[int], m.Notice]:
    return lambda seq: m.Release(seq, number)


def queue(link: Link, notice: Callable[[int], m.Notice]) -> None:
    """As a finalizer does."""
    link.session.outbox.append(notice)
    link.settle()


def test_link_is_made_when_it_is_first_used(link: Link, registry: FakeRegistry) -> None:
    assert not registry.connections
    ping(link)
    assert [type(message) for message in registry.heard] == [m.Hello, m.Ping]
    assert link.session.client == 3


def test_registry_that_is_not_there_is_a_clear_error(link: Link, registry: FakeRegistry) -> None:
    registry.there = False
    with pytest.raises(RegistryUnavailableError, match="shmlease serve") as refused:
        link.connect()
    assert refused.value.registry == "fake"
    assert link.ended


def test_error_of_an_ended_link_does_not_grow(link: Link, registry: FakeRegistry) -> None:
    """One exception raised again and again would keep the frames of all its raisings, and the arrays in them."""
    registry.there = False
    lengths = []
    for _ in range(3):
        with pytest.raises(RegistryUnavailableError) as refused:
            ping(link)
        lengths.append(len(traceback.extract_tb(refused.value.__traceback__)))
    assert len(set(lengths[1:])) == 1
    assert lengths[-1] <= lengths[0]


def test_notice_is_written_then_rung_for_and_the_next_one_is_not_rung_for(link: Link, registry: FakeRegistry) -> None:
    link.send(release(1))
    assert [type(message) for message in registry.heard] == [m.Hello, m.Ring]
    link.send(release(2))
    assert len(registry.heard_of(m.Ring)) == 1
    assert [notice.lease for notice in registry.notice_log.notices] == [1, 2]  # type: ignore[union-attr]


def test_notice_after_a_quiet_time_is_rung_for_again(link: Link, registry: FakeRegistry) -> None:
    link.send(release(1))
    registry.clock.ns += m.QUIET_NS
    link.send(release(2))
    assert len(registry.heard_of(m.Ring)) == 2


def test_urgent_notice_is_rung_for_in_any_case(link: Link, registry: FakeRegistry) -> None:
    link.send(release(1))
    link.send(release(2), urgent=True)
    assert len(registry.heard_of(m.Ring)) == 2


def test_registry_looks_again_later_than_a_client_is_quiet() -> None:
    assert m.LOOK_AGAIN_NS > m.QUIET_NS


def test_numbers_only_go_up(link: Link, registry: FakeRegistry) -> None:
    for number in range(5):
        link.send(release(number))
        ping(link)
    seqs = [message.seq for message in registry.heard]
    assert seqs == sorted(set(seqs))
    said = [notice.seq for notice in registry.notice_log.notices]
    assert not set(said) & set(seqs)
    assert said == sorted(said)


def test_full_notice_log_is_confirmed_and_begun_again() -> None:
    registry = FakeRegistry(notice_log_room=5)
    link = Link(registry)  # type: ignore[arg-type]
    for number in range(23):
        link.send(release(number))
    assert [notice.lease for notice in registry.notice_log.notices] == list(range(23))  # type: ignore[union-attr]
    assert len(registry.heard_of(m.Ping)) == 4


def test_finalizers_of_two_threads_say_each_thing_once_though_the_notice_log_is_full() -> None:
    """Who waits for room lets the lock go; the other must neither say the same thing again nor take its place."""
    registry = FakeRegistry(notice_log_room=1)
    registry.others_act = True
    link = Link(registry)  # type: ignore[arg-type]
    link.send(release(1))
    asked: list[tuple[FakeConnection, m.Ping]] = []
    registry.answers[m.Ping] = lambda connection, ping: asked.append((connection, ping))
    waiting = threading.Thread(target=queue, args=(link, release(2)))
    waiting.start()
    until(lambda: asked)
    registry.notice_log.left = 2  # room for what the other says, were it to say anything
    queue(link, release(3))
    registry.answers[m.Ping] = lambda connection, ping: connection.push(m.Done(ping.seq))
    connection, ping = asked[0]
    connection.push(m.Done(ping.seq))
    waiting.join(60)
    assert [notice.lease for notice in registry.notice_log.notices] == [1, 2, 3]  # type: ignore[union-attr]


def test_notice_log_is_not_begun_again_before_all_of_it_was_read(link: Link, registry: FakeRegistry) -> None:
    """A reply confirms what was written before its request was sent, not what was written since."""
    registry.others_act = True
    late: list[Any] = []
    registry.answers[m.Statistics] = lambda connection, asked: late.append((connection, asked))
    link.send(release(1))
    thread = threading.Thread(target=lambda: link.request(m.Done, m.Statistics))
    thread.start()
    until(lambda: late)
    restarts = registry.notice_log.restarts
    link.send(release(2))
    connection, asked = late[0]
    connection.push(m.Done(asked.seq))
    thread.join(60)
    assert registry.notice_log.restarts == restarts


def test_refusal_is_raised_as_its_exception(link: Link, registry: FakeRegistry) -> None:
    registry.answers[m.Trim] = lambda connection, trim: connection.push(
        m.Refused(trim.seq, m.RefusalCode.CAPACITY, "no room", {"requested_bytes": 7})
    )
    with pytest.raises(CapacityError, match="no room") as refused:
        link.request(m.Done, m.Trim)
    assert refused.value.requested_bytes == 7


def test_answer_of_another_kind_is_a_protocol_error(link: Link, registry: FakeRegistry) -> None:
    registry.answers[m.Trim] = lambda connection, trim: connection.push(m.Exposed(trim.seq, "what"))
    with pytest.raises(ProtocolError, match="answered Exposed where Done was expected"):
        link.request(m.Done, m.Trim)


def test_after_a_takeover_the_link_resumes_and_asks_again(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    hello = registry.heard_of(m.Hello)[0]

    def dies(connection: FakeConnection, trim: m.Trim) -> None:
        registry.answers[m.Trim] = lambda connection, trim: connection.push(m.Done(trim.seq, 99))
        registry.die()

    registry.answers[m.Trim] = dies
    assert link.request(m.Done, m.Trim).freed_bytes == 99
    assert registry.successors == 1
    again = registry.heard_of(m.Hello)[1]
    assert (again.resume, again.secret) == (3, hello.secret)
    first, second = registry.heard_of(m.Trim)
    assert first == second
    assert link.session.epoch == 2
    assert registry.connections[0].closed


def test_notice_whose_ringing_fails_is_not_written_twice(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.die()
    link.send(release(1), urgent=True)
    assert len(registry.notice_log.notices) == 1
    assert registry.successors == 1


def test_client_that_cannot_resume_has_lost_its_registry(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.die()
    registry.greeting = lambda hello: m.Refused(hello.seq, m.RefusalCode.RESUME, "there is no client 3")
    with pytest.raises(RegistryUnavailableError, match="there is no client 3"):
        ping(link)
    assert link.ended


def test_registry_that_is_silent_is_given_up_after_a_while(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.answers.clear()
    begun = registry.clock.ns
    with pytest.raises(RegistryUnavailableError, match="is it stopped"):
        ping(link)
    assert registry.clock.ns - begun <= (RECOVER_WITHIN_S + 2) * S


def test_registry_that_waits_for_its_client_is_given_the_time(link: Link, registry: FakeRegistry) -> None:
    begun = registry.clock.ns

    def much_later(connection: FakeConnection, trim: m.Trim) -> None:
        receive = connection.receive

        def patiently(*, wait: bool) -> None:
            if registry.clock.ns - begun > 30 * S:
                connection.push(m.Done(trim.seq))
            receive(wait=wait)

        connection.receive = patiently  # type: ignore[method-assign]

    registry.answers[m.Trim] = much_later
    assert link.request(m.Done, m.Trim, timeout_s=40) == m.Done(registry.heard_of(m.Trim)[0].seq)


def test_registry_that_keeps_hanging_up_is_given_up_after_a_while(link: Link, registry: FakeRegistry) -> None:
    def hang_up(connection: FakeConnection, _: m.Trim) -> None:
        connection.broken = True
        registry.clock.wait_s(0.5)

    registry.answers[m.Trim] = hang_up
    begun = registry.clock.ns
    with pytest.raises(RegistryUnavailableError):
        link.request(m.Done, m.Trim)
    assert registry.clock.ns - begun <= (RECOVER_WITHIN_S + 5) * S


def test_registry_that_nobody_can_succeed_is_given_up_after_a_while(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.die()
    registry.succeed = lambda: None  # type: ignore[method-assign]
    begun = registry.clock.ns
    with pytest.raises(RegistryUnavailableError, match="did not answer within"):
        ping(link)
    assert registry.clock.ns - begun <= (RECOVER_WITHIN_S + 2) * S


def ask_for_a_lease(link: Link) -> m.Granted:
    return link.request(m.Granted, lambda seq: m.Lease(seq, link.session.id_of(seq), None, 4096, 1, b"", "", 0, 0), 60)


def interrupt_once(connection: FakeConnection, message: m.Request) -> None:
    """What the caller of `message` meets while it waits for the answer."""
    receive = connection.receive

    def interrupted(*, wait: bool) -> None:
        connection.receive = receive  # type: ignore[method-assign]
        raise KeyboardInterrupt

    connection.receive = interrupted  # type: ignore[method-assign]


def test_who_is_interrupted_while_it_waits_for_a_lease_waits_no_more(link: Link, registry: FakeRegistry) -> None:
    registry.answers[m.Lease] = interrupt_once
    with pytest.raises(KeyboardInterrupt):
        ask_for_a_lease(link)
    link.settle()  # as a thread does soon, or the next call
    assert registry.connections[0].closed  # a registry forgets what a client that hangs up has asked for
    (asked,) = registry.heard_of(m.Lease)
    registry.answers[m.Lease] = lambda connection, lease: connection.push(
        m.Granted(lease.seq, lease.lease, 5, 1, 4096, True)  # granted before it knew
    )
    ping(link)
    link.send(release(1))
    assert registry.heard_of(m.Lease)[1].timeout_ns == 0
    assert asked.lease in [notice.lease for notice in registry.notice_log.notices]  # type: ignore[union-attr]


def abandon_a_lease(link: Link, registry: FakeRegistry) -> None:
    """A request for a lease is interrupted while another thread waits for something, so that the connection stays."""
    link.connect()
    registry.answers[m.Lease] = interrupt_once
    link.session.outstanding[0] = m.Ping(0)
    with pytest.raises(KeyboardInterrupt):
        ask_for_a_lease(link)
    link.settle()
    del link.session.outstanding[0], registry.answers[m.Lease]


def test_lease_granted_to_nobody_is_released_while_another_waits(link: Link, registry: FakeRegistry) -> None:
    """What it waits for may be the very memory that was granted to nobody."""
    abandon_a_lease(link, registry)
    (asked,) = registry.heard_of(m.Lease)

    def grant_what_was_asked_before(connection: FakeConnection, trim: m.Trim) -> None:
        append = registry.notice_log.append

        def appended(notice: m.Notice) -> bool:
            connection.push(m.Done(trim.seq))
            return append(notice)

        registry.notice_log.append = appended  # type: ignore[method-assign]
        connection.push(m.Granted(asked.seq, asked.lease, 5, 1, 4096, True))

    registry.answers[m.Trim] = grant_what_was_asked_before
    link.request(m.Done, m.Trim)
    assert [notice.lease for notice in registry.notice_log.notices] == [asked.lease]  # type: ignore[union-attr]


def test_owner_that_closes_is_not_taken_for_the_holder_of_what_its_interrupted_call_is_granted(
    link: Link, registry: FakeRegistry
) -> None:
    registry.answers[m.Lease] = interrupt_once
    with pytest.raises(KeyboardInterrupt):
        ask_for_a_lease(link)
    granted: set[int] = set()

    def grant(connection: FakeConnection, lease: m.Lease) -> None:
        granted.add(lease.lease)
        connection.push(m.Granted(lease.seq, lease.lease, 5, 1, 4096, True))

    def close(connection: FakeConnection, close: m.Close) -> None:
        held = granted - {notice.lease for notice in registry.notice_log.notices if isinstance(notice, m.Release)}
        connection.push(m.Closed(close.seq, [f"lease {lease}" for lease in held]))

    registry.answers |= {m.Lease: grant, m.Close: close}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OwnedRegistry(link).close(stacklevel=2)
    assert granted


def test_after_a_takeover_what_was_asked_first_is_asked_again_first(link: Link, registry: FakeRegistry) -> None:
    """Its client may call no more after the answer it waits for; a lease granted to nobody later would not be released."""
    abandon_a_lease(link, registry)

    def dies(connection: FakeConnection, trim: m.Trim) -> None:
        registry.answers[m.Trim] = lambda connection, trim: connection.push(m.Done(trim.seq))
        registry.die()

    registry.answers[m.Trim] = dies
    link.request(m.Done, m.Trim)
    assert [type(message) for message in registry.heard if isinstance(message, m.Lease | m.Trim)][-2:] == [m.Lease, m.Trim]


def test_threads_get_their_own_answers(link: Link, registry: FakeRegistry) -> None:
    """Whoever reads, reads for all; answers come in another order than the questions."""
    registry.others_act = True
    asked: list[tuple[FakeConnection, Any]] = []
    registry.answers[m.Trim] = lambda connection, trim: asked.append((connection, trim))
    got: dict[int, int] = {}

    def ask() -> None:
        done = link.request(m.Done, m.Trim)
        got[done.seq] = done.freed_bytes

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(asked) == 6)
    for connection, trim in reversed(asked):
        connection.push(m.Done(trim.seq, trim.seq * 10))
    for thread in threads:
        thread.join(60)
    assert got == {trim.seq: trim.seq * 10 for _, trim in asked}


def test_collector_may_speak_while_the_lock_is_held(link: Link, registry: FakeRegistry) -> None:
    """A finalizer runs in whatever thread and at whatever moment; it must neither wait nor be forgotten."""

    def collect(connection: FakeConnection, trim: m.Trim) -> None:
        queue(link, release(77))
        assert not registry.notice_log.notices
        connection.push(m.Done(trim.seq))

    registry.answers[m.Trim] = collect
    link.request(m.Done, m.Trim)
    assert [notice.lease for notice in registry.notice_log.notices] == [77]  # type: ignore[union-attr]


def test_collector_speaks_to_an_ended_registry_without_harm(link: Link, registry: FakeRegistry) -> None:
    registry.there = False
    with pytest.raises(RegistryUnavailableError):
        link.connect()
    queue(link, release(1))
    assert not registry.notice_log.notices


def test_spare_that_fits_is_taken_and_its_lock_is_let_go_when_its_claim_was_read(
    link: Link, registry: FakeRegistry
) -> None:
    ping(link)
    registry.connections[0].push(m.Spare(0, 3 << 40 | 1 << 39 | 1, 8, 1, 8192, True))
    assert take_spare(Hold(link), 16384, 20480) is None
    assert take_spare(Hold(link), 4096, 5120) is None
    spare = take_spare(Hold(link), 8192, 10240)
    assert spare is not None
    link.send(lambda seq: m.Claim(seq, spare.lease, 1, b"", "", 0, False))
    assert registry.let_gone == []
    ping(link)
    assert registry.let_gone == [8]


def test_spare_taken_and_given_back_keeps_no_descriptor(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.connections[0].push(m.Spare(0, 3 << 40 | 1 << 39 | 1, 8, 1, 8192, True))
    spare = take_spare(Hold(link), 8192, 10240)
    assert spare is not None
    link.send(lambda seq: m.Release(seq, spare.lease))
    ping(link)
    ping(link)
    assert registry.let_gone == [8]


def test_spares_that_have_come_meanwhile_are_not_asked_for(link: Link, registry: FakeRegistry) -> None:
    def grant(*numbers: int) -> None:
        for number in numbers:
            registry.connections[0].push(m.Spare(0, 3 << 40 | 1 << 39 | number, number, 1, 8192, True))

    ping(link)
    grant(1, 2)
    assert take_spare(Hold(link), 8192, 10240) is not None
    grant(3, 4, 5)
    assert take_spare(Hold(link), 8192, 10240) is not None
    assert len(link.session.spares) == 3
    assert not link.session.needs_spares()


def test_spare_that_was_revoked_is_not_taken(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.connections[0].push(m.Spare(0, 3 << 40 | 1 << 39 | 1, 8, 1, 8192, True))
    registry.claim_spare = lambda segment, generation, claim: False  # type: ignore[method-assign]
    assert take_spare(Hold(link), 8192, 10240) is None


def refuse_a_notice(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.connections[0].push(m.Refused(1, m.RefusalCode.NOT_HELD, "lease 0x5: this client does not hold it"))
    ping(link)


def test_refused_notice_is_logged_as_an_error_once(
    link: Link, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_a_notice(link, registry)
    ping(link)
    assert caplog.record_tuples == [
        ("shmlease", logging.ERROR, "registry fake refused a notice: lease 0x5: this client does not hold it")
    ]


def test_handler_of_logging_may_use_the_link(link: Link, registry: FakeRegistry) -> None:
    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ping(link)
            told.append(record.getMessage())

    told: list[str] = []
    handler = Asking()
    logging.getLogger("shmlease").addHandler(handler)
    try:
        refuse_a_notice(link, registry)
    finally:
        logging.getLogger("shmlease").removeHandler(handler)
    assert told


def test_forked_child_begins_anew_and_closes_what_was_its_parents(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    registry.connections[0].push(m.Spare(0, 3 << 40 | 1 << 39 | 1, 8, 1, 8192, True))
    take_spare(Hold(link), 8192, 10240)
    session = link.session
    link.after_fork_in_child()
    assert link.session is not session
    assert registry.connections[0].closed
    assert registry.let_gone == [8]
    ping(link)
    before, after = registry.heard_of(m.Hello)
    assert after.secret != before.secret
    assert after.resume == 0


def test_forked_child_is_not_held_up_by_a_lock_of_its_parent(link: Link) -> None:
    ping(link)
    link.lock.acquire()
    link.after_fork_in_child()
    ping(link)


def test_link_that_leaves_says_goodbye_once(link: Link, registry: FakeRegistry) -> None:
    ping(link)
    link.close()
    link.close()
    assert [type(notice) for notice in registry.notice_log.notices] == [m.Bye]
    assert registry.connections[0].closed
    with pytest.raises(RegistryUnavailableError, match="has left it"):
        ping(link)
