"""Names that are linked in /dev/shm: what keeps them, and what they keep."""

from __future__ import annotations

import pytest

from rig.repeated import for_each
from rig.shell import PAGE, S, Shell, identity
from shmlease.core import messages as m
from shmlease.core.model import EventKind, Identity, SegmentState
from shmlease.core.pool import RECYCLED_BYTES
from shmlease.core.sizes import file_size

ONE, OTHER = identity(77), identity(78)


def linked(shell: Shell, client: int, *keepers: Identity | None, name: str = "a", nbytes: int = 100) -> m.Granted:
    """A published, mutable segment with its name in /dev/shm, kept by `keepers`."""
    lease = shell.ask(client, m.Lease, shell.new_id(client), name, file_size(nbytes), nbytes, b"", "", 0, 0, True)
    shell.publish(client, lease.lease)
    assert link(shell, client, lease.lease, *keepers) is None
    return lease


def link(shell: Shell, client: int, lease: int, *keepers: Identity | None) -> m.Refused | None:
    """As a client does: the notice, then the link."""
    numbers = [shell.new_id(client) + 1000 + number for number in range(len(keepers))]
    refused: m.Refused | None = shell.ask(client, m.Link, lease, tuple(zip(numbers, keepers, strict=True)))
    segment = shell.table.rows.segments[shell.table.rows.leases[lease].segment]
    if refused is None and keepers and shell.aliases.setdefault(segment.alias, segment.number) != segment.number:
        shell.say(client, m.Link, lease, ())  # another file has the name: it gives that up
    return refused


def unlink(shell: Shell, client: int, lease: m.Granted, generation: int = 0) -> None:
    """As a client does: the notice, then the unlinking."""
    assert shell.ask(client, m.Unlink, lease.segment, generation or lease.generation) is None
    if not generation:
        shell.aliases = {alias: number for alias, number in shell.aliases.items() if number != lease.segment}


def keeper_of(shell: Shell, process: Identity) -> int:
    return next(number for number, watched in shell.watched.items() if watched == process)


def test_name_keeps_its_segment_without_a_lease() -> None:
    shell = Shell()
    client = shell.hello()
    lease = linked(shell, client, ONE)
    shell.release(client, lease.lease)
    assert shell.aliases == {"a": lease.segment}
    assert isinstance(shell.attach(client, "a"), m.Attached)


def test_name_ends_with_the_last_of_its_keepers_and_who_holds_the_segment_keeps_it() -> None:
    shell = Shell()
    client, reader = shell.hello(), shell.hello()
    lease = linked(shell, client, ONE, OTHER)
    held = shell.attach(reader, "a")
    shell.release(client, lease.lease)
    shell.end_receiver(keeper_of(shell, ONE))
    assert shell.aliases == {"a": lease.segment}
    shell.end_receiver(keeper_of(shell, OTHER))
    assert (shell.aliases, shell.watched) == ({}, {})
    assert shell.attach(reader, "a").code is m.RefusalCode.NOT_FOUND
    assert shell.table.rows.segments[lease.segment].state is SegmentState.PUBLISHED
    assert "its last keeper" in list(shell.table.rows.events.values())[-1].detail
    shell.release(reader, held.lease)
    assert (shell.retired, shell.punched) == ([lease.segment], set())


def test_withdrawn_name_needs_no_keeper_any_more() -> None:
    shell = Shell()
    client = shell.hello()
    lease = linked(shell, client, ONE, None)
    shell.release(client, lease.lease)
    assert isinstance(shell.ask(client, m.Withdraw, "a", shell.now), m.Done)
    assert (shell.aliases, shell.watched, shell.table.rows.tickets) == ({}, {}, {})
    assert shell.retired == [lease.segment]


def test_file_of_a_large_segment_that_nobody_has_open_becomes_another_segments() -> None:
    shell = Shell(capacity_pages=1000, warm_pages=500)
    client = shell.hello()
    lease = linked(shell, client, ONE, nbytes=RECYCLED_BYTES)
    shell.release(client, lease.lease, reserved=True)
    unlink(shell, client, lease)
    (segment,) = shell.table.rows.segments.values()
    assert (segment.state, segment.exposed, segment.alias) == (SegmentState.WARM, False, "")
    assert segment.number != lease.segment, "what was known of the first one leads nowhere"
    assert (shell.retired, set(shell.files), shell.aliases) == ([], {segment.number}, {})
    again = shell.lease(client, RECYCLED_BYTES // PAGE)
    assert (again.segment, again.fresh) == (segment.number, False)


@for_each("otherwise", ["open", "small", "its holder died", "closing"])
def test_file_of_a_segment_that_had_a_name_is_unlinked(otherwise: str) -> None:
    shell = Shell(capacity_pages=1000, warm_pages=500)
    client, other = shell.hello(), shell.hello()
    lease = linked(shell, client, ONE, nbytes=100 if otherwise == "small" else RECYCLED_BYTES)
    if otherwise == "open":
        shell.opened_by_others.add(lease.segment)
    if otherwise == "its holder died":
        shell.attach(other, "a")
        shell.die(other)
    shell.release(client, lease.lease, reserved=True)
    if otherwise == "closing":
        shell.ask(other, m.Close)
    else:
        unlink(shell, client, lease)
    assert (shell.retired, shell.punched, shell.files) == ([lease.segment], set(), {})


def test_name_that_a_client_unlinks_itself_is_free_without_an_answer() -> None:
    shell = Shell()
    client, other = shell.hello(), shell.hello()
    lease = linked(shell, client, ONE)
    unlink(shell, other, lease, generation=lease.generation + 1)
    assert shell.attach(client, "a").segment == lease.segment
    for _ in range(2):
        unlink(shell, other, lease)
    assert shell.watched == {}
    assert not shell.table.rows.events, "the usual end is no event"
    assert isinstance(linked(shell, client, ONE), m.Granted)


def test_name_that_a_killed_client_has_not_unlinked_any_more_goes_with_the_segment() -> None:
    shell = Shell()
    client, other = shell.hello(), shell.hello()
    lease = linked(shell, client, None)
    shell.say(other, m.Unlink, lease.segment, lease.generation)
    shell.die(other)
    shell.release(client, lease.lease)
    assert not shell.aliases


def test_name_that_was_given_anew_is_not_withdrawn_by_the_address_of_the_old_segment() -> None:
    shell = Shell()
    client = shell.hello()
    old = linked(shell, client, None)
    where = (None, shell.now, old.segment, old.generation)
    assert isinstance(shell.ask(client, m.Withdraw, *where), m.Done)
    new = linked(shell, client, None)
    assert shell.ask(client, m.Withdraw, *where).code is m.RefusalCode.NOT_FOUND
    assert shell.aliases == {"a": new.segment}
    shell.release(client, old.lease)
    assert shell.aliases == {"a": new.segment}, "the end of the old segment takes no name from the new one"


def test_name_of_another_file_is_refused_and_the_segment_is_as_before() -> None:
    shell = Shell()
    client = shell.hello()
    shell.aliases["a"] = 99
    lease = shell.ask(client, m.Lease, shell.new_id(client), "a", PAGE, PAGE, b"", "", 0, 0, True)
    shell.publish(client, lease.lease)
    link(shell, client, lease.lease, ONE)
    shell.release(client, lease.lease)
    assert (shell.retired, shell.aliases, shell.watched) == ([lease.segment], {"a": 99}, {})


def test_link_that_its_client_gives_up_leaves_the_segment_as_it_was() -> None:
    shell = Shell()
    client = shell.hello()
    lease = linked(shell, client, ONE)
    assert link(shell, client, lease.lease) is None
    assert (shell.aliases, shell.watched) == ({}, {})
    assert isinstance(shell.attach(client, "a"), m.Attached)
    assert link(shell, client, lease.lease, ONE) is None
    assert shell.aliases == {"a": lease.segment}


@pytest.mark.parametrize("name", ["a/b", "..", "shmlease-r1", "é" * 200])
def test_name_that_no_file_can_have_is_refused(name: str) -> None:
    shell = Shell()
    client = shell.hello()
    lease = shell.lease(client, name=name)
    shell.publish(client, lease.lease)
    assert link(shell, client, lease.lease, None).code is m.RefusalCode.NOT_HELD
    assert not shell.aliases


def test_only_a_published_segment_with_a_name_of_its_own_is_linked() -> None:
    shell = Shell()
    client = shell.hello()
    unpublished, unnamed, exposed = shell.lease(client, name="a"), shell.lease(client), shell.lease(client, name="b")
    shell.publish(client, unnamed.lease)
    shell.publish(client, exposed.lease)
    shell.say(client, m.Expose, exposed.lease)
    for lease in (unpublished, unnamed, exposed):
        assert link(shell, client, lease.lease, None).code is m.RefusalCode.NOT_HELD


def test_file_of_a_recycled_segment_counts_as_large_as_its_array() -> None:
    shell = Shell()
    client = shell.hello()
    larger = shell.lease(client, 5, name="larger")  # one without a name has others set aside
    shell.publish(client, larger.lease)
    shell.release(client, larger.lease)
    lease = shell.ask(client, m.Lease, shell.new_id(client), "a", PAGE * 4, PAGE * 4 - 1, b"", "", 0, 0, True)
    shell.publish(client, lease.lease)
    assert (lease.segment, shell.table.rows.used_bytes) == (larger.segment, PAGE * 5)
    link(shell, client, lease.lease, None)
    assert shell.table.rows.used_bytes == PAGE * 4


def test_keepers_are_watched_by_a_successor() -> None:
    shell = Shell()
    client = shell.hello()
    lease = linked(shell, client, ONE)
    shell.release(client, lease.lease)
    shell.watched.clear()
    shell.take_over()
    assert list(shell.watched.values()) == [ONE]
    shell.end_receiver(keeper_of(shell, ONE))
    assert not shell.aliases


def test_successor_takes_a_withdrawn_name_from_the_directory() -> None:
    """The registry was killed after the withdrawal was committed and before the name was unlinked."""
    shell = Shell()
    client = shell.hello()
    lease = linked(shell, client, None)
    shell.ask(client, m.Withdraw, "a", shell.now)
    shell.aliases["a"] = lease.segment
    shell.take_over()
    assert not shell.aliases


def test_link_that_is_asked_for_again_adds_no_keeper() -> None:
    shell = Shell()
    client = shell.hello()
    lease = linked(shell, client, ONE)
    message = m.Link(shell.seq[client], lease.lease, ((keeper_of(shell, ONE), ONE),))
    shell.take_over()
    shell.table.apply(client, message, shell.now)
    shell.settle()
    assert len(shell.table.rows.tickets) == 1


def test_keeper_can_be_neither_redeemed_nor_taken_back_nor_does_it_expire() -> None:
    shell = Shell()
    client = shell.hello()
    linked(shell, client, ONE)
    keeper = keeper_of(shell, ONE)
    shell.say(client, m.Redeemed, shell.new_id(client), keeper, "", 0)
    shell.say(client, m.Revoked, keeper)
    shell.now += 10**6 * S
    shell.table.tick(shell.now)
    shell.settle()
    assert keeper in shell.table.rows.tickets
    assert not any(event.kind is EventKind.TICKET_EXPIRED for event in shell.table.rows.events.values())


@pytest.mark.parametrize("keeper", [ONE, None])
def test_registry_waits_for_the_processes_that_keep_names_and_for_no_name_that_it_keeps_itself(
    keeper: Identity | None,
) -> None:
    owner = identity(500)
    shell = Shell(owner=owner)
    client = shell.hello(500)
    lease = linked(shell, client, keeper)
    shell.release(client, lease.lease)
    shell.say(client, m.Bye)
    assert shell.stopped == (keeper is None)
    if keeper is not None:
        shell.end_receiver(keeper_of(shell, keeper))
        assert shell.stopped


def test_name_that_is_kept_says_by_whom() -> None:
    shell = Shell()
    client = shell.hello()
    linked(shell, client, ONE)
    refused = shell.lease(client, name="a")
    assert refused.code is m.RefusalCode.EXISTS
    assert "kept by pid 77" in refused.message


def test_segment_whose_name_was_withdrawn_before_the_link_has_no_keeper() -> None:
    """Both messages are in one packet: the link is made after both were applied."""
    shell = Shell()
    client = shell.hello()
    lease = shell.ask(client, m.Lease, shell.new_id(client), "a", PAGE, PAGE, b"", "", 0, 0, True)
    shell.publish(client, lease.lease)
    seq = shell.seq[client]
    shell.table.apply(client, m.Link(seq + 1, lease.lease, ((client << 40 | 999, ONE),)), shell.now)
    shell.table.apply(client, m.Withdraw(seq + 2, "a", shell.now), shell.now)
    shell.settle()
    assert (shell.aliases, shell.watched, shell.table.rows.tickets) == ({}, {}, {})
