"""Deaths, departures and lingering views: what a holder leaves ends with it, is told, and is never recycled."""

from __future__ import annotations

import pytest

from rig.shell import Shell, identity
from shmlease.core import messages as m
from shmlease.core.model import ClientState, EventKind, LeaseState, Mark, SegmentState
from shmlease.core.os_names import os_names_of
from shmlease.core.refusals import Refusal


def events(shell: Shell, kind: EventKind) -> list[tuple[int, int, int]]:
    return [(e.segment, e.lease, e.client) for e in shell.table.rows.events.values() if e.kind is kind]


def test_lease_of_a_dead_holder_ends_and_its_segment_is_unlinked() -> None:
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a")
    shell.publish(holder, lease.lease)
    shell.die(holder)
    assert not shell.files
    assert lease.lease not in shell.table.rows.leases
    assert events(shell, EventKind.HOLDER_DIED) == [(lease.segment, lease.lease, holder)]
    assert shell.snapshot().marks[Mark.RECLAIM] == 1
    assert holder in shell.dropped


def test_segment_of_a_dead_reader_lives_on_for_the_others_and_is_never_recycled() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    shell.attach(reader, "a")
    shell.die(reader)
    assert lease.segment in shell.files
    shell.release(writer, lease.lease)
    assert lease.segment in shell.retired


def test_half_written_segment_of_a_dead_writer_is_never_seen() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    shell.lease(writer, name="a")
    shell.attach(reader, "a", timeout_s=60)
    shell.die(writer)
    assert not any(isinstance(said, m.Attached) for said in shell.inbox[reader])
    assert not shell.files


def test_spares_of_a_dead_client_are_given_back() -> None:
    shell = Shell()
    client = shell.hello()
    shell.lease(client)
    assert shell.spares(client)
    shell.die(client)
    assert not shell.files


def test_dying_twice_or_after_leaving_changes_nothing() -> None:
    shell = Shell()
    client = shell.hello()
    shell.say(client, m.Bye)
    before = shell.snapshot()
    shell.die(client)
    shell.die(client)
    shell.die(4711)
    assert shell.snapshot() == before


def test_lost_connection_alone_ends_nothing() -> None:
    """Unknown counts as alive: only proof of death ends a lease."""
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a")
    shell.detach(holder)
    shell.wait(3600)
    assert lease.segment in shell.files
    assert shell.table.rows.clients[holder].state is ClientState.DETACHED


def test_detached_client_resumes_with_its_secret() -> None:
    shell = Shell()
    holder = shell.hello(77)
    lease = shell.lease(holder, name="a")
    shell.detach(holder)
    assert shell.hello(77, resume=holder) == holder
    shell.release(holder, lease.lease)
    assert not shell.table.rows.leases


@pytest.mark.parametrize(
    ("pid", "start_ticks", "secret"),
    [(78, 7, b"0123456789abcdef"), (77, 8, b"0123456789abcdef"), (77, 7, b"fedcba9876543210")],
)
def test_only_the_same_process_with_its_secret_resumes(pid: int, start_ticks: int, secret: bytes) -> None:
    shell = Shell()
    holder = shell.hello(77)
    shell.detach(holder)
    with pytest.raises(Refusal) as refused:
        shell.hello(pid, start_ticks=start_ticks, secret=secret, resume=holder)
    assert refused.value.code is m.RefusalCode.RESUME
    assert shell.table.rows.clients[holder].state is ClientState.DETACHED


def test_ended_client_does_not_come_back() -> None:
    shell = Shell()
    holder = shell.hello(77)
    shell.die(holder)
    with pytest.raises(Refusal) as refused:
        shell.hello(77, resume=holder)
    assert refused.value.code is m.RefusalCode.RESUME


def test_another_protocol_is_refused() -> None:
    shell = Shell()
    with pytest.raises(Refusal, match="same version of shmlease") as refused:
        shell.table.hello(m.Hello(1, m.PROTOCOL + 1, bytes(16), 0), identity(5), 0)
    assert refused.value.code is m.RefusalCode.PROTOCOL
    assert not shell.table.rows.clients


def test_client_that_leaves_with_leases_may_keep_what_it_has_mapped() -> None:
    shell = Shell()
    client = shell.hello()
    lease = shell.lease(client, name="a")
    shell.publish(client, lease.lease)
    shell.say(client, m.Bye)
    assert lease.segment in shell.retired, "not recycled: its views may live"
    assert lease.segment not in shell.punched, "its pages stay until the last mapping goes"


def test_segment_with_a_lingering_view_stays_held_until_the_view_dies() -> None:
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a", site="here.py:4")
    shell.publish(holder, lease.lease)
    shell.say(holder, m.Linger, lease.lease)
    assert shell.table.rows.leases[lease.lease].state is LeaseState.LINGERING
    assert lease.segment in shell.files
    shell.release(holder, lease.lease)
    assert lease.segment in shell.retired, "never recycled"
    assert events(shell, EventKind.VIEW_LINGERED) == [(lease.segment, lease.lease, holder)]
    assert events(shell, EventKind.VIEW_DIED) == [(lease.segment, lease.lease, holder)]


def test_segment_that_a_fork_shares_is_neither_recycled_nor_punched() -> None:
    shell = Shell()
    parent = shell.hello()
    lease = shell.lease(parent, name="a")
    shell.publish(parent, lease.lease)
    shell.say(parent, m.Share, lease.lease)
    shell.die(parent)
    assert lease.segment in shell.retired
    assert lease.segment not in shell.punched


def test_exposed_segment_is_neither_recycled_nor_punched_and_its_alias_goes_with_it() -> None:
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a")
    shell.publish(holder, lease.lease)
    alias = shell.ask(holder, m.Expose, lease.lease).alias
    assert os_names_of("r1").fullmatch(alias)
    assert shell.aliases == {alias: lease.segment}
    assert shell.ask(holder, m.Expose, lease.lease).alias == alias
    shell.release(holder, lease.lease)
    assert lease.segment in shell.retired
    assert lease.segment not in shell.punched
    assert not shell.aliases


def test_missing_file_is_an_event_and_is_not_recycled() -> None:
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a")
    shell.publish(holder, lease.lease)
    shell.table.segment_missing(lease.segment, shell.now)
    shell.settle()
    assert events(shell, EventKind.SEGMENT_MISSING) == [(lease.segment, 0, holder)]
    shell.release(holder, lease.lease)
    assert lease.segment in shell.retired


def test_unlinking_that_fails_is_an_event_and_tried_again() -> None:
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a")
    number = lease.segment
    shell.die(holder)
    shell = Shell()
    holder = shell.hello()
    lease = shell.lease(holder, name="a")
    number = lease.segment
    shell.table.holder_died(holder, shell.now)
    retiring = [effect for effect in shell.table.effects if type(effect).__name__ == "RetireSegment"]
    shell.table.effects.clear()
    assert [effect.segment for effect in retiring] == [number]
    shell.table.segment_retired(number, "Permission denied", shell.now)
    assert shell.table.rows.segments[number].state is SegmentState.RETIRING
    assert events(shell, EventKind.RETIRE_FAILED) == [(number, 0, 0)]
    shell.wait(1.1)
    assert number not in shell.table.rows.segments


def test_event_log_is_bounded_and_keeps_the_latest() -> None:
    shell = Shell()
    client = shell.hello()
    for _ in range(1100):
        shell.ask(client, m.Redeem, 5)
    assert len(shell.table.rows.events) == 1024
    assert max(event.number for event in shell.table.rows.events.values()) == 1100
    assert min(event.number for event in shell.table.rows.events.values()) == 1100 - 1023


# --- the owner of an embedded registry -----------------------------------------------------------------------------------


def test_registry_stops_when_its_owner_and_all_others_have_ended() -> None:
    shell = Shell(owner=identity(500))
    owner, other = shell.hello(500), shell.hello(501)
    shell.die(owner)
    assert not shell.stopped
    shell.die(other)
    assert shell.stopped


def test_registry_without_owner_serves_on() -> None:
    shell = Shell()
    client = shell.hello()
    shell.die(client)
    shell.wait(1e6)
    assert not shell.stopped


def test_registry_of_a_dead_owner_serves_its_tickets_first_and_then_stops() -> None:
    shell = Shell(owner=identity(500))
    owner = shell.hello(500)
    lease = shell.lease(owner, name="a")
    shell.publish(owner, lease.lease)
    ticket = shell.mint(owner, lease.lease, ttl_s=30)
    shell.die(owner)
    shell.table.owner_ended(shell.now)
    shell.settle()
    assert not shell.stopped
    receiver = shell.hello(501)
    redeemed = shell.redeem(receiver, ticket)
    shell.release(receiver, redeemed)
    assert not shell.stopped
    shell.say(receiver, m.Bye)
    assert shell.stopped


@pytest.mark.parametrize("expected", ["ticket", "readers"])
def test_registry_of_a_dead_owner_stops_when_what_it_waited_for_never_came(expected: str) -> None:
    shell = Shell(owner=identity(500))
    owner = shell.hello(500)
    lease = shell.lease(owner, name="a")
    shell.publish(owner, lease.lease, readers=int(expected == "readers"), ttl_s=30)
    if expected == "ticket":
        shell.mint(owner, lease.lease, ttl_s=30)
    shell.die(owner)
    shell.table.owner_ended(shell.now)
    shell.settle()
    assert not shell.stopped
    shell.wait(31)
    assert shell.stopped
    assert not shell.files
