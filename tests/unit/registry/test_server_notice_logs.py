"""What clients have written is read before anybody is answered, once, in an order in which it makes sense."""

from __future__ import annotations

import itertools

import pytest
from stage import Stage

from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS, EventKind, SegmentState
from shmlease.core.wire import encode


def be_quiet(stage: Stage) -> None:
    """Let so much time pass that nobody counts as having rung lately."""
    stage.pass_time(m.LOOK_AGAIN_NS / 1e9)
    assert stage.server._notices.next_deadline_ns() is None


def test_what_a_client_wrote_before_its_request_counts_in_it(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    be_quiet(stage)
    stage.write(client, m.Release, lease)
    assert isinstance(stage.lease(client, "a"), m.Granted)


def test_what_another_wrote_who_has_rung_lately_counts_as_well(stage: Stage) -> None:
    writer, reader = stage.hello(1000), stage.hello(2000)
    lease = stage.lease(writer, "a").lease
    stage.write(writer, m.Publish, lease, 0, 0)
    assert isinstance(stage.attach(reader, "a"), m.Attached)


def test_ring_that_is_on_its_way_is_waited_for_before_a_request_is_refused(stage: Stage) -> None:
    writer, reader = stage.hello(1000), stage.hello(2000)
    lease = stage.lease(writer, "a").lease
    be_quiet(stage)
    stage.write(writer, m.Publish, lease, 0, 0)
    assert isinstance(stage.attach(reader, "a"), m.Refused), "who has not rung is not looked for"
    stage.wire.waiting = [writer]
    assert isinstance(stage.attach(reader, "a"), m.Attached)


def test_ring_has_the_notice_log_read_at_once_and_once_more(stage: Stage) -> None:
    client = stage.hello()
    leases = [stage.lease(client, name).lease for name in ("a", "b")]
    be_quiet(stage)
    stage.write(client, m.Publish, leases[0], 0, 0)
    stage.receive(client, encode([m.Ring(9000)]))
    assert stage.states() == ["published", "filling"]
    stage.write(client, m.Publish, leases[1], 0, 0)
    assert stage.server.next_deadline_ns() == stage.clock.now_ns() + m.LOOK_AGAIN_NS
    stage.pass_time((m.LOOK_AGAIN_NS - 1) / 1e9)
    assert stage.states() == ["published", "filling"]
    be_quiet(stage)
    assert stage.states() == ["published", "published"]


def test_what_another_has_just_released_is_granted_ahead_in_place_of_something_fresh(stage: Stage) -> None:
    other, client = stage.hello(1000), stage.hello(2000)
    stage.lease(client)
    (spare,) = [message for message in stage.heard(client) if isinstance(message, m.Spare)]
    released = stage.share(other, "a")
    stage.write(other, m.Release, released.lease)
    stage.write(client, m.Claim, spare.lease, 8, b"", "here", 0, True)
    deeds = stage.deeds(lambda: stage.receive(client, encode([m.Ring(9000)])))
    assert deeds.count("create_segment") == 1, "of the two that are granted ahead"
    assert stage.rows.segments[released.segment].state == "reserved"


def test_notice_is_applied_once(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    notice = m.Publish(5000, lease, 3, stage.clock.now_ns() + 10**9)
    for _ in range(2):
        stage.files.open_notice_log(client).append(notice)
        stage.ask(client, m.Ping)
        stage.attach(client, "a")
    assert next(iter(stage.rows.segments.values())).readers_expected == 1
    assert stage.rows.applied[client] == 5000


def test_what_the_dead_had_written_counts(stage: Stage) -> None:
    writer = stage.hello()
    lease = stage.lease(writer, "a").lease
    be_quiet(stage)
    stage.write(writer, m.Publish, lease, 1, stage.clock.now_ns() + 10**9)
    stage.die(writer)
    assert stage.states() == ["published"]
    assert isinstance(stage.attach(stage.hello(2000), "a"), m.Attached)


def test_what_was_written_after_leaving_is_nobodys(stage: Stage) -> None:
    client = stage.hello()
    lease = stage.lease(client, "a").lease
    stage.write(client, m.Bye)
    stage.write(client, m.Publish, lease, 1, stage.clock.now_ns() + 10**9)
    stage.receive(client, encode([m.Ring(9000)]))
    assert stage.states() == []
    assert not [message for message in stage.heard(client) if isinstance(message, m.Refused)]


def test_ticket_is_known_to_whoever_redeemed_it_though_its_sender_has_not_rung(stage: Stage) -> None:
    sender, receiver = stage.hello(1000), stage.hello(2000)
    lease = stage.share(sender, "a").lease
    be_quiet(stage)
    redeemed = stage.redeem(receiver, stage.mint(sender, lease))
    stage.ask(receiver, m.Ping)
    assert redeemed in stage.rows.leases
    assert stage.rows.tickets == {}
    assert not [message for message in stage.heard(receiver) if isinstance(message, m.Refused)]


def test_chain_of_tickets_is_followed_to_its_beginning(stage: Stage) -> None:
    clients = [stage.hello(pid) for pid in (1000, 2000, 3000, 4000)]
    lease = stage.share(clients[0], "a").lease
    be_quiet(stage)
    for sender, receiver in itertools.pairwise(clients):
        lease = stage.redeem(receiver, stage.mint(sender, lease))
    stage.ask(clients[-1], m.Ping)
    assert lease in stage.rows.leases


def test_tickets_that_wait_for_each_other_do_not_hold_up_the_registry(stage: Stage) -> None:
    one, other = stage.hello(1000), stage.hello(2000)
    held = {client: stage.share(client, f"of {client}").lease for client in (one, other)}
    be_quiet(stage)
    tickets = {client: client << NUMBER_BITS | 8000 for client in (one, other)}
    for client, of in ((one, other), (other, one)):
        stage.write(client, m.Redeemed, client << NUMBER_BITS | 7000, tickets[of], "", 0)
        stage.write(client, m.Mint, held[client], tickets[client], stage.clock.now_ns() + 10**9, "")
    stage.ask(one, m.Ping)
    refused = [message for client in (one, other) for message in stage.heard(client) if isinstance(message, m.Refused)]
    assert len(refused) == 1, "the one that was not waited for"
    assert len(stage.rows.tickets) == 1
    assert stage.ask(one, m.Statistics).leases["read"] == 1


def test_tokens_that_the_dead_told_nobody_of_go_with_them(stage: Stage) -> None:
    dead, other = stage.hello(1000), stage.hello(2000)
    known = stage.mint(dead, stage.share(dead, "a").lease)
    for client in (dead, other):
        stage.files.mint_token(client << NUMBER_BITS | 5000)
    stage.die(dead)
    assert {entry for entry in stage.entries() if entry[0] == "t"} == {
        ("t", known, None),
        ("t", other << NUMBER_BITS | 5000, None),
    }


@pytest.mark.parametrize("read", [True, False], ids=["the ticket is known", "its making was not read yet"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "dies"])
def test_ticket_ends_with_the_redeemer_that_did_not_say_so(stage: Stage, read: bool, leaves: bool) -> None:
    sender, redeemer = stage.hello(1000), stage.hello(2000)
    granted = stage.share(sender, "a")
    ticket = stage.mint(sender, granted.lease)
    stage.write(sender, m.Release, granted.lease)
    if read:
        stage.ask(sender, m.Ping)
    assert stage.files.claim_token(ticket, redeemer)
    if leaves:
        stage.write(redeemer, m.Bye)
        stage.ask(redeemer, m.Ping)
    else:
        stage.die(redeemer)
    assert stage.rows.tickets == {}
    assert stage.rows.segments == {}, "it may have been mapped, and is never used again"
    assert not [entry for entry in stage.entries() if entry[0] == "t"]
    assert EventKind.HOLDER_DIED in stage.events()
    assert "has ended since" in stage.ask(sender, m.Redeem, ticket).message


def test_redeemer_that_said_so_before_it_died_has_had_its_lease(stage: Stage) -> None:
    sender, redeemer = stage.hello(1000), stage.hello(2000)
    granted = stage.share(sender, "a")
    ticket = stage.mint(sender, granted.lease)
    stage.redeem(redeemer, ticket)
    stage.die(redeemer)
    assert stage.rows.tickets == {}
    assert [event.detail for event in stage.rows.events.values()] == ["process 2000"]
    assert stage.rows.segments[granted.segment].state is SegmentState.PUBLISHED
