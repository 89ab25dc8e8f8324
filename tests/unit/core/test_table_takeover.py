"""A successor goes on from the ledger: nothing is lost, nothing given twice, and what was under way is finished."""

from __future__ import annotations

from msgspec.structs import replace

from rig.shell import PAGE, S, Shell, identity
from shmlease.core import messages as m
from shmlease.core.effects import CreateSegment, RetireSegment, RevokeSpare
from shmlease.core.model import (
    ClientState,
    EventKind,
    Mark,
    SegmentRow,
    SegmentState,
    client_of,
)
from shmlease.core.table import Table


def test_successor_has_the_same_rows_under_the_next_epoch() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    shell.attach(reader, "a")
    shell.mint(writer, lease.lease)
    before = shell.snapshot()
    shell.take_over()
    after = shell.snapshot()
    assert (after.segments, after.leases, after.tickets, after.applied, after.marks) == (
        before.segments,
        before.leases,
        before.tickets,
        before.applied,
        before.marks,
    )
    assert after.registry is not None
    assert after.registry.epoch == 2
    assert {client.state for client in after.clients.values()} == {ClientState.DETACHED}
    assert after.events[-1].kind is EventKind.TAKEOVER


def test_client_goes_on_with_its_lease_after_a_takeover() -> None:
    shell = Shell()
    writer = shell.hello(77)
    lease = shell.lease(writer, name="a")
    shell.take_over()
    shell.hello(77, resume=writer)
    shell.publish(writer, lease.lease)
    shell.release(writer, lease.lease)
    assert shell.table.rows.segments[lease.segment].state is SegmentState.WARM


def test_segment_numbers_are_never_given_twice() -> None:
    """A mapping that a client keeps is found by its number: the same number for another file would show old data."""
    shell = Shell(warm_pages=0)
    client = shell.hello(77)
    numbers = []
    for _ in range(3):
        for name in ("a", "b"):
            lease = shell.lease(client, name=name)
            numbers.append(lease.segment)
            shell.release(client, lease.lease)
        shell.take_over()
        shell.hello(77, resume=client)
    assert not shell.files
    assert len(set(numbers)) == 6


def test_client_ids_are_never_given_twice() -> None:
    """A ticket of one that has gone carries its id: a second client of that id would choose the same ids again."""
    shell = Shell()
    writer, sender = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    ticket = shell.mint(sender, shell.attach(sender, "a").lease)
    shell.say(sender, m.Bye)
    shell.take_over()
    assert ticket in shell.table.rows.tickets
    assert shell.hello() > sender


def test_spare_ids_are_never_given_twice() -> None:
    shell = Shell()
    client = shell.hello(77)
    shell.lease(client)
    (spare,) = shell.spares(client)
    shell.ask(client, m.Trim)
    shell.take_over()
    shell.hello(77, resume=client)
    shell.lease(client, 1)
    assert [other.lease for other in shell.spares(client)] != [spare.lease]
    assert client_of(shell.spares(client)[-1].lease) == client


def test_spare_is_told_again_to_one_that_resumes() -> None:
    shell = Shell()
    client = shell.hello(77)
    shell.lease(client)
    (spare,) = shell.spares(client)
    shell.take_over()
    shell.inbox.clear()
    shell.hello(77, resume=client)
    assert [(told.lease, told.segment, told.generation) for told in shell.spares(client)] == [
        (spare.lease, spare.segment, spare.generation)
    ]


def test_ticket_expires_under_a_successor() -> None:
    shell = Shell()
    sender = shell.hello()
    lease = shell.lease(sender, name="a")
    shell.publish(sender, lease.lease)
    shell.mint(sender, lease.lease, ttl_s=10)
    shell.release(sender, lease.lease)
    shell.take_over()
    shell.wait(11)
    assert not shell.table.rows.tickets
    assert lease.segment in shell.retired


def test_readers_are_expected_and_given_up_under_a_successor() -> None:
    shell = Shell()
    writer = shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease, readers=1, ttl_s=10)
    shell.die(writer)
    shell.take_over()
    assert lease.segment in shell.files
    shell.wait(11)
    assert lease.segment in shell.retired


def test_warm_segments_are_given_back_under_a_successor() -> None:
    shell = Shell(warm_idle_s=5)
    client = shell.hello()
    lease = shell.lease(client, name="a")
    shell.publish(client, lease.lease)
    shell.release(client, lease.lease)
    shell.take_over()
    shell.wait(6)
    assert not shell.files


def test_unlinking_under_way_is_finished_by_a_successor() -> None:
    shell = Shell()
    client = shell.hello()
    lease = shell.lease(client, name="a")
    shell.table.holder_died(client, shell.now)
    assert any(isinstance(effect, RetireSegment) for effect in shell.table.effects)  # decided, committed, not carried out
    shell.take_over()
    shell.wait(0.001)
    assert not shell.files
    assert lease.segment not in shell.table.rows.segments


def test_creation_under_way_is_undone_by_a_successor() -> None:
    shell = Shell()
    client = shell.hello()
    shell.table.apply(client, m.Lease(5, client << 40 | 5, "a", PAGE, PAGE, b"", "", 0, 0), shell.now)
    assert isinstance(shell.table.effects[0], CreateSegment)
    shell.take_over()
    assert shell.table.rows.used_bytes == 0
    assert "a" not in shell.table.rows.by_name


def test_spare_revoked_but_not_committed_is_no_loss() -> None:
    """Revoking unlinks before it commits: a successor finds a spare without a file."""
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(77), shell.hello()
    shell.lease(client, 4)
    (spare,) = shell.spares(client)
    shell.table.apply(other, m.Lease(9, other << 40 | 9, "b", 6 * PAGE, 6 * PAGE, b"", "", 0, 0), shell.now)
    assert isinstance(shell.table.effects[0], RevokeSpare)
    del shell.files[spare.segment]
    shell.take_over()
    shell.table.segment_missing(spare.segment, shell.now)
    shell.hello(77, resume=client)
    shell.wait(6)
    assert spare.segment not in shell.table.rows.segments


def test_sequence_of_successors_each_killed_at_once() -> None:
    shell = Shell()
    client = shell.hello(77)
    lease = shell.lease(client, name="a")
    for _ in range(5):
        shell.take_over()
    assert shell.table.rows.registry.epoch == 6
    shell.hello(77, resume=client)
    shell.release(client, lease.lease)
    assert not shell.table.rows.leases


def test_clients_that_never_come_back_and_are_dead_lose_their_leases() -> None:
    shell = Shell()
    dead, alive = shell.hello(77), shell.hello(78)
    lost = shell.lease(dead, name="a")
    kept = shell.lease(alive, name="b")
    shell.take_over()
    shell.die(dead)
    shell.hello(78, resume=alive)
    assert set(shell.files) == {kept.segment}
    assert lost.lease not in shell.table.rows.leases


def test_empty_predecessor_is_as_none() -> None:
    shell = Shell()
    shell.take_over()
    client = shell.hello()
    assert isinstance(shell.lease(client), m.Granted)


def test_marks_are_in_every_checkpoint() -> None:
    shell = Shell()
    shell.hello()
    assert shell.snapshot().marks == {Mark.CLIENT: 1}


def test_row_that_means_nothing_to_anyone_does_not_keep_a_successor_from_serving() -> None:
    """The ledger of a registry killed between two commits is always consistent; one that was not would be
    served as well.
    """
    shell = Shell()
    snapshot = shell.snapshot()
    stray = SegmentRow(9, 1, PAGE, SegmentState.PUBLISHED, "stray")
    table = Table(shell.row, type(snapshot)(registry=shell.row, segments={9: stray}), 5 * S)
    assert table.rows.by_name == {"stray": 9}


def shell_that_ends_when_idle() -> Shell:
    shell = Shell()
    shell.table.rows.put(replace(shell.table.rows.registry, ends_when_idle=True))
    shell.table.tick(shell.now)
    return shell


def test_registry_started_by_clients_ends_when_it_has_been_idle_for_a_minute() -> None:
    shell = shell_that_ends_when_idle()
    shell.wait(59)
    assert not shell.stopped
    shell.wait(1)
    assert shell.stopped


def test_registry_that_is_needed_is_not_idle() -> None:
    shell = shell_that_ends_when_idle()
    shell.wait(59)
    client = shell.hello()
    shell.wait(600)
    lease = shell.lease(client)
    shell.publish(client, lease.lease)
    shell.mint(client, lease.lease, ttl_s=300)
    shell.say(client, m.Bye)
    shell.wait(299)
    assert not shell.stopped, "a ticket may be redeemed yet"
    shell.wait(2)
    assert not shell.stopped
    shell.wait(59)
    assert shell.stopped


def test_who_comes_in_time_starts_the_minute_anew() -> None:
    shell = shell_that_ends_when_idle()
    shell.wait(30)
    shell.say(shell.hello(), m.Bye)
    shell.wait(59)
    assert not shell.stopped
    shell.wait(1)
    assert shell.stopped


def test_registry_that_its_user_has_started_is_never_idle() -> None:
    shell = Shell()
    shell.wait(10_000)
    assert not shell.stopped


def test_registry_makes_way_only_if_clients_have_started_it() -> None:
    shell = Shell()
    assert not shell.table.ending.makes_way_for(identity(5), shell.now)
    shell = shell_that_ends_when_idle()
    assert shell.table.ending.makes_way_for(identity(5), shell.now)
    assert [event.kind for event in shell.table.rows.events.values()][-1] is EventKind.HANDED_OVER
    shell.table.ending.close(shell.now)
    assert not shell.table.ending.makes_way_for(identity(5), shell.now)
