"""Messages between coordinator and worker arrive whole and in order, and a context crosses once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from shmlease.ingestion import worker_channel
from shmlease.ingestion.tasks import Context, Parse
from shmlease.ingestion.worker_channel import WorkerChannel
from shmlease.text.blocks import Piece
from shmlease.text.header import Table
from shmlease.text.schema import Schema


@pytest.fixture
def ends() -> Iterator[tuple[WorkerChannel, WorkerChannel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield WorkerChannel(ours), WorkerChannel(theirs)


def context(number: int) -> Context:
    table = Table(f"file{number}.tsv", Schema().with_dtype("a:i4"), "plain", (), 0, 1, 100)
    return Context(number, table, None, 1 << 16, 1 << 18, 1000, "skip", "native")


def parse(number: int, offset: int = 0) -> Parse:
    return Parse(context(number), Piece(0, offset, offset + 10), None, None, False)


def test_messages_arrive_in_order(ends: tuple[WorkerChannel, WorkerChannel]) -> None:
    here, there = ends
    here.put("first")
    here.put({"second": 2})
    assert here.has_output
    here.flush()
    assert not here.has_output
    assert [there.receive(), there.receive()] == ["first", {"second": 2}]


def test_a_message_larger_than_the_socket_holds_arrives_in_pieces(ends: tuple[WorkerChannel, WorkerChannel]) -> None:
    here, there = ends
    here.put(bytes(5 << 20))
    received = None
    while received is None:
        here.flush()
        assert there.fill()
        received = there.take()
    assert len(received) == 5 << 20
    assert there.take() is None


def test_a_context_crosses_once_and_is_the_same_afterwards(ends: tuple[WorkerChannel, WorkerChannel]) -> None:
    here, there = ends
    sizes = []
    for offset in (0, 10, 20):
        here.put(parse(7, offset))
        sizes.append(len(here._out))
        here.flush()
    first, second, third = (there.receive() for _ in range(3))
    assert sizes[1] < sizes[0] / 2
    assert (first.context, third.piece.offset) == (context(7), 20)
    assert first.context is second.context is third.context


def test_contexts_of_many_files_share_one_schema_that_crosses_once(ends: tuple[WorkerChannel, WorkerChannel]) -> None:
    here, there = ends
    schema = context(0).table.schema
    contexts = [
        msgspec.structs.replace(context(each), table=replace(context(each).table, schema=schema)) for each in range(3)
    ]
    sizes = []
    for each in contexts:
        here.put(msgspec.structs.replace(parse(each.id), context=each))
        sizes.append(len(here._out))
        here.flush()
    received = [there.receive().context for _ in contexts]
    assert received == contexts
    assert sizes[1] < sizes[0]
    assert received[0].table.schema is received[1].table.schema is received[2].table.schema


def test_both_ends_forget_the_same_contexts(
    ends: tuple[WorkerChannel, WorkerChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channel, "_REMEMBERED", 3)
    here, there = ends
    for number in [*range(6), 0, 5, 1, 5, 0]:
        here.send(parse(number))
        assert there.receive().context == context(number)


def test_the_end_shows_when_the_other_end_is_gone(ends: tuple[WorkerChannel, WorkerChannel]) -> None:
    here, there = ends
    here.send("last")
    here.socket.close()
    assert there.receive() == "last"
    assert there.receive() is None
    assert not there.fill()
