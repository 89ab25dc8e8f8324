"""A name whose writer ended: those who wait are told at once, those who ask within a minute too, and nobody else."""

from __future__ import annotations

import pytest

from rig.shell import Shell
from shmlease.core import messages as m


def abandoned(shell: Shell, *, dies: bool = True) -> int:
    writer = shell.hello(pid=4321)
    lease = shell.lease(writer, name="a", site="load.py:7 in load")
    if dies:
        shell.die(writer)
    else:
        shell.release(writer, lease.lease)
    return writer


@pytest.mark.parametrize("dies", [True, False])
def test_waiter_is_told_at_once_who_ended_and_where(dies: bool) -> None:
    shell = Shell()
    writer, reader = shell.hello(pid=4321), shell.hello()
    lease = shell.lease(writer, name="a", site="load.py:7 in load")
    assert shell.attach(reader, "a", 60) is None
    if dies:
        shell.die(writer)
    else:
        shell.release(writer, lease.lease)
    (refused,) = shell.refusals(reader)
    assert refused.code is m.RefusalCode.ABANDONED
    assert refused.fields == {"name": "a", "pid": 4321, "site": "load.py:7 in load", "at_ns": shell.now}
    assert ("ended" if dies else "released its lease") in refused.message


def test_writer_whose_views_outlive_its_unpublished_lease_has_abandoned_it() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    assert shell.attach(reader, "a", 60) is None
    shell.say(writer, m.Linger, lease.lease)
    assert [refused.code for refused in shell.refusals(reader)] == [m.RefusalCode.ABANDONED]
    shell.release(writer, lease.lease)
    assert len(shell.refusals(reader)) == 1


def test_who_asks_within_a_minute_is_told_too_also_by_a_successor() -> None:
    shell = Shell()
    abandoned(shell)
    reader = shell.hello()
    assert shell.attach(reader, "a", 60).code is m.RefusalCode.ABANDONED
    shell.wait(30)
    shell.take_over()
    assert shell.attach(reader, "a", 60).code is m.RefusalCode.ABANDONED
    shell.wait(31)
    assert shell.attach(reader, "a", 60) is None, "by now somebody else may write it"
    assert not shell.table.rows.abandoned


def test_name_that_is_written_anew_is_waited_for() -> None:
    shell = Shell()
    abandoned(shell)
    writer, reader = shell.hello(), shell.hello()
    lease = shell.lease(writer, name="a")
    assert shell.attach(reader, "a", 60) is None
    shell.publish(writer, lease.lease)
    assert isinstance(shell.heard(reader)[-1], m.Attached)


def test_patient_waiter_waits_for_another_writer() -> None:
    shell = Shell()
    writer, reader, late = shell.hello(), shell.hello(), shell.hello()
    shell.lease(writer, name="a")
    assert shell.attach(reader, "a", 60, is_patient=True) is None
    shell.die(writer)
    assert not shell.refusals(reader)
    assert shell.attach(late, "a", 60, is_patient=True) is None
    other = shell.hello()
    shell.publish(other, shell.lease(other, name="a").lease)
    assert isinstance(shell.heard(reader)[-1], m.Attached)
    assert isinstance(shell.heard(late)[-1], m.Attached)


def test_published_segment_and_one_without_a_name_are_not_abandoned() -> None:
    shell = Shell()
    writer = shell.hello()
    shell.publish(writer, shell.lease(writer, name="a").lease)
    shell.lease(writer)
    shell.die(writer)
    assert not shell.table.rows.abandoned


def test_names_that_are_remembered_are_bounded() -> None:
    shell = Shell(capacity_pages=4, warm_pages=0)
    writer = shell.hello()
    for number in range(1100):
        shell.release(writer, shell.lease(writer, name=f"n{number}").lease)
    assert len(shell.table.rows.abandoned) == 1024
    assert shell.attach(shell.hello(), "n1099", 60).code is m.RefusalCode.ABANDONED


def test_segment_that_is_used_again_may_be_abandoned_again_under_another_name() -> None:
    shell = Shell()
    writer, reader = shell.hello(), shell.hello()
    segments = set()
    for name in ("a", "b"):
        lease = shell.lease(writer, name=name)
        segments.add(lease.segment)
        shell.say(writer, m.Release, lease.lease, True)
    assert len(segments) == 1
    for name in ("a", "b"):
        assert shell.attach(reader, name, 60).code is m.RefusalCode.ABANDONED
    shell.take_over()
    assert shell.attach(reader, "a", 60).code is m.RefusalCode.ABANDONED
    shell.wait(61)
    assert not shell.table.rows.abandoned
