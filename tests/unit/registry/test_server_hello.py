"""Who is let in, who may go on as whom, and what a packet that breaks the protocol costs its sender."""

from __future__ import annotations

import errno

import pytest
from msgspec.structs import replace
from stage import SECRET, Stage

from rig.shell import identity
from shmlease.core import messages as m
from shmlease.core.limits import Limits
from shmlease.core.messages import RefusalCode
from shmlease.core.model import ClientState, EventKind
from shmlease.core.wire import encode


def test_process_is_welcomed_and_has_a_notice_log(stage: Stage) -> None:
    client = stage.hello()
    (welcome,) = stage.heard(client)
    assert (welcome.client, welcome.applied, welcome.registry, welcome.epoch) == (client, 0, "r1", 1)
    assert stage.entries() == {("j", client, None)}


@pytest.mark.parametrize(
    ("packet", "seq", "words"),
    [
        (b"\xc1", 0, "malformed"),
        (b"\0" * 65537, 0, "at most 65536"),
        (encode([m.Ping(5)]), 0, "begins with Hello, not Ping"),
        (encode([m.Hello(5, m.PROTOCOL + 1, SECRET, 0)]), 5, "same version"),
        (encode([m.Hello(5, m.PROTOCOL, SECRET[1:], 0)]), 0, "malformed"),
    ],
    ids=["noise", "too long", "no hello", "another protocol", "short secret"],
)
def test_who_does_not_say_hello_is_refused(stage: Stage, packet: bytes, seq: int, words: str) -> None:
    refused = stage.knock(packet)
    assert (refused.code, refused.seq) == (RefusalCode.PROTOCOL, seq)
    assert words in refused.message
    assert stage.rows.clients == {}
    assert stage.entries() == set()


def test_process_that_did_not_hear_its_welcome_is_the_same_client_still(stage: Stage) -> None:
    assert stage.hello(1000) == stage.hello(1000)
    assert stage.hello(1000, secret=SECRET[::-1]) != stage.hello(1000)
    assert len(stage.rows.clients) == 2


def test_client_goes_on_with_what_it_had(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.share(client, "a").lease
    applied = stage.rows.applied[client]
    stage.server.disconnected(client)
    assert stage.deeds(lambda: stage.resume(client)) == ["commit", "send"], "it has a notice log"
    assert stage.rows.clients[client].state is ClientState.CONNECTED
    assert stage.heard(client)[-1].applied == applied
    assert [held for held in stage.rows.leases if held == lease] == [lease]


def test_what_a_client_wrote_before_it_came_back_counts_in_its_welcome(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    stage.server.disconnected(client)
    seq = stage.write(client, m.Publish, lease, 0, 0)
    stage.resume(client)
    assert stage.heard(client)[-1].applied == seq
    assert stage.states() == ["published"]


@pytest.mark.parametrize(
    ("pid", "secret", "offset"),
    [(2000, SECRET, 0), (1000, SECRET[::-1], 0), (1000, SECRET, 1)],
    ids=["another process", "another secret", "nobody"],
)
def test_nobody_goes_on_as_another(stage: Stage, pid: int, secret: bytes, offset: int) -> None:
    client = stage.hello(1000)
    stage.lease(client, "a")
    before = stage.rows.clients[client]
    refused = stage.resume(client + offset, pid, secret=secret)
    assert refused.code is RefusalCode.RESUME
    assert stage.rows.clients == {client: before}
    assert len(stage.rows.leases) == 1


def test_dead_client_does_not_come_back(stage: Stage) -> None:
    client = stage.hello()
    stage.die(client)
    assert stage.resume(client).code is RefusalCode.RESUME


def test_client_without_room_for_a_notice_log_is_no_client(stage: Stage) -> None:
    stage.store.failures["create_notice_log"] = [OSError(errno.ENOSPC, "No space left on device")]
    refused = stage.knock(encode([m.Hello(5, m.PROTOCOL, SECRET, 0)]))
    assert (refused.seq, refused.code) == (5, RefusalCode.CAPACITY)
    assert "No space left" in refused.message
    assert not [row for row in stage.rows.clients.values() if row.state is not ClientState.ENDED]
    assert stage.hello() > 0


def test_registry_that_is_being_closed_lets_nobody_in() -> None:
    stage = Stage(owner=identity(1000))
    stage.ask(stage.hello(1000), m.Close)
    assert stage.knock(encode([m.Hello(5, m.PROTOCOL, SECRET, 0)]), pid=2000).code is RefusalCode.CLOSING


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\0" * 65537,
        encode([m.Ping(number) for number in range(1, 66)]),
        encode([m.Ping(5), m.Hello(6, m.PROTOCOL, SECRET, 0)]),
        encode([m.Ping(5), m.Release(6, 7)]),
        encode([m.Ping(5), m.Ping(-1)]),
        encode([m.Ping(5), m.Attach(6, 7, "a\n", "", 0, 0)]),
    ],
    ids=["empty", "noise", "no message", "too long", "too many", "second hello", "notice", "out of bounds", "bad name"],
)
def test_malformed_packet_ends_its_senders_connection_and_nothing_else(stage: Stage, packet: bytes) -> None:
    vandal, other = stage.hello(1000), stage.hello(2000)
    stage.share(vandal, "a")
    stage.wire.packets.clear()
    stage.history.clear()
    stage.receive(vandal, packet)
    assert ("drop", vandal) in stage.history
    assert stage.heard(vandal) == [], "not even what came before in the packet is answered"
    assert stage.rows.clients[vandal].state is ClientState.DETACHED
    (event,) = [event for event in stage.rows.events.values() if event.kind is EventKind.CLIENT_DROPPED]
    assert event.detail.startswith("protocol violation")
    assert isinstance(stage.attach(other, "a"), m.Attached), "what it holds stays"
    assert stage.resume(vandal) == vandal


def test_nobody_answers_one_who_has_left(stage: Stage) -> None:
    client = stage.hello()
    stage.write(client, m.Bye)
    stage.receive(client, encode([m.Ring(1000), m.Lease(1001, client << 40 | 1001, "a", 1, 1, b"", "", 0, 0)]))
    assert stage.answer(client, 1001) is None
    assert stage.rows.segments == {}


MUCH = Limits(*[100] * 7, 0, 0)
LITTLE = replace(MUCH, open_files=10)


@pytest.mark.parametrize(
    ("offered", "handed_over"),
    [(MUCH, True), (replace(MUCH, open_files=20), True), (LITTLE, False), (replace(MUCH, cpu_s=9), False), (None, False)],
)
def test_weak_registry_ends_in_favour_of_a_client_that_may_use_more(
    stage: Stage, offered: Limits | None, handed_over: bool
) -> None:
    stage.rows.put(replace(stage.rows.registry, limits=LITTLE, wanted=MUCH))
    packet = encode([m.Hello(7, m.PROTOCOL, SECRET, 0, offered)])
    answer = stage.server.hello(packet, identity(1234))
    assert (answer == b"") is handed_over
    assert stage.server.is_handed_over is handed_over
    assert (("stop",) in stage.history) is handed_over
    stage.server.settle()
    words = [event.detail for event in stage.rows.events.values() if event.kind is EventKind.HANDED_OVER]
    assert words == (["to pid 1234, for this process had RLIMIT_NOFILE 10 instead of 100"] if handed_over else [])
    assert not stage.rows.registry.closing


def test_registry_that_lacks_nothing_or_is_being_closed_is_not_handed_over(stage: Stage) -> None:
    packet = encode([m.Hello(7, m.PROTOCOL, SECRET, 0, replace(MUCH, open_files=1000))])
    for row in (
        replace(stage.rows.registry, limits=MUCH, wanted=MUCH),
        stage.rows.registry,
        replace(stage.rows.registry, limits=LITTLE, wanted=MUCH, closing=True),
    ):
        stage.rows.put(row)
        stage.server.hello(packet, identity(1234))
        assert not stage.server.is_handed_over
