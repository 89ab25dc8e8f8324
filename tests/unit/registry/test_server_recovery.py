"""A successor begins: notice logs first, then the dead, then whatever no row speaks of."""

from __future__ import annotations

import pytest
from stage import Stage

from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS, ClientState, EventKind, SegmentState


def test_what_no_row_speaks_of_is_removed_and_the_rest_stays(stage: Stage) -> None:
    client = stage.hello()
    stage.mint(client, stage.share(client, "a").lease)
    stage.ask(client, m.Ping)
    expected = stage.entries()
    stage.files.create_segment(99, 4096)
    stage.files.create_notice_log(77)
    stage.files.mint_token(77 << NUMBER_BITS | 1)
    successor = stage.succeed()
    assert successor.entries() == expected


def test_what_was_written_to_no_registry_counts(stage: Stage) -> None:
    client = stage.hello()
    held, released = stage.lease(client, "a").lease, stage.lease(client, "b").lease
    stage.write(client, m.Publish, held, 0, 0)
    stage.write(client, m.Release, released)
    successor = stage.succeed()
    assert list(successor.rows.leases) == [held]
    assert successor.states() == ["published"]


def test_client_that_has_not_noticed_is_looked_for_again(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    successor = stage.succeed()
    assert successor.rows.clients[client].state is ClientState.DETACHED
    successor.write(client, m.Publish, lease, 0, 0)
    successor.pass_time(m.LOOK_AGAIN_NS / 1e9)
    assert successor.states() == ["published"]


def test_the_dead_lose_their_leases_after_what_they_wrote_has_counted(stage: Stage) -> None:
    dead, alive = stage.hello(1000), stage.hello(2000)
    kept = stage.lease(dead, "a").lease
    stage.lease(dead, "b")
    stage.lease(alive, "c")
    stage.write(dead, m.Publish, kept, 1, stage.clock.now_ns() + 10**12)
    successor = stage.succeed([dead])
    assert sorted(segment.name for segment in successor.rows.segments.values()) == ["a", "c"]
    assert {lease >> NUMBER_BITS for lease in successor.rows.leases} == {alive}
    assert ("j", dead, None) not in successor.entries()
    assert ("j", alive, None) in successor.entries()


def test_segment_whose_file_is_missing_is_told_of_and_stays_its_holders(stage: Stage) -> None:
    client = stage.hello()
    granted = stage.share(client, "a")
    stage.files.remove_entry("s", granted.segment, None)
    successor = stage.succeed()
    assert EventKind.SEGMENT_MISSING in successor.events()
    assert granted.lease in successor.rows.leases
    assert successor.rows.segments[granted.segment].tainted


def test_warm_segment_whose_file_is_missing_is_no_more(stage: Stage) -> None:
    client = stage.hello()
    granted = stage.share(client, "a")
    stage.write(client, m.Release, granted.lease)
    stage.ask(client, m.Ping)
    assert stage.rows.segments[granted.segment].state is SegmentState.WARM
    stage.files.remove_entry("s", granted.segment, None)
    assert stage.succeed().rows.segments == {}


@pytest.mark.parametrize("redeemed", [False, True])
def test_token_stays_whose_making_may_yet_be_told(stage: Stage, redeemed: bool) -> None:
    sender, receiver = stage.hello(1000), stage.hello(2000)
    lease = stage.share(sender, "a").lease
    ticket = sender << NUMBER_BITS | 5000
    stage.files.mint_token(ticket)
    if redeemed:
        stage.files.claim_token(ticket, receiver)
    successor = stage.succeed()
    assert ("t", ticket, receiver if redeemed else None) in successor.entries()
    successor.files.open_notice_log(sender).append(m.Mint(5000, lease, ticket, successor.clock.now_ns() + 10**12, ""))
    successor.pass_time(m.LOOK_AGAIN_NS / 1e9)
    assert ticket in successor.rows.tickets


def test_token_goes_whose_making_and_redeeming_were_told_long_ago(stage: Stage) -> None:
    sender, receiver = stage.hello(1000), stage.hello(2000)
    lease = stage.share(sender, "a").lease
    ticket = stage.mint(sender, lease)
    stage.ask(sender, m.Ping)
    stage.redeem(receiver, ticket)
    stage.ask(receiver, m.Ping)
    stage.files.mint_token(ticket)
    stage.files.claim_token(ticket, receiver)
    stage.share(sender, "b")
    assert ("t", ticket, receiver) not in stage.succeed().entries()


def test_token_of_a_dead_sender_goes(stage: Stage) -> None:
    sender = stage.hello()
    ticket = sender << NUMBER_BITS | 5000
    stage.files.mint_token(ticket)
    assert ("t", ticket, None) not in stage.succeed([sender]).entries()


def test_ticket_of_a_redeemer_that_died_with_the_registry_ends_with_it(stage: Stage) -> None:
    sender, redeemer = stage.hello(1000), stage.hello(2000)
    lease = stage.share(sender, "a").lease
    ticket = stage.mint(sender, lease)
    stage.write(sender, m.Release, lease)
    stage.ask(sender, m.Ping)
    stage.files.claim_token(ticket, redeemer)
    successor = stage.succeed([redeemer])
    assert successor.rows.tickets == {}
    assert successor.rows.segments == {}
    assert EventKind.HOLDER_DIED in successor.events()


def test_ticket_of_a_redeemer_whose_end_a_predecessor_wrote_down_ends_too(stage: Stage) -> None:
    """The predecessor died before it looked at what the dead had left."""
    sender, redeemer = stage.hello(1000), stage.hello(2000)
    ticket = stage.mint(sender, stage.share(sender, "a").lease)
    stage.ask(sender, m.Ping)
    stage.die(redeemer)
    stage.files.claim_token(ticket, redeemer)
    successor = stage.succeed()
    assert successor.rows.tickets == {}
    assert ("t", ticket, redeemer) not in successor.entries()


def test_client_resumes_at_the_successor(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.share(client, "a").lease
    successor = stage.succeed()
    assert successor.resume(client) == client
    assert successor.rows.clients[client].state is ClientState.CONNECTED
    assert lease in successor.rows.leases
    assert successor.hello(2000) > client
