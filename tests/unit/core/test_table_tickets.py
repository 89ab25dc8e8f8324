"""Tickets: leases in flight, which outlive their sender, are redeemed once, and end at their deadline."""

from __future__ import annotations

import pytest

from rig.shell import Shell, identity
from shmlease.core import messages as m
from shmlease.core.model import EventKind, LeaseMode, SegmentState


def published(shell: Shell, client: int) -> m.Granted:
    lease = shell.lease(client, name="a")
    shell.publish(client, lease.lease)
    return lease


def test_ticket_keeps_its_segment_without_any_lease() -> None:
    shell = Shell()
    sender = shell.hello()
    lease = published(shell, sender)
    shell.mint(sender, lease.lease)
    shell.release(sender, lease.lease)
    assert shell.table.rows.segments[lease.segment].state is SegmentState.PUBLISHED


@pytest.mark.parametrize("end", [Shell.die, lambda shell, client: shell.say(client, m.Bye)])
def test_ticket_survives_the_end_of_its_sender(end: object) -> None:
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease)
    end(shell, sender)  # type: ignore[operator]
    redeemed = shell.redeem(receiver, ticket)
    assert shell.table.rows.leases[redeemed].mode is LeaseMode.READ
    shell.release(receiver, redeemed)
    assert lease.segment in shell.retired, "its holder ended otherwise than in order: never recycled"


def test_ticket_redeemed_is_a_lease_and_no_ticket_any_more() -> None:
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease)
    redeemed = shell.redeem(receiver, ticket)
    assert ticket not in shell.table.rows.tickets
    assert ticket not in shell.tokens
    shell.release(sender, lease.lease)
    assert lease.segment in shell.files
    shell.release(receiver, redeemed)
    assert shell.table.rows.segments[lease.segment].state is SegmentState.WARM


def test_ticket_is_redeemed_once() -> None:
    shell = Shell()
    sender, first, second = shell.hello(), shell.hello(), shell.hello()
    ticket = shell.mint(sender, published(shell, sender).lease)
    shell.redeem(first, ticket)
    assert shell.redeem(second, ticket) is None, "the token is gone"
    shell.say(second, m.Redeemed, shell.new_id(second), ticket, "", 0)
    assert shell.refusals(second)[-1].code is m.RefusalCode.TICKET
    assert second not in shell.table.rows.leases_of


def test_registry_knows_why_a_ticket_cannot_be_redeemed() -> None:
    shell = Shell()
    sender, first, second = shell.hello(), shell.hello(2002), shell.hello()
    lease = published(shell, sender)
    redeemed, expired = shell.mint(sender, lease.lease), shell.mint(sender, lease.lease, ttl_s=1)
    shell.redeem(first, redeemed)
    shell.wait(2)
    assert "redeemed by pid 2002" in shell.ask(second, m.Redeem, redeemed).message
    assert "expired" in shell.ask(second, m.Redeem, expired).message
    assert "not known" in shell.ask(second, m.Redeem, 12345).message


def test_expired_ticket_is_an_event_and_its_segment_is_never_recycled() -> None:
    shell = Shell()
    sender = shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease, ttl_s=10)
    shell.release(sender, lease.lease)
    shell.wait(9.9)
    assert lease.segment in shell.files
    shell.wait(0.2)
    assert ticket not in shell.tokens
    assert lease.segment in shell.retired
    (event,) = [event for event in shell.table.rows.events.values() if event.kind is EventKind.TICKET_EXPIRED]
    assert (event.segment, event.client) == (lease.segment, sender)


def test_ticket_redeemed_in_the_last_moment_does_not_expire() -> None:
    """Its token was renamed; the notice that says so is on its way."""
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease, ttl_s=10)
    shell.release(sender, lease.lease)
    shell.tokens[ticket] = receiver
    shell.wait(11)
    assert lease.segment in shell.files
    shell.say(receiver, m.Redeemed, shell.new_id(receiver), ticket, "", 0)
    shell.wait(60)
    assert lease.segment in shell.files


def test_ticket_renamed_by_one_who_died_before_saying_so_expires() -> None:
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease, ttl_s=10)
    shell.release(sender, lease.lease)
    shell.tokens[ticket] = receiver
    shell.die(receiver)
    shell.wait(11)
    assert lease.segment in shell.retired
    assert not shell.table.rows.tickets


def test_ticket_needs_a_published_segment() -> None:
    shell = Shell()
    sender = shell.hello()
    lease = shell.lease(sender, name="a")
    shell.mint(sender, lease.lease)
    assert shell.refusals(sender)[-1].code is m.RefusalCode.NOT_HELD
    assert not shell.table.rows.tickets


def test_reader_may_pass_a_ticket_on() -> None:
    shell = Shell()
    writer, reader, third = shell.hello(), shell.hello(), shell.hello()
    lease = published(shell, writer)
    attached = shell.attach(reader, "a")
    ticket = shell.mint(reader, attached.lease)
    shell.release(writer, lease.lease)
    shell.release(reader, attached.lease)
    assert shell.redeem(third, ticket) in shell.table.rows.leases


@pytest.mark.parametrize("again", ["ticket", "lease"])
def test_id_in_use_cannot_be_used_for_another_ticket(again: str) -> None:
    """Two rows under one id would leave the first one's segment without an end."""
    shell = Shell()
    sender = shell.hello()
    first = published(shell, sender)
    second = shell.lease(sender, name="b")
    shell.publish(sender, second.lease)
    ticket = shell.mint(sender, first.lease)
    shell.say(sender, m.Mint, second.lease, ticket if again == "ticket" else second.lease, shell.now + 10**9, "")
    assert shell.refusals(sender)[-1].code is m.RefusalCode.PROTOCOL
    assert shell.table.rows.tickets[ticket].segment == first.segment
    assert len(shell.table.rows.tickets) == 1


def test_id_in_use_cannot_be_used_for_another_redemption() -> None:
    shell = Shell()
    sender = shell.hello()
    first = published(shell, sender)
    second = shell.lease(sender, name="b")
    shell.publish(sender, second.lease)
    ticket = shell.mint(sender, second.lease)
    shell.say(sender, m.Redeemed, first.lease, ticket, "", 0)
    assert shell.refusals(sender)[-1].code is m.RefusalCode.PROTOCOL
    assert shell.table.rows.leases[first.lease].segment == first.segment
    assert ticket in shell.table.rows.tickets


def test_tickets_redeemed_at_once_leave_no_timer_behind() -> None:
    """A registry that hands over thousands of arrays a second must not remember each for its whole time to live."""
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    lease = published(shell, sender)
    for _ in range(500):
        shell.release(receiver, shell.redeem(receiver, shell.mint(sender, lease.lease, ttl_s=3600)))
    assert len(shell.table._timers) < 300


# --- made for one process, and taken back ------------------------------------------------------------------------------


def test_ticket_for_one_process_ends_with_it() -> None:
    shell = Shell()
    sender, other = shell.hello(), shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease, receiver=identity(77))
    assert shell.watched == {ticket: identity(77)}
    shell.take_over()
    assert shell.watched == {ticket: identity(77)}
    shell.release(sender, lease.lease)
    shell.end_receiver(ticket)
    assert not shell.table.rows.tickets
    assert lease.segment in shell.retired
    assert [event.kind for event in shell.table.rows.events.values()][-1] is EventKind.RECEIVER_DIED
    assert "pid 77" in shell.ask(other, m.Redeem, ticket).message


def test_ticket_that_its_receiver_redeemed_is_watched_no_more() -> None:
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    ticket = shell.mint(sender, published(shell, sender).lease, receiver=identity(77))
    assert shell.redeem(receiver, ticket) in shell.table.rows.leases
    assert not shell.watched


def test_claim_on_its_way_when_the_receiver_ends_is_waited_for() -> None:
    """Its child may have redeemed the ticket."""
    shell = Shell()
    sender, child = shell.hello(), shell.hello()
    ticket = shell.mint(sender, published(shell, sender).lease, receiver=identity(77))
    shell.tokens[ticket] = child
    shell.end_receiver(ticket)
    assert ticket in shell.table.rows.tickets
    lease = shell.new_id(child)
    shell.say(child, m.Redeemed, lease, ticket, "", 0)
    assert lease in shell.table.rows.leases


def test_ticket_that_was_taken_back_is_over_and_its_segment_recycled() -> None:
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    lease = published(shell, sender)
    ticket = shell.mint(sender, lease.lease)
    shell.release(sender, lease.lease)
    assert shell.revoke(sender, ticket)
    assert not shell.tokens
    assert shell.table.rows.segments[lease.segment].state is SegmentState.WARM
    assert shell.redeem(receiver, ticket) is None
    assert "was taken back" in shell.ask(receiver, m.Redeem, ticket).message


def test_ticket_that_was_redeemed_cannot_be_taken_back() -> None:
    shell = Shell()
    sender, receiver = shell.hello(), shell.hello()
    ticket = shell.mint(sender, published(shell, sender).lease)
    shell.redeem(receiver, ticket)
    assert not shell.revoke(sender, ticket)
    shell.say(sender, m.Revoked, ticket)
    assert shell.refusals(sender)[-1].code is m.RefusalCode.TICKET
