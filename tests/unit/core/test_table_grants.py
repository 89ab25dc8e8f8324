"""Leases for writing: who gets which segment, what is reused, what waits, what is refused and with which figures."""

from __future__ import annotations

import pytest

from rig.shell import PAGE, Shell
from shmlease.core import messages as m
from shmlease.core.model import LeaseMode, LeaseState, Mark, SegmentState


def test_lease_gets_a_fresh_segment_of_whole_pages() -> None:
    shell = Shell()
    client = shell.hello()
    granted = shell.ask(client, m.Lease, shell.new_id(client), "a", PAGE + 1, PAGE + 1, b"", "", 0, 0)
    assert (granted.size_bytes, granted.fresh) == (2 * PAGE, True)
    assert shell.files == {granted.segment: 2 * PAGE}


def test_lease_of_nothing_has_a_page_of_its_own() -> None:
    shell = Shell()
    client = shell.hello()
    assert shell.ask(client, m.Lease, shell.new_id(client), "a", 0, 0, b"", "", 0, 0).size_bytes == PAGE


def test_segment_is_unlinked_or_warm_when_its_last_lease_ends() -> None:
    shell = Shell()
    client = shell.hello()
    published = shell.lease(client, name="a")
    shell.publish(client, published.lease)
    shell.release(client, published.lease)
    assert shell.table.rows.segments[published.segment].state is SegmentState.WARM
    unpublished = shell.lease(client, 3, name="b")
    shell.release(client, unpublished.lease)
    assert unpublished.segment in shell.retired, "its pages may not be reserved: it must not be given to others"
    assert unpublished.segment not in shell.files
    written = shell.lease(client, 3, name="c")
    shell.say(client, m.Release, written.lease, True)
    assert shell.table.rows.segments[written.segment].state is SegmentState.WARM


def test_warm_segment_is_recycled_under_a_new_generation() -> None:
    shell = Shell()
    client = shell.hello()
    first = shell.lease(client, name="a")
    shell.publish(client, first.lease)
    shell.release(client, first.lease)
    second = shell.lease(client, name="b")
    assert (second.segment, second.generation, second.fresh) == (first.segment, first.generation + 1, False)


def test_recycled_segment_wastes_at_most_a_quarter() -> None:
    shell = Shell()
    client = shell.hello()
    large = shell.lease(client, 40, name="large")
    shell.publish(client, large.lease)
    shell.release(client, large.lease)
    assert shell.lease(client, 31, name="a").segment != large.segment
    assert shell.lease(client, 32, name="b").segment == large.segment


def test_recycled_segment_forgets_who_had_it() -> None:
    shell = Shell()
    client, other = shell.hello(), shell.hello()
    first = shell.lease(client, name="a", site="secret.py:1")
    shell.publish(client, first.lease)
    shell.release(client, first.lease)
    shell.lease(other, name="b")
    row = shell.table.rows.segments[first.segment]
    assert (row.name, row.creator, row.site, row.published_ns) == ("b", other, "", 0)


def test_ended_client_is_forgotten_when_its_last_segment_is_somebody_elses() -> None:
    shell = Shell()
    first, second = shell.hello(), shell.hello()
    lease = shell.lease(first, name="a")
    shell.publish(first, lease.lease)
    shell.release(first, lease.lease)
    shell.say(first, m.Bye)
    shell.lease(second, name="b")
    assert first not in shell.table.rows.clients
    assert first not in shell.table.rows.applied


def test_ended_client_is_remembered_while_a_segment_that_it_made_lives() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    attached = shell.attach(reader, "a")
    shell.die(writer)
    assert shell.table.rows.clients[writer].identity.pid == 1000
    shell.release(reader, attached.lease)
    assert writer not in shell.table.rows.clients


def test_request_beyond_the_whole_capacity_is_refused_at_once_with_the_figures() -> None:
    shell = Shell(capacity_pages=10)
    client = shell.hello()
    refused = shell.lease(client, 11, timeout_s=60)
    assert refused.code is m.RefusalCode.CAPACITY
    assert refused.fields["requested_bytes"] == 11 * PAGE
    assert refused.fields["capacity_bytes"] == 10 * PAGE
    assert "44 KiB" in refused.message
    assert "40 KiB" in refused.message


def test_request_without_timeout_is_refused_when_there_is_no_room() -> None:
    shell = Shell(capacity_pages=10)
    client = shell.hello()
    shell.lease(client, 10, name="all")
    refused = shell.lease(client, 1, name="more")
    assert refused.code is m.RefusalCode.CAPACITY
    assert refused.fields["used_bytes"] == 10 * PAGE


def test_request_is_refused_when_it_has_waited_its_timeout_and_not_before() -> None:
    shell = Shell(capacity_pages=10)
    client = shell.hello()
    shell.lease(client, 10, name="all")
    seq = shell.say(client, m.Lease, shell.new_id(client), "more", PAGE, PAGE, b"", "", 0, 2_000_000_000)
    shell.wait(1.9)
    assert shell.answer(client, seq) is None
    shell.wait(0.2)
    refused = shell.answer(client, seq)
    assert refused.code is m.RefusalCode.CAPACITY
    assert refused.fields["waited_ns"] == 2_000_000_000


def test_those_who_had_to_wait_are_counted_also_by_a_successor() -> None:
    shell = Shell(capacity_pages=10, warm_pages=10)
    client = shell.hello()
    everything = shell.lease(client, 10, name="all")
    shell.release(client, everything.lease)
    assert isinstance(shell.lease(client, 5, name="half"), m.Granted), "in place of a warm segment: nobody was waited for"
    assert Mark.WAIT not in shell.snapshot().marks
    shell.lease(client, 8, name="refused at once")
    assert Mark.WAIT not in shell.snapshot().marks
    for name in ("first", "second"):
        assert shell.lease(client, 8, name=name, timeout_s=60) is None
    assert shell.snapshot().marks[Mark.WAIT] == 2
    shell.take_over()
    assert shell.snapshot().marks[Mark.WAIT] == 2


def test_those_who_wait_are_served_in_order_of_arrival() -> None:
    shell = Shell(capacity_pages=10)
    holder, first, second = shell.hello(), shell.hello(), shell.hello()
    lease = shell.lease(holder, 10, name="all")
    shell.lease(first, 8, name="first", timeout_s=60)
    shell.lease(second, 8, name="second", timeout_s=60)
    shell.release(holder, lease.lease)
    assert [type(said) for said in shell.heard(first)][-1] is m.Granted
    assert [type(said) for said in shell.heard(second)][-1] is m.Welcome


def test_small_request_does_not_overtake_a_large_one() -> None:
    shell = Shell(capacity_pages=10)
    holder, large, small = shell.hello(), shell.hello(), shell.hello()
    half = shell.lease(holder, 5, name="half")
    assert shell.lease(large, 8, name="large", timeout_s=60) is None
    assert shell.lease(small, 1, name="small", timeout_s=60) is None, "one page is free, but it is not its turn"
    shell.release(holder, half.lease)
    assert isinstance(shell.heard(large)[-1], m.Granted)
    assert isinstance(shell.heard(small)[-1], m.Granted)


def test_whoever_stood_behind_one_that_gave_up_is_served() -> None:
    shell = Shell(capacity_pages=10)
    holder, large, small = shell.hello(), shell.hello(), shell.hello()
    shell.lease(holder, 5, name="half")
    shell.lease(large, 8, name="large", timeout_s=1)
    shell.lease(small, 1, name="small", timeout_s=60)
    shell.wait(1.1)
    assert isinstance(shell.heard(small)[-1], m.Granted)


@pytest.mark.parametrize("leave", [Shell.die, Shell.detach])
def test_whoever_stood_behind_one_that_left_is_served(leave: object) -> None:
    shell = Shell(capacity_pages=10)
    holder, large, small = shell.hello(), shell.hello(), shell.hello()
    shell.lease(holder, 5, name="half")
    shell.lease(large, 8, name="large", timeout_s=60)
    shell.lease(small, 1, name="small", timeout_s=60)
    leave(shell, large)  # type: ignore[operator]
    assert isinstance(shell.heard(small)[-1], m.Granted)


def test_warm_segments_make_room_least_recently_used_first() -> None:
    shell = Shell(capacity_pages=10, warm_pages=10)
    client = shell.hello()
    kept = [shell.lease(client, 3, name=f"n{i}") for i in range(3)]
    for lease in kept:
        shell.publish(client, lease.lease)
        shell.release(client, lease.lease)
    shell.lease(client, 5, name="new")
    assert shell.retired == [kept[0].segment, kept[1].segment]


def test_warm_pool_stays_within_its_bound() -> None:
    shell = Shell(capacity_pages=100, warm_pages=6)
    client = shell.hello()
    leases = [shell.lease(client, 3, name=f"n{i}") for i in range(4)]
    for lease in leases:
        shell.publish(client, lease.lease)
        shell.release(client, lease.lease)
        assert shell.table.rows.warm.total_bytes <= 6 * PAGE
    assert len(shell.retired) == 2


def test_warm_segment_is_given_back_when_nobody_wanted_it_for_long() -> None:
    shell = Shell(warm_idle_s=5.0)
    client = shell.hello()
    lease = shell.lease(client, name="a")
    shell.publish(client, lease.lease)
    shell.release(client, lease.lease)
    shell.wait(4.9)
    assert shell.files
    shell.wait(0.2)
    assert not shell.files


def test_nothing_is_kept_warm_when_none_is_wanted() -> None:
    shell = Shell(warm_pages=0)
    client = shell.hello()
    lease = shell.lease(client, name="a")
    shell.publish(client, lease.lease)
    shell.release(client, lease.lease)
    assert not shell.files


def test_trim_gives_all_warm_segments_and_spares_back() -> None:
    shell = Shell()
    client = shell.hello()
    lease = shell.lease(client)
    shell.publish(client, lease.lease)
    shell.release(client, lease.lease)
    assert shell.files
    shell.ask(client, m.Trim)
    assert not shell.files
    assert shell.table.rows.used_bytes == 0


def test_name_is_taken_from_the_grant_until_the_segment_ends() -> None:
    shell = Shell()
    client, other = shell.hello(), shell.hello()
    lease = shell.lease(client, name="a", site="here.py:3")
    refused = shell.lease(other, name="a", timeout_s=60)
    assert refused.code is m.RefusalCode.EXISTS
    assert refused.fields["pid"] == 1000
    assert "here.py:3" in refused.message
    shell.release(client, lease.lease)
    assert isinstance(shell.lease(other, name="a"), m.Granted)


def test_who_holds_a_name_is_told_and_until_when() -> None:
    shell = Shell()
    maker, reader, other = shell.hello(), shell.hello(), shell.hello()
    pids = [shell.table.rows.clients[client].identity.pid for client in (maker, reader, other)]
    lease = shell.lease(maker, name="a", site="maker.py:3")

    def told() -> m.Refused:
        refused = shell.lease(other, name="a")
        assert refused.code is m.RefusalCode.EXISTS
        return refused

    assert (
        f"held by pid {pids[0]}, which has it for writing (lease taken at maker.py:3), until they let go" in told().message
    )
    shell.publish(maker, lease.lease, readers=2)
    assert "2 announced readers yet to come" in told().message
    shell.die(maker)
    assert told().fields["pids"] == []
    message = told().message
    assert f"made by pid {pids[0]} at maker.py:3, which has ended" in message
    assert "it is kept for 2 announced readers yet to come, for 1 min more at most" in message
    attached = shell.attach(reader, "a")
    assert told().fields == {"name": "a", "pid": pids[1], "pids": [pids[1]], "site": "maker.py:3"}
    assert f"held by pid {pids[1]}, which reads it" in told().message
    assert "1 announced reader yet to come" in told().message
    shell.mint(reader, attached.lease, ttl_s=600)
    shell.release(reader, attached.lease)
    assert told().fields["pid"] is None
    assert "1 ticket not redeemed yet, for 10 min more at most" in told().message


def test_many_holders_of_a_name_are_not_all_listed() -> None:
    shell = Shell()
    clients = [shell.hello() for _ in range(6)]
    lease = shell.lease(clients[0], name="a")
    shell.publish(clients[0], lease.lease)
    for client in clients[1:]:
        shell.attach(client, "a")
    refused = shell.lease(clients[0], name="a")
    assert len(refused.fields["pids"]) == 6
    assert refused.message.count("reads it") == 2
    assert "and others" in refused.message


def test_name_taken_while_waiting_in_line_is_refused_when_its_turn_comes() -> None:
    shell = Shell(capacity_pages=10)
    holder, first, second = shell.hello(), shell.hello(), shell.hello()
    lease = shell.lease(holder, 10, name="all")
    shell.lease(first, 1, name="same", timeout_s=60)
    shell.lease(second, 1, name="same", timeout_s=60)
    shell.release(holder, lease.lease)
    assert isinstance(shell.heard(first)[-1], m.Granted)
    assert shell.heard(second)[-1].code is m.RefusalCode.EXISTS


def test_used_bytes_never_exceed_the_capacity() -> None:
    shell = Shell(capacity_pages=10, warm_pages=10)
    client = shell.hello()
    for pages in (1, 9, 4, 10, 3, 3, 7):
        answer = shell.lease(client, pages)
        assert shell.table.rows.used_bytes <= 10 * PAGE
        if isinstance(answer, m.Granted):
            shell.publish(client, answer.lease)
            shell.release(client, answer.lease)


def test_same_request_asked_again_is_granted_the_same_lease() -> None:
    shell = Shell()
    client = shell.hello()
    granted = shell.lease(client, name="a")
    shell.detach(client)
    shell.hello(1000, resume=client)
    shell.table.apply(client, m.Lease(granted.seq, granted.lease, "a", PAGE, PAGE, b"", "", 0, 0), shell.now)
    shell.settle()
    again = shell.heard(client)[-1]
    assert (again.lease, again.segment, again.generation) == (granted.lease, granted.segment, granted.generation)
    assert len(shell.table.rows.leases) == 1


def test_request_that_waits_twice_is_granted_once() -> None:
    """A client that comes back before the registry saw its old connection end asks again for what still waits."""
    shell = Shell(capacity_pages=10)
    holder, waiting = shell.hello(), shell.hello()
    lease = shell.lease(holder, 10, name="all")
    request = m.Lease(5, waiting << 40 | 5, "mine", PAGE, PAGE, b"", "", 0, 60_000_000_000)
    shell.table.apply(waiting, request, shell.now)
    shell.hello(1001, resume=waiting)
    shell.table.apply(waiting, request, shell.now)
    shell.release(holder, lease.lease)
    assert sum(isinstance(said, m.Granted) for said in shell.inbox[waiting]) == 1
    assert len(shell.table.rows.leases_on[shell.heard(waiting)[-1].segment]) == 1


# --- /dev/shm itself is short of room ----------------------------------------------------------------------------------


def test_full_shm_frees_warm_segments_before_it_refuses() -> None:
    shell = Shell(capacity_pages=100, warm_pages=100, free_pages=10)
    client = shell.hello()
    warm = shell.lease(client, 4, name="warm")
    shell.publish(client, warm.lease)
    shell.release(client, warm.lease)
    granted = shell.lease(client, 9, name="new")
    assert isinstance(granted, m.Granted)
    assert warm.segment in shell.retired


def test_full_shm_is_tried_again_until_the_timeout() -> None:
    shell = Shell(capacity_pages=100, free_pages=10)
    client = shell.hello()
    seq = shell.say(client, m.Lease, shell.new_id(client), "a", 20 * PAGE, 20 * PAGE, b"", "", 0, 1_000_000_000)
    shell.wait(0.5)
    assert shell.answer(client, seq) is None
    shell.free_bytes = 30 * PAGE
    shell.wait(0.1)
    assert isinstance(shell.answer(client, seq), m.Granted)


def test_full_shm_refuses_with_its_own_figures() -> None:
    shell = Shell(capacity_pages=100, free_pages=10)
    client = shell.hello()
    seq = shell.say(client, m.Lease, shell.new_id(client), "a", 20 * PAGE, 20 * PAGE, b"", "", 0, 100_000_000)
    shell.wait(0.2)
    refused = shell.answer(client, seq)
    assert refused.code is m.RefusalCode.CAPACITY
    assert refused.fields["shm_free_bytes"] == 10 * PAGE
    assert "/dev/shm" in refused.message


def test_declined_grant_goes_back_to_the_front_of_the_line() -> None:
    """Reserving its pages failed with ENOSPC: others' writers were faster."""
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(), shell.hello()
    granted = shell.lease(client, 6, name="a")
    shell.lease(other, 6, name="b", timeout_s=60)
    seq = shell.say(client, m.Decline, granted.lease, 60_000_000_000)
    assert granted.segment in shell.retired
    shell.wait(0.1)
    again = shell.answer(client, seq)
    assert again.lease == granted.lease
    assert again.segment != granted.segment
    assert not any(isinstance(said, m.Granted) for said in shell.inbox[other])


def test_grant_that_others_have_seen_cannot_be_declined() -> None:
    shell = Shell()
    parent, child = shell.hello(), shell.hello()
    granted = shell.lease(parent, name="a")
    inherited = shell.ask(child, m.Inherit, shell.new_id(child), granted.lease, "")
    assert isinstance(inherited, m.Attached)
    assert shell.ask(parent, m.Decline, granted.lease, 0).code is m.RefusalCode.NOT_HELD
    assert granted.segment in shell.files
    shell.release(child, inherited.lease)


# --- granted ahead -----------------------------------------------------------------------------------------------------


def test_client_that_takes_unnamed_segments_is_granted_the_next_ahead() -> None:
    shell = Shell()
    client = shell.hello()
    shell.lease(client)
    (spare,) = shell.spares(client)
    assert shell.table.rows.leases[spare.lease].state is LeaseState.RESERVED
    assert spare.segment in shell.files


def test_claimed_spare_is_a_writers_lease() -> None:
    shell = Shell()
    client = shell.hello()
    shell.lease(client)
    (spare,) = shell.spares(client)
    shell.say(client, m.Claim, spare.lease, 8, b"layout", "here.py:1", 0, False)
    lease = shell.table.rows.leases[spare.lease]
    segment = shell.table.rows.segments[spare.segment]
    assert (lease.mode, lease.site) == (LeaseMode.WRITE, "here.py:1")
    assert (segment.state, segment.nbytes, segment.layout) == (SegmentState.FILLING, 8, b"layout")
    shell.release(client, spare.lease)
    assert shell.table.rows.segments[spare.segment].state is SegmentState.WARM, "it was claimed with its pages reserved"


def test_spare_that_was_given_back_unclaimed_is_used_again_only_if_its_pages_were_reserved() -> None:
    for reserved in (False, True):
        shell = Shell()
        client = shell.hello()
        shell.lease(client)
        (spare,) = shell.spares(client)
        shell.say(client, m.Release, spare.lease, reserved)
        assert (spare.segment in shell.files) is reserved


def test_spare_gives_way_to_those_who_wait() -> None:
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(), shell.hello()
    shell.lease(client, 4)
    assert shell.spares(client)
    assert isinstance(shell.lease(other, 6, name="a"), m.Granted)


def test_claimed_spare_does_not_give_way_though_the_claim_was_not_read_yet() -> None:
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(), shell.hello()
    shell.lease(client, 4)
    (spare,) = shell.spares(client)
    shell.claimed.add(spare.segment)
    assert shell.lease(other, 6, name="a").code is m.RefusalCode.CAPACITY
    shell.say(client, m.Claim, spare.lease, 8, b"", "", 0, False)
    assert shell.table.rows.leases[spare.lease].mode is LeaseMode.WRITE


def test_idle_spare_is_given_back() -> None:
    shell = Shell(warm_idle_s=5.0)
    client = shell.hello()
    lease = shell.lease(client)
    shell.wait(6)
    assert set(shell.files) == {lease.segment}


def test_nothing_is_granted_ahead_while_somebody_waits() -> None:
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(), shell.hello()
    shell.lease(client, 5, name="half")
    shell.lease(other, 8, name="large", timeout_s=60)
    shell.lease(client, 1, timeout_s=60)
    assert not shell.spares(client)


def test_spare_is_nothing_that_could_be_published_shared_or_inherited() -> None:
    shell = Shell()
    client, other = shell.hello(), shell.hello()
    shell.lease(client)
    (spare,) = shell.spares(client)
    before = shell.table.rows.segments[spare.segment]
    shell.publish(client, spare.lease, readers=3)
    shell.say(client, m.Linger, spare.lease)
    shell.mint(client, spare.lease)
    assert shell.ask(other, m.Inherit, shell.new_id(other), spare.lease, "").code is m.RefusalCode.NOT_HELD
    assert shell.table.rows.segments[spare.segment] == before
    shell.release(client, spare.lease)
    shell.wait(60)
    assert spare.segment not in shell.files
