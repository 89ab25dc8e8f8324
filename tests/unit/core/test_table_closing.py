"""Closing: nothing new, everything freed, and whatever is said afterwards is answered, not tripped over."""

from __future__ import annotations

import pytest

from rig.shell import PAGE, Shell, identity
from shmlease.core import messages as m
from shmlease.core.refusals import Refusal


def test_close_frees_everything_and_names_the_holders() -> None:
    shell = Shell()
    owner, holder = shell.hello(), shell.hello(4242)
    shell.lease(holder, name="held", site="there.py:8")
    warm = shell.lease(owner, name="warm")
    shell.publish(owner, warm.lease)
    shell.release(owner, warm.lease)
    closed = shell.ask(owner, m.Close)
    assert closed.holders == ["pid 4242 holds 'held' (lease taken at there.py:8)"]
    assert not shell.files
    assert shell.stopped


def test_what_a_holder_has_mapped_stays_valid_after_close() -> None:
    shell = Shell()
    owner, holder = shell.hello(), shell.hello()
    lease = shell.lease(holder, name="held")
    spare_of = shell.lease(holder)
    spares = [spare.segment for spare in shell.spares(holder)]
    shell.ask(owner, m.Close)
    assert not {lease.segment, spare_of.segment, *spares} & shell.punched, "a spare's claim may be on its way"


def test_whoever_waits_is_told_that_the_registry_closes() -> None:
    shell = Shell(capacity_pages=1)
    owner, writer, reader = shell.hello(), shell.hello(), shell.hello()
    shell.lease(owner, name="a")
    shell.lease(writer, name="b", timeout_s=60)
    shell.attach(reader, "c", timeout_s=60)
    shell.ask(owner, m.Close)
    assert shell.heard(writer)[-1].code is m.RefusalCode.CLOSING
    assert shell.heard(reader)[-1].code is m.RefusalCode.CLOSING


def test_only_the_owner_closes_an_embedded_registry() -> None:
    shell = Shell(owner=identity(500))
    shell.hello(500)
    stranger = shell.hello(501)
    refused = shell.ask(stranger, m.Close)
    assert refused.code is m.RefusalCode.PERMISSION
    assert "pid 500" in refused.message
    assert not shell.stopped


def test_nobody_is_admitted_to_a_closing_registry() -> None:
    shell = Shell()
    owner = shell.hello()
    shell.ask(owner, m.Close)
    with pytest.raises(Refusal) as refused:
        shell.hello()
    assert refused.value.code is m.RefusalCode.CLOSING


@pytest.mark.parametrize(
    "said",
    [
        (m.Release,),
        (m.Linger,),
        (m.Share,),
        (m.Publish, 2, 10**12),
        (m.Expose,),
        (m.Link, ((1 << 40 | 99, None),)),
        (m.Decline, 0),
        (m.Statistics, None),
        (m.Trim, None),
        (m.Close, None),
        (m.Ping, None),
        (m.Bye, None),
    ],
    ids=lambda said: said[0].__name__,
)
def test_whatever_a_holder_says_in_the_turn_of_the_close_harms_nobody(said: tuple[type, object]) -> None:
    shell = Shell()
    owner, holder = shell.hello(), shell.hello()
    lease = shell.lease(holder, name="a")
    shell.lease(holder)
    shell.ask(owner, m.Close)
    kind, *rest = said
    shell.say(holder, kind, *(() if rest[:1] == [None] else (lease.lease, *rest)))
    shell.die(holder)
    shell.detach(owner)
    shell.die(owner)
    shell.table.tick(shell.now + 10**15)
    shell.settle()
    assert not shell.files


def test_close_in_the_same_packet_as_a_lease_leaves_no_file() -> None:
    """The file of a segment is made after the message that asked for it was applied, and the next one may be Close."""
    shell = Shell()
    client = shell.hello()
    shell.table.apply(client, m.Lease(5, client << 40 | 5, None, PAGE, PAGE, b"", "", 0, 0), shell.now)
    shell.table.apply(client, m.Close(6), shell.now)
    shell.settle()
    assert not shell.files
    assert shell.stopped
