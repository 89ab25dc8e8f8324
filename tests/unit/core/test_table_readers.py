"""Publishing and attaching by name: nobody sees a segment before it is finished, and it stays for those expected."""

from __future__ import annotations

import pytest

from rig.shell import Shell
from shmlease.core import messages as m
from shmlease.core.model import EventKind, SegmentState


def test_segment_cannot_be_attached_before_it_is_published() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    shell.lease(writer, name="a")
    refused = shell.attach(reader, "a")
    assert refused.code is m.RefusalCode.NOT_FOUND
    assert "still being written by pid 1000" in refused.message
    assert "publish()" in refused.message


def test_reader_waits_until_the_segment_is_published() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    assert shell.attach(reader, "a", timeout_s=60) is None
    lease = shell.lease(writer, name="a")
    assert not any(isinstance(said, m.Attached) for said in shell.inbox[reader])
    shell.publish(writer, lease.lease)
    attached = shell.heard(reader)[-1]
    assert (attached.segment, attached.name, attached.writable, attached.layout) == (lease.segment, "a", False, b"layout")


def test_reader_that_waited_its_timeout_is_told_that_nobody_has_that_name() -> None:
    shell = Shell()
    reader = shell.hello()
    seq = shell.say(reader, m.Attach, shell.new_id(reader), "a", "", 0, 1_000_000_000)
    shell.wait(1.1)
    refused = shell.answer(reader, seq)
    assert refused.code is m.RefusalCode.NOT_FOUND
    assert refused.fields == {"name": "a", "waited_ns": 1_000_000_000}


def test_all_who_wait_for_a_name_are_served_together() -> None:
    shell = Shell()
    writer, *readers = (shell.hello() for _ in range(4))
    for reader in readers:
        shell.attach(reader, "a", timeout_s=60)
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    assert all(isinstance(shell.heard(reader)[-1], m.Attached) for reader in readers)
    assert len(shell.table.rows.leases_on[lease.segment]) == 4


def test_published_segment_lives_as_long_as_its_last_reader() -> None:
    shell = Shell()
    writer, first, second = shell.hello(), shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    leases = [shell.attach(reader, "a").lease for reader in (first, second)]
    shell.release(writer, lease.lease)
    shell.release(first, leases[0])
    assert shell.table.rows.segments[lease.segment].state is SegmentState.PUBLISHED
    shell.release(second, leases[1])
    assert shell.table.rows.segments[lease.segment].state is SegmentState.WARM


def test_name_of_a_segment_with_readers_stays_attachable_after_its_writer_released() -> None:
    shell = Shell()
    writer, first, second = shell.hello(), shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    shell.attach(first, "a")
    shell.release(writer, lease.lease)
    assert isinstance(shell.attach(second, "a"), m.Attached)


def test_segment_stays_for_the_readers_to_come() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease, readers=2, ttl_s=60)
    shell.release(writer, lease.lease)
    for _ in range(2):
        attached = shell.attach(reader, "a")
        assert isinstance(attached, m.Attached)
        shell.release(reader, attached.lease)
    assert shell.attach(reader, "a").code is m.RefusalCode.NOT_FOUND
    assert shell.table.rows.segments[lease.segment].state is SegmentState.WARM


def test_readers_that_never_came_are_an_event_and_their_segment_is_never_recycled() -> None:
    shell = Shell()
    writer = shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease, readers=2, ttl_s=10)
    shell.release(writer, lease.lease)
    shell.wait(9)
    assert lease.segment in shell.files
    shell.wait(2)
    assert lease.segment in shell.retired
    (event,) = [event for event in shell.table.rows.events.values() if event.kind is EventKind.READERS_EXPIRED]
    assert (event.segment, event.client) == (lease.segment, writer)


def test_readers_are_waited_for_though_the_writer_died() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease, readers=1)
    shell.die(writer)
    attached = shell.attach(reader, "a")
    assert isinstance(attached, m.Attached)
    shell.release(reader, attached.lease)
    assert lease.segment in shell.retired, "a segment of a dead holder is never recycled"


def test_publishing_twice_changes_nothing() -> None:
    shell = Shell()
    writer = shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    before = shell.table.rows.segments[lease.segment]
    shell.publish(writer, lease.lease)
    assert shell.table.rows.segments[lease.segment] == before


def test_segment_abandoned_unpublished_is_an_event_and_is_unlinked() -> None:
    shell = Shell()
    writer = shell.hello()
    lease = shell.lease(writer, name="a", site="here.py:9")
    shell.release(writer, lease.lease)
    (event,) = [event for event in shell.table.rows.events.values() if event.kind is EventKind.WRITER_ABANDONED]
    assert (event.segment, event.detail) == (lease.segment, "here.py:9")
    assert lease.segment in shell.retired


@pytest.mark.parametrize("kind", [m.Publish, m.Linger, m.Release, m.Share, m.Mint, m.Expose, m.Decline])
def test_lease_of_another_client_is_not_ones_own(kind: type) -> None:
    shell = Shell()
    writer, thief = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    rows = shell.table.rows
    before = (dict(rows.leases), dict(rows.segments), dict(rows.tickets))
    fields = {
        m.Publish: (lease.lease, 5, 10**15),
        m.Decline: (lease.lease, 0),
        m.Mint: (lease.lease, shell.new_id(thief), 10**15, ""),
    }.get(kind, (lease.lease,))
    refused = shell.ask(thief, kind, *fields)
    assert refused.code is m.RefusalCode.NOT_HELD
    assert (dict(rows.leases), dict(rows.segments), dict(rows.tickets)) == before


@pytest.mark.parametrize("kind", [m.Lease, m.Attach, m.Inherit])
def test_lease_ids_of_others_cannot_be_chosen(kind: type) -> None:
    shell = Shell()
    writer, thief = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    shell.publish(writer, lease.lease)
    for chosen in (writer << 40 | 77, thief << 40 | 1 << 39):
        fields = {
            m.Lease: (chosen, None, 1, 1, b"", "", 0, 0),
            m.Attach: (chosen, "a", "", 0, 0),
            m.Inherit: (chosen, lease.lease, ""),
        }[kind]
        assert shell.ask(thief, kind, *fields).code is m.RefusalCode.PROTOCOL


def test_forked_child_takes_a_lease_of_its_own() -> None:
    shell = Shell()
    parent, child = shell.hello(), shell.hello()
    lease = shell.lease(parent, name="a")
    own = shell.ask(child, m.Inherit, shell.new_id(child), lease.lease, "")
    assert (own.segment, own.generation, own.writable) == (lease.segment, lease.generation, True)
    shell.release(parent, lease.lease)
    assert lease.segment in shell.files
    shell.release(child, own.lease)
    assert lease.segment not in shell.files


def test_inheriting_from_one_who_has_released_is_refused() -> None:
    shell = Shell()
    parent, child = shell.hello(), shell.hello()
    lease = shell.lease(parent, name="a")
    shell.release(parent, lease.lease)
    assert shell.ask(child, m.Inherit, shell.new_id(child), lease.lease, "").code is m.RefusalCode.NOT_HELD


def test_notice_that_arrives_twice_is_applied_once() -> None:
    shell = Shell()
    writer = shell.hello()
    lease = shell.lease(writer, name="a")
    seq = shell.publish(writer, lease.lease)
    seq = shell.release(writer, lease.lease)
    again = shell.lease(writer, name="b")
    refusals = len(shell.refusals(writer))
    shell.table.apply(writer, m.Release(seq, again.lease), shell.now)
    shell.settle()
    assert again.lease in shell.table.rows.leases
    assert len(shell.refusals(writer)) == refusals
