"""The spare that a client uses again and again without notices: what the table knows of it, and that it stays a spare."""

from __future__ import annotations

from rig.shell import PAGE, S, Shell
from shmlease.core import messages as m
from shmlease.core.model import LeaseState, SegmentState, client_of
from shmlease.core.uses import Use


def note_use(shell: Shell, lease: int, begun: int, ended: int, *, site: str = "here.py:1") -> None:
    """The client of `lease` has used it `begun` times, and ended that `ended` times."""
    claim = m.Claim(1, lease, 8, b"layout", site, 7, False)
    shell.table.note_use(client_of(lease), Use(begun > ended, begun, ended, claim), shell.now)
    shell.settle()


def kept_spare(shell: Shell, client: int) -> m.Spare:
    shell.lease(client)
    return shell.spares(client)[0]


def test_spare_that_is_used_without_notices_is_a_lease_while_it_is_in_use() -> None:
    shell = Shell()
    spare = kept_spare(shell, shell.hello())
    rows = shell.table.rows
    note_use(shell, spare.lease, 1, 0)
    lease, segment = rows.leases[spare.lease], rows.segments[spare.segment]
    assert (lease.state, lease.site, lease.due_ns) == (LeaseState.HELD, "here.py:1", 7)
    assert (segment.state, segment.nbytes, segment.layout) == (SegmentState.FILLING, 8, b"layout")
    note_use(shell, spare.lease, 1, 1)
    lease, segment = rows.leases[spare.lease], rows.segments[spare.segment]
    assert (lease.state, lease.site, lease.due_ns) == (LeaseState.RESERVED, "", 0)
    assert (segment.state, segment.nbytes, segment.layout) == (SegmentState.RESERVED, 0, b"")
    shell.now += 5
    note_use(shell, spare.lease, 9, 8, site="there.py:2")
    note_use(shell, spare.lease, 12, 11, site="elsewhere.py:3")
    assert (rows.leases[spare.lease].site, rows.leases[spare.lease].granted_ns) == ("elsewhere.py:3", shell.now)


def test_every_use_is_counted_once_whoever_tells_of_it() -> None:
    shell = Shell()
    client = shell.hello()
    spare = kept_spare(shell, client)
    before = shell.table.counters["leases"]
    note_use(shell, spare.lease, 3, 2)
    note_use(shell, spare.lease, 5, 4)
    shell.say(client, m.Claim, spare.lease, 8, b"", "here.py:1", 0, False, True)
    assert (shell.table.counters["leases"] - before, shell.table.counters["abandoned"]) == (5, 4)
    shell.release(client, spare.lease)
    assert shell.table.counters["abandoned"] == 5
    other = shell.spares(client)[0]
    note_use(shell, other.lease, 6, 4)
    shell.table.note_use(client, Use(True, 8, 7, None), shell.now)  # another one is being described
    shell.say(client, m.Release, other.lease, True, True)
    assert (shell.table.counters["leases"] - before, shell.table.counters["abandoned"]) == (8, 8)
    shell.take_over()
    note_use(shell, spare.lease, 9, 9)
    assert shell.table.counters["leases"] == 0, "a predecessor has counted them"


def test_kept_spare_gives_way_when_its_use_has_ended() -> None:
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(), shell.hello()
    shell.lease(client, 4)
    (spare,) = shell.spares(client)
    shell.claimed.add(spare.segment)
    note_use(shell, spare.lease, 1, 0)
    seq = shell.say(other, m.Lease, shell.new_id(other), "a", 6 * PAGE, 1, b"", "", 0, S)
    assert shell.answer(other, seq) is None
    shell.claimed.clear()
    note_use(shell, spare.lease, 1, 1)
    assert isinstance(shell.answer(other, seq), m.Granted)
    assert spare.segment not in shell.files


def test_kept_spare_that_could_not_be_revoked_is_asked_for_once_more_after_its_next_use() -> None:
    shell = Shell(capacity_pages=10)
    client, other = shell.hello(), shell.hello()
    shell.lease(client, 4)
    (spare,) = shell.spares(client)
    shell.claimed.add(spare.segment)  # its client has taken it, and not said so yet
    seq = shell.say(other, m.Lease, shell.new_id(other), "a", 6 * PAGE, 1, b"", "", 0, S)
    assert shell.answer(other, seq) is None
    shell.claimed.clear()
    note_use(shell, spare.lease, 1, 1)
    assert isinstance(shell.answer(other, seq), m.Granted)


def test_kept_spare_that_was_in_use_when_it_had_been_idle_for_too_long_is_given_back_in_the_end() -> None:
    """Whether or not the table has ever seen it in use."""
    for seen in (True, False):
        shell = Shell()
        client = shell.hello()
        spare = kept_spare(shell, client)
        shell.claimed.add(spare.segment)
        shell.wait(6)
        assert spare.segment in shell.files
        if seen:
            note_use(shell, spare.lease, 1, 0)
        shell.claimed.clear()
        note_use(shell, spare.lease, 1, 1)
        shell.wait(6)
        assert spare.segment not in shell.files, seen


def test_spare_of_which_others_have_a_part_is_not_kept() -> None:
    for act in ("inherit", "share", "publish"):
        shell = Shell()
        client, child = shell.hello(), shell.hello()
        spare = kept_spare(shell, client)
        note_use(shell, spare.lease, 1, 0)
        if act == "inherit":
            assert isinstance(shell.ask(child, m.Inherit, shell.new_id(child), spare.lease, ""), m.Attached)
        elif act == "share":
            shell.say(client, m.Share, spare.lease)
        else:
            shell.publish(client, spare.lease)
        note_use(shell, spare.lease, 1, 1)
        assert shell.table.rows.leases[spare.lease].state is LeaseState.HELD, act


def test_nobody_says_anything_of_anothers_spare_or_of_what_is_none() -> None:
    shell = Shell()
    client, other = shell.hello(), shell.hello()
    spare, granted = kept_spare(shell, client), shell.lease(client)
    for lease in (spare.lease, granted.lease, 77):
        claim = m.Claim(1, lease, 8, b"", "", 0, False)
        shell.table.note_use(other, Use(True, 1, 0, claim), shell.now)
        shell.table.note_use(other, Use(False, 1, 1, claim), shell.now)
    assert shell.table.rows.leases[spare.lease].state is LeaseState.RESERVED
    note_use(shell, granted.lease, 1, 1)
    assert shell.table.rows.leases[granted.lease].state is LeaseState.HELD


def test_spare_in_use_is_lost_with_its_holder() -> None:
    shell = Shell()
    client = shell.hello()
    spare = kept_spare(shell, client)
    note_use(shell, spare.lease, 1, 0)
    shell.die(client)
    assert not shell.table.rows.leases
    assert spare.segment not in shell.files
