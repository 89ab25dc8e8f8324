"""Found out, committed, told: the order that a crash at any point survives."""

from __future__ import annotations

import errno

import pytest
from stage import PAGE, Stage

from rig.shell import identity
from shmlease.core import messages as m
from shmlease.core.messages import RefusalCode
from shmlease.core.model import EventKind, LeaseRow, SegmentRow, SegmentState
from shmlease.core.wire import encode

NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


# --- before and after the commit -------------------------------------------------------------------------------------


def test_grant_is_made_then_committed_then_told(stage: Stage) -> None:
    client = stage.hello()
    assert stage.deeds(lambda: stage.lease(client, "a")) == ["create_segment", "commit", "send"]
    _, changes = stage.history[1]
    assert {type(change) for change in changes} >= {LeaseRow, SegmentRow}


def test_client_is_committed_before_it_is_welcomed(stage: Stage) -> None:
    assert stage.deeds(stage.hello) == ["create_notice_log", "commit", "send"]


def test_file_goes_after_it_is_committed_that_it_goes(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    stage.write(client, m.Release, lease)
    assert stage.deeds(lambda: stage.ask(client, m.Ping)) == ["commit", "retire_segment", "send", "commit"]
    _, changes = stage.history[0]
    assert SegmentState.RETIRING in [change.state for change in changes if isinstance(change, SegmentRow)]
    assert not stage.rows.segments


def test_spare_is_taken_back_before_it_is_committed_that_it_was(stage: Stage) -> None:
    client = stage.hello()
    stage.lease(client)
    assert "reserved" in stage.states()
    assert stage.deeds(lambda: stage.ask(client, m.Trim))[:2] == ["revoke_spare", "commit"]
    assert "reserved" not in stage.states()


def test_spare_that_was_given_back_and_granted_to_another_is_not_taken_back(stage: Stage) -> None:
    """Both were decided before the first was carried out."""
    client, other = stage.hello(1000), stage.hello(2000)
    stage.lease(client)
    (spare,) = [message for message in stage.heard(client) if isinstance(message, m.Spare)]
    stage.write(client, m.Release, spare.lease, True)
    stage.server.table.trim_warm()
    granted = stage.lease(other)
    assert granted.segment == spare.segment
    assert spare.segment in [number for kind, number, _ in stage.files.entries() if kind == "s"]


def test_ticket_is_voided_before_it_is_committed_that_it_expired(stage: Stage) -> None:
    client = stage.hello()
    stage.mint(client, stage.share(client, "a").lease, ttl_s=1)
    stage.ask(client, m.Ping)
    assert stage.deeds(lambda: stage.pass_time(1)) == ["void_token", "commit"]


def test_token_goes_after_it_is_committed_that_it_was_redeemed(stage: Stage) -> None:
    client = stage.hello()
    stage.redeem(client, stage.mint(client, stage.share(client, "a").lease))
    assert stage.deeds(lambda: stage.ask(client, m.Ping)) == ["commit", "drop_token", "send"]


def test_notice_log_of_one_who_leaves_goes_after_its_leaving_is_committed(stage: Stage) -> None:
    client = stage.hello()
    stage.write(client, m.Bye)
    assert stage.deeds(lambda: stage.receive(client, encode([m.Ring(1)]))) == ["commit", "drop", "drop_notice_log"]


def test_end_is_committed_and_told_before_the_loop_is_stopped() -> None:
    stage = Stage(owner=identity(1000))
    client = stage.hello(1000)
    stage.share(client, "a")
    deeds = stage.deeds(lambda: stage.ask(client, m.Close))
    assert deeds.index("commit") < deeds.index("send") < deeds.index("stop")
    (closed,) = [message for message in stage.heard(client) if isinstance(message, m.Closed)]
    assert closed.holders == ["pid 1000 holds 'a' (lease taken at here)"]
    assert not [entry for entry in stage.entries() if entry[0] == "s"]


def test_another_than_the_owner_cannot_end_the_registry() -> None:
    stage = Stage(owner=identity(1000))
    stage.hello(1000)
    stranger = stage.hello(2000)
    refused = stage.ask(stranger, m.Close)
    assert refused.code is RefusalCode.PERMISSION
    assert refused.message == "registry r1 belongs to pid 1000; pid 2000 cannot close it"
    assert ("stop",) not in stage.history


def test_nothing_is_told_of_what_could_not_be_committed(stage: Stage) -> None:
    client = stage.hello()
    stage.ledger.failures["commit"] = [NO_ROOM, NO_ROOM]
    stage.history.clear()
    with pytest.raises(OSError, match="No space left"):
        stage.lease(client, "a")
    assert "send" not in [name for name, *_ in stage.history]


def test_commit_that_found_no_room_is_made_when_what_goes_has_gone(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    stage.write(client, m.Release, lease)
    stage.ledger.failures["commit"] = [NO_ROOM]
    deeds = stage.deeds(lambda: stage.ask(client, m.Ping))
    assert deeds == ["commit", "retire_segment", "compact", "commit", "send", "commit"]
    assert stage.history[0] == stage.history[3]
    assert not stage.rows.segments


def test_ledger_that_is_mostly_history_is_written_anew_after_the_commit(stage: Stage) -> None:
    client = stage.hello()
    stage.log.is_long = True
    assert stage.deeds(lambda: stage.lease(client, "a")) == ["create_segment", "commit", "compact", "send"]
    assert stage.log.compacted_to == list(stage.rows.all_rows())
    assert set(stage.rows.leases.values()) <= set(stage.log.compacted_to)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_answers_come_in_order_and_few_to_a_packet(stage: Stage) -> None:
    client = stage.hello()
    stage.wire.packets.clear()
    stage.receive(client, encode([m.Ping(number) for number in range(1000, 1040)]))
    assert [len(messages) for _, messages in stage.wire.packets] == [16, 16, 8]
    assert [message.seq for message in stage.heard(client)] == list(range(1000, 1040))


def test_figures_are_of_what_is_and_not_of_what_is_under_way(stage: Stage) -> None:
    client = stage.hello()
    stage.write(client, m.Release, stage.lease(client, "a").lease)
    assert stage.ask(client, m.Statistics).segments == {}


# --- what the store cannot do ----------------------------------------------------------------------------------------


def test_segment_for_which_there_is_no_file_is_tried_again(stage: Stage) -> None:
    client = stage.hello()
    stage.store.failures["create_segment"] = [NO_ROOM]
    seq = stage._seq + 1
    assert stage.lease(client, "a", timeout_s=1) is None
    stage.pass_time(0.02)
    assert isinstance(stage.answer(client, seq), m.Granted)


def test_who_waits_for_room_in_shm_is_told_of_that(stage: Stage) -> None:
    client = stage.hello()
    stage.files.free = 3 * PAGE
    assert "create_segment" not in stage.deeds(lambda: stage.lease(client, "a", pages=4))
    (refused,) = [message for message in stage.heard(client) if isinstance(message, m.Refused)]
    assert refused.code is RefusalCode.CAPACITY
    assert refused.fields["shm_free_bytes"] == 3 * PAGE
    assert "/dev/shm has not enough room, 12 KiB free there" in refused.message


def test_pages_that_clients_are_yet_to_reserve_are_not_given_twice(stage: Stage) -> None:
    client = stage.hello()
    stage.files.free = 10 * PAGE
    granted = stage.lease(client, "a", pages=6)
    stage.files.unreserved[granted.segment] = 6 * PAGE
    refused = stage.lease(client, "b", pages=5)
    assert refused.fields["shm_free_bytes"] == 4 * PAGE
    stage.files.unreserved.clear()
    assert isinstance(stage.lease(client, "b", pages=5), m.Granted)


def test_file_that_cannot_be_unlinked_is_tried_again_and_told_of(stage: Stage) -> None:
    client = stage.hello()
    stage.write(client, m.Release, stage.lease(client, "a").lease)
    stage.store.failures["retire_segment"] = [OSError(errno.EPERM, "Operation not permitted")]
    stage.ask(client, m.Ping)
    assert stage.states() == ["retiring"]
    assert EventKind.RETIRE_FAILED in stage.events()
    stage.pass_time(1)
    assert stage.states() == []
    assert not [entry for entry in stage.entries() if entry[0] == "s"]


def test_segment_is_given_its_name_in_shm_or_the_reason_why_not(stage: Stage) -> None:
    client = stage.hello()
    granted = stage.lease(client, "a")
    stage.store.failures["link_alias"] = [NO_ROOM]
    refused = stage.ask(client, m.Expose, granted.lease)
    assert refused.code is RefusalCode.NOT_HELD
    assert "No space left" in refused.message
    alias = stage.ask(client, m.Expose, granted.lease).alias
    assert stage.files.aliases == {alias: granted.segment}


def test_withdrawn_name_is_taken_from_shm_after_the_ledger_has_it(stage: Stage) -> None:
    client = stage.hello()
    granted = stage.lease(client, "a")
    stage.ask(client, m.Expose, granted.lease)
    stage.store.failures["unlink_alias"] = [NO_ROOM]
    stage.history.clear()
    assert isinstance(stage.ask(client, m.Withdraw, "a", stage.clock.now_ns()), m.Done)
    done = [entry[0] for entry in stage.history]
    assert done.index("commit") < done.index("unlink_alias") < done.index("send")
