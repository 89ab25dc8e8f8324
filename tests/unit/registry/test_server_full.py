"""A ledger without room: what makes the table grow is refused, what shrinks it is not."""

from __future__ import annotations

import errno

import pytest
from stage import PAGE, SECRET, Stage

from shmlease.core import messages as m
from shmlease.core.messages import RefusalCode
from shmlease.core.model import NUMBER_BITS
from shmlease.core.wire import encode
from shmlease.registry.server import RESERVED_DESCRIPTORS
from shmlease.system.descriptors import Descriptors


@pytest.mark.parametrize("kind", ["lease", "attach", "inherit"])
def test_what_makes_the_table_grow_is_refused(stage: Stage, kind: str) -> None:
    client = stage.hello()
    held = stage.share(client, "a").lease
    stage.log.room = False
    stage.files.free = 5 * PAGE
    leases = dict(stage.rows.leases)
    calls = {
        "lease": lambda: stage.lease(client, "b"),
        "attach": lambda: stage.attach(client, "a"),
        "inherit": lambda: stage.ask(client, m.Inherit, client << NUMBER_BITS | 90, held, "here"),
    }
    refused = calls[kind]()
    assert refused.code is RefusalCode.CAPACITY
    assert "no room for the lease table to grow" in refused.message
    assert refused.fields == {"shm_free_bytes": 5 * PAGE}
    assert stage.rows.leases == leases


def test_room_that_writing_the_table_anew_makes_is_used(stage: Stage) -> None:
    client = stage.hello()
    stage.log.room, stage.log.room_after_compaction = False, True
    assert stage.deeds(lambda: stage.lease(client, "a")) == ["compact", "create_segment", "commit", "send"]
    assert len(stage.rows.leases) == 1


def test_what_shrinks_the_table_is_written_all_the_same(stage: Stage) -> None:
    client = stage.hello()
    ticket = stage.mint(client, stage.share(client, "a").lease)
    stage.ask(client, m.Ping)
    stage.log.room = False
    lease = stage.redeem(client, ticket)
    for held in [*stage.rows.leases, lease]:
        stage.write(client, m.Release, held)
    stage.ask(client, m.Ping)
    assert (stage.rows.leases, stage.rows.tickets) == ({}, {})


def test_warm_memory_is_given_back_for_whoever_asks_next(stage: Stage) -> None:
    client = stage.hello()
    stage.write(client, m.Release, stage.share(client, "a").lease)
    stage.ask(client, m.Ping)
    assert stage.states() == ["warm"]
    stage.log.room = False
    assert stage.lease(client, "b").code is RefusalCode.CAPACITY
    assert stage.states() == []
    assert not [entry for entry in stage.entries() if entry[0] == "s"]


@pytest.mark.parametrize("room", [True, False])
def test_nothing_is_granted_ahead(stage: Stage, room: bool) -> None:
    client = stage.hello()
    stage.lease(client)
    (spare,) = [message for message in stage.heard(client) if isinstance(message, m.Spare)]
    stage.log.room = room
    stage.write(client, m.Claim, spare.lease, 8, b"", "here", 0, True)
    stage.ask(client, m.Ping)
    assert stage.rows.leases[spare.lease].mode == "write"
    assert ("reserved" in stage.states()) is room


def test_stranger_is_not_let_in(stage: Stage) -> None:
    known = stage.hello(1000)
    stage.log.room = False
    refused = stage.knock(encode([m.Hello(7, m.PROTOCOL, SECRET, 0)]), pid=2000)
    assert (refused.seq, refused.code) == (7, RefusalCode.CAPACITY)
    assert list(stage.rows.clients) == [known]


def test_what_no_waiting_helps_against_is_refused_at_once_and_keeps_nobody_waiting(stage: Stage) -> None:
    client = stage.hello()
    stage.store.failures["create_segment"] = [OSError(errno.EFBIG, "File too large")]
    refused = stage.lease(client, "large", pages=50, timeout_s=3600)
    assert refused.code is RefusalCode.CAPACITY
    assert "RLIMIT_FSIZE" in refused.message
    assert isinstance(stage.lease(client, "small", timeout_s=3600), m.Granted)


def test_shortage_that_may_pass_is_waited_for(stage: Stage) -> None:
    client = stage.hello()
    stage.store.failures["create_segment"] = [OSError(errno.EMFILE, "Too many open files")]
    assert stage.lease(client, "a", timeout_s=3600) is None
    stage.pass_time(1)
    assert stage.states() == ["filling"]


def test_last_descriptor_is_kept_for_a_detached_client_and_given_to_others_once_it_is_dead(stage: Stage) -> None:
    detached = stage.hello(1000)
    stage.server.disconnected(detached)
    assert [row.state.value for row in stage.rows.clients.values()] == ["detached"]
    stage.wire.descriptors_now = Descriptors(11, 12 + RESERVED_DESCRIPTORS)  # room for one more, if nobody came back
    refused = stage.knock(encode([m.Hello(7, m.PROTOCOL, SECRET, 0)]), pid=2000)
    assert isinstance(refused, m.Refused)
    assert refused.code is RefusalCode.CAPACITY
    assert refused.fields["descriptors"] == 11
    assert stage.resume(detached) == detached
    stage.server.disconnected(detached)
    stage.server.died(detached)
    stage.server.settle()
    other = stage.hello(2000)
    assert list(stage.rows.clients) == [other]
