"""What two registries have died of is refused; whatever else they had in hand is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from stage import PAGE, Stage

from rig import plants
from shmlease.core import messages as m
from shmlease.core.effects import RetireSegment
from shmlease.core.model import NUMBER_BITS, ClientState
from shmlease.core.table import Table
from shmlease.core.wire import encode
from shmlease.testing.memory_store import MemoryStore


class DiedError(Exception):
    """The registry has died here."""


@pytest.fixture
def dies_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Let every registry die of messages of a kind."""

    def planted(kind: type) -> None:
        def met(table: Table, client: int, message: Any) -> Any:
            del table, client
            if isinstance(message, kind):
                raise DiedError
            return message

        plants.on_messages(met, monkeypatch.setattr)

    return planted


def asked(stage: Stage, client: int, *messages: m.ClientMessage) -> list[Any]:
    """`client` sends a packet, and the loop's turn ends: what was answered."""
    stage.server.received(client, encode(messages))
    stage.server.settle()
    return [stage.answer(client, message.seq) for message in messages]


def lease(client: int, seq: int, name: str) -> m.Lease:
    return m.Lease(seq, client << NUMBER_BITS | seq, name, PAGE, 8, b"", "", 0, 0)


def test_request_that_two_registries_died_of_is_refused(stage: Stage, dies_of: Callable[[type], None]) -> None:
    client = stage.hello()
    dies_of(m.Trim)
    for _ in range(2):
        with pytest.raises(DiedError):
            asked(stage, client, m.Trim(7))
        stage = stage.succeed()
    (refused,) = asked(stage, client, m.Trim(7))
    assert refused.code is m.RefusalCode.FAULT
    assert "Trim number 7 of client 1" in refused.message
    with pytest.raises(DiedError):
        asked(stage, client, m.Trim(8))


def test_neighbours_of_the_one_in_the_same_turn_are_served(stage: Stage, dies_of: Callable[[type], None]) -> None:
    guilty, innocent = stage.hello(1000), stage.hello(2000)
    dies_of(m.Trim)
    stage.server.received(innocent, encode([lease(innocent, 500, "a")]))
    with pytest.raises(DiedError):
        asked(stage, guilty, m.Ping(6), m.Trim(7))
    assert innocent << NUMBER_BITS | 500 not in stage.log.snapshot().leases, "it was lost with the turn"
    stage = stage.succeed()
    assert isinstance(asked(stage, innocent, lease(innocent, 500, "a"))[0], m.Granted)
    stage.server.received(innocent, encode([lease(innocent, 501, "b")]))
    with pytest.raises(DiedError):
        asked(stage, guilty, m.Ping(6), m.Trim(7))
    assert innocent << NUMBER_BITS | 501 in stage.log.snapshot().leases, "it was committed before the next was begun"
    stage = stage.succeed()
    assert [type(answer) for answer in asked(stage, guilty, m.Ping(6), m.Trim(7))] == [m.Done, m.Refused]
    assert isinstance(asked(stage, innocent, lease(innocent, 501, "b"))[0], m.Granted)


def test_suspect_that_is_carried_out_is_none_any_more(stage: Stage, dies_of: Callable[[type], None]) -> None:
    guilty, innocent = stage.hello(1000), stage.hello(2000)
    dies_of(m.Trim)
    stage.server.received(innocent, encode([lease(innocent, 500, "a")]))
    with pytest.raises(DiedError):
        asked(stage, guilty, m.Trim(7))
    stage = stage.succeed()
    asked(stage, innocent, lease(innocent, 500, "a"))
    stage.server.received(innocent, encode([lease(innocent, 500, "a")]))  # in hand once more, when it dies of another
    with pytest.raises(DiedError):
        asked(stage, guilty, m.Trim(7))
    assert isinstance(asked(stage.succeed(), innocent, lease(innocent, 500, "a"))[0], m.Granted)


def test_notice_that_two_registries_died_of_is_passed_over(stage: Stage, dies_of: Callable[[type], None]) -> None:
    client = stage.hello()
    held = stage.lease(client, "a").lease
    dies_of(m.Linger)

    def found(stage: Stage) -> None:
        """What the client has written is read, as by each registry that comes."""
        for notice in (m.Linger(900, held), m.Release(901, held)):
            stage.files.open_notice_log(client).append(notice)
        stage.server.recover([])

    for _ in range(2):
        with pytest.raises(DiedError):
            found(stage)
        stage = Stage(left=stage)
    found(stage)
    assert stage.rows.leases == {}, "what was written after it has counted"
    assert stage.rows.applied[client] == 901
    assert [e.detail for e in stage.rows.events.values() if "Linger number 900" in e.detail]


def test_death_that_two_registries_died_of_leaves_the_client_as_it_was(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stage.hello()
    stage.lease(client, "a")

    def die(*_: Any) -> None:
        raise DiedError

    monkeypatch.setattr(Table, "holder_died", die)
    for _ in range(2):
        with pytest.raises(DiedError):
            stage.die(client)
        stage = stage.succeed()
    stage.die(client)
    assert stage.rows.clients[client].state is ClientState.DETACHED
    assert len(stage.rows.leases) == 1
    assert any("end of client 1" in event.detail for event in stage.rows.events.values())


def test_effect_that_two_registries_died_of_is_left(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stage.hello()
    granted = stage.lease(client, "a")

    def die(*_: Any, **__: Any) -> None:
        raise DiedError

    monkeypatch.setattr(MemoryStore, "retire_segment", die)
    stage.write(client, m.Release, granted.lease)
    with pytest.raises(DiedError):
        stage.ask(client, m.Ping)
    second = stage.succeed()
    with pytest.raises(DiedError):
        second.pass_time(1)
    third = second.succeed()
    third.pass_time(1)
    assert third.states() == ["retiring"]
    assert third.ask(client, m.Ping) is not None
    assert any(RetireSegment.__name__ in event.detail for event in third.rows.events.values())


def test_request_granted_before_it_is_refused_holds_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registries died after the commit, when they answered."""
    client = stage.hello()
    send = type(stage.wire).send

    def die(transport: Any, to: int, packet: bytes) -> None:
        del packet
        if to == client and transport is not None:
            raise DiedError

    monkeypatch.setattr(type(stage.wire), "send", die)
    for _ in range(2):
        with pytest.raises(DiedError):
            asked(stage, client, lease(client, 500, "a"))
        assert client << NUMBER_BITS | 500 in stage.log.snapshot().leases
        stage = stage.succeed()
    monkeypatch.setattr(type(stage.wire), "send", send)
    (refused,) = asked(stage, client, lease(client, 500, "a"))
    assert refused.code is m.RefusalCode.FAULT
    assert stage.rows.leases == {}
    assert stage.rows.segments == {}


def test_who_is_ended_while_the_logs_of_others_are_read_is_not_read(stage: Stage) -> None:
    """Where each unit is carried out before the next begins, one who has died is forgotten in the middle of that."""
    writer, dead = stage.hello(1000), stage.hello(2000)
    held = stage.lease(writer, "a").lease
    for client in (writer, dead):
        stage.receive(client, encode([m.Ring(9000)]))
    stage.write(writer, m.Release, held)
    stage.work.is_full = True
    stage.server.died(dead)  # in the same turn of the loop
    stage.clock.wait_s(m.LOOK_AGAIN_NS / 1e9)
    stage.server.tick()
    stage.server.settle()
    assert not stage.rows.leases
    assert stage.server._notices.next_deadline_ns() is None
