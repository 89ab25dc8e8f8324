"""Addresses, names withdrawn, mutable segments, detached arrays: what a holder may do beside publishing and releasing."""

from __future__ import annotations

import pytest

from rig.shell import Shell
from shmlease.core import messages as m
from shmlease.core.model import LeaseMode, LeaseState, SegmentState


def published(shell: Shell, client: int, name: str | None = "a", *, mutable: bool = False) -> m.Granted:
    lease = shell.ask(client, m.Lease, shell.new_id(client), name, 4096, 4096, b"", "", 0, 0, mutable)
    shell.publish(client, lease.lease)
    return lease


def at(shell: Shell, client: int, granted: m.Granted, mode: m.AttachMode = m.AttachMode.READ) -> object:
    return shell.ask(client, m.AttachSegment, shell.new_id(client), granted.segment, granted.generation, "", 0, mode)


# --- addresses -------------------------------------------------------------------------------------------------------


def test_address_is_attached_as_often_as_one_likes_while_the_segment_lives() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    granted = published(shell, writer, None)
    leases = [at(shell, reader, granted) for _ in range(3)]
    assert {each.segment for each in leases} == {granted.segment}
    shell.release(writer, granted.lease)
    assert isinstance(at(shell, reader, granted), m.Attached)


def test_address_of_a_recycled_or_unpublished_segment_leads_nowhere() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    granted = published(shell, writer, None)
    shell.release(writer, granted.lease)
    assert at(shell, reader, granted).code is m.RefusalCode.NOT_FOUND
    again = shell.lease(writer, name="b")
    assert again.segment == granted.segment
    assert at(shell, reader, again).code is m.RefusalCode.NOT_FOUND, "not published yet"
    shell.publish(writer, again.lease)
    assert at(shell, reader, granted).code is m.RefusalCode.NOT_FOUND, "another use of the same file"
    assert isinstance(at(shell, reader, again), m.Attached)


def test_address_asked_for_again_after_a_takeover_gives_the_same_lease() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    granted = published(shell, writer)
    lease = at(shell, reader, granted).lease
    shell.take_over()
    again = shell.ask(reader, m.AttachSegment, lease, granted.segment, granted.generation, "", 0)
    assert (again.lease, len(shell.table.rows.leases)) == (lease, 2)


# --- names withdrawn -------------------------------------------------------------------------------------------------


def test_withdrawn_name_is_free_and_its_leases_live_on() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    granted = published(shell, writer)
    attached = shell.attach(reader, "a")
    shell.say(writer, m.Expose, granted.lease)
    assert isinstance(shell.ask(reader, m.Withdraw, "a", shell.now), m.Done)
    assert shell.attach(reader, "a").code is m.RefusalCode.NOT_FOUND
    assert not shell.aliases
    assert isinstance(published(shell, writer), m.Granted)
    assert shell.table.rows.leases[attached.lease].segment == granted.segment


def test_withdrawing_cancels_readers_that_were_announced() -> None:
    shell = Shell()
    writer = shell.hello()
    granted = shell.lease(writer, name="a")
    shell.publish(writer, granted.lease, readers=3)
    shell.release(writer, granted.lease)
    assert shell.table.rows.segments[granted.segment].state is SegmentState.PUBLISHED
    shell.ask(writer, m.Withdraw, "a", shell.now)
    assert shell.table.rows.segments[granted.segment].state is SegmentState.WARM


def test_withdrawal_that_is_sent_again_takes_no_name_that_was_given_since() -> None:
    shell = Shell()
    writer = shell.hello()
    published(shell, writer)
    asked_ns = shell.now
    seq = shell.say(writer, m.Withdraw, "a", asked_ns)
    shell.now += 1
    published(shell, writer)
    shell.take_over()
    shell.table.apply(writer, m.Withdraw(seq, "a", asked_ns), shell.now)
    shell.settle()
    assert isinstance(shell.heard(writer)[-1], m.Done)
    assert "a" in shell.table.rows.by_name


def test_name_that_is_not_there_cannot_be_withdrawn() -> None:
    shell = Shell()
    client = shell.hello()
    assert shell.ask(client, m.Withdraw, "a", shell.now).code is m.RefusalCode.NOT_FOUND


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("mode", list(m.AttachMode))
def test_only_mutable_segments_are_written_and_only_sealed_ones_copied_on_write(mutable: bool, mode: m.AttachMode) -> None:
    shell = Shell()
    writer, reader, waiting = shell.hello(), shell.hello(), shell.hello()
    assert shell.attach(waiting, "a", 60, mode) is None
    granted = published(shell, writer, mutable=mutable)
    ticket = shell.mint(writer, granted.lease)
    answers = [shell.attach(reader, "a", 0, mode), at(shell, reader, granted, mode), shell.heard(waiting)[-1]]
    shell.tokens[ticket] = reader
    redeemed = shell.new_id(reader)
    shell.say(reader, m.Redeemed, redeemed, ticket, "", 0, mode)
    if mode is m.AttachMode.READ or mutable == (mode is m.AttachMode.READ_WRITE):
        writes = mode is m.AttachMode.READ_WRITE
        assert [(answer.writable, answer.mutable) for answer in answers] == [(writes, mutable)] * 3
        assert (shell.table.rows.leases[redeemed].mode is LeaseMode.WRITE) == writes
    else:
        assert [answer.code for answer in answers] == [m.RefusalCode.MODE] * 3
        assert redeemed not in shell.table.rows.leases
        assert ticket in shell.table.rows.tickets


def test_mutable_segment_stays_one_after_a_takeover_and_until_it_is_recycled() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    granted = published(shell, writer, mutable=True)
    shell.take_over()
    writing = shell.attach(reader, "a", 0, m.AttachMode.READ_WRITE)
    assert writing.writable
    shell.release(writer, granted.lease)
    shell.release(reader, writing.lease)
    again = published(shell, writer, "b")
    assert again.segment == granted.segment
    assert not shell.attach(reader, "b").mutable


def test_grant_of_a_mutable_segment_that_is_declined_is_asked_for_again() -> None:
    shell = Shell()
    client = shell.hello()
    granted = shell.ask(client, m.Lease, shell.new_id(client), "a", 4096, 4096, b"", "", 0, 0, True)
    seq = shell.say(client, m.Decline, granted.lease, 10**9)
    shell.wait(0.5)
    assert shell.table.rows.segments[shell.answer(client, seq).segment].mutable


# --- detached arrays -------------------------------------------------------------------------------------------------


def test_detached_lease_holds_its_segment_and_ends_in_order() -> None:
    shell = Shell()
    writer = shell.hello()
    granted = published(shell, writer)
    shell.say(writer, m.Detach, granted.lease)
    assert shell.table.rows.leases[granted.lease].state is LeaseState.DETACHED
    shell.take_over()
    shell.release(writer, granted.lease)
    segment = shell.table.rows.segments[granted.segment]
    assert (segment.state, segment.tainted) == (SegmentState.WARM, False)


def test_closing_says_nothing_of_the_arrays_that_its_own_process_has_detached() -> None:
    shell = Shell()
    closer, other = shell.hello(), shell.hello()
    shell.say(closer, m.Detach, published(shell, closer).lease)
    shell.say(other, m.Detach, published(shell, other, "b").lease)
    (holder,) = shell.ask(closer, m.Close).holders
    assert "'b'" in holder
