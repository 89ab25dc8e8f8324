"""Rows and their indexes: no change is missed, and what is loaded is what was written."""

from __future__ import annotations

from shmlease.core.model import (
    AppliedRow,
    ClientRow,
    ClientState,
    EventKind,
    Gone,
    Identity,
    LeaseMode,
    LeaseRow,
    LeaseState,
    Mark,
    MarkRow,
    RegistryRow,
    SegmentRow,
    SegmentState,
    TicketRow,
)
from shmlease.core.rows import Rows
from shmlease.core.snapshot import Snapshot, key_of
from shmlease.core.transitions import LeaseEvent, SegmentEvent

WHO = Identity(10, 20, "boot", 30, 40, "python")
REGISTRY = RegistryRow("r", WHO, 1, 2, 3, 1, 0, None)


def segment(
    number: int, state: SegmentState = SegmentState.FILLING, name: str | None = None, creator: int = 1
) -> SegmentRow:
    return SegmentRow(number, 1, 4096, state, name, creator=creator)


def end(rows: Rows, number: int) -> None:
    if rows.segments[number].state is not SegmentState.RETIRING:
        rows.move_segment(rows.segments[number], SegmentEvent.RETIRED, name=None)
    rows.move_segment(rows.segments[number], SegmentEvent.UNLINKED)


def lease(number: int, on: int) -> LeaseRow:
    return LeaseRow(1 << 40 | number, on, LeaseMode.WRITE, LeaseState.HELD, 0, number)


def test_changes_are_told_once_and_only_the_last_of_a_key() -> None:
    rows = Rows(REGISTRY)
    assert rows.take_changes() == [REGISTRY]
    rows.put(segment(1))
    rows.put(segment(1, SegmentState.PUBLISHED))
    rows.put(lease(1, on=1))
    rows.move_lease(rows.leases[1 << 40 | 1], LeaseEvent.ENDED)
    assert rows.take_changes() == [segment(1, SegmentState.PUBLISHED), Gone("L", 1 << 40 | 1)]
    assert rows.take_changes() == []


def test_how_far_notices_were_applied_is_one_change_for_each_client() -> None:
    rows = Rows(REGISTRY)
    rows.take_changes()
    for seq in (4, 5, 6):
        rows.note_applied(1, seq)
    rows.note_applied(2, 9)
    assert rows.take_changes() == [AppliedRow(1, 6), AppliedRow(2, 9)]
    assert rows.take_changes() == []


def test_row_dropped_and_put_again_is_a_row() -> None:
    rows = Rows(REGISTRY)
    rows.put(segment(1))
    end(rows, 1)
    rows.put(segment(1))
    assert rows.take_changes()[-1] == segment(1)


def test_names_follow_their_segments() -> None:
    rows = Rows(REGISTRY)
    rows.put(segment(1, name="a"))
    rows.put(segment(1, SegmentState.WARM))
    assert rows.by_name == {}
    rows.put(segment(2, name="a"))
    end(rows, 2)
    assert rows.by_name == {}


def test_figures_are_those_of_the_rows() -> None:
    rows = Rows(REGISTRY)
    for number in (1, 2, 3):
        rows.put(segment(number))
    rows.put(segment(2, SegmentState.WARM))
    assert (rows.used_bytes, rows.warm.total_bytes, list(rows.warm)) == (3 * 4096, 4096, [2])
    end(rows, 2)
    assert (rows.used_bytes, rows.warm.total_bytes, list(rows.warm)) == (2 * 4096, 0, [])


def test_leases_and_tickets_are_found_by_their_segment() -> None:
    rows = Rows(REGISTRY)
    rows.put(segment(1))
    rows.put(lease(1, on=1))
    rows.put(lease(2, on=1))
    rows.put(TicketRow(1 << 40 | 3, 1, 1, 99))
    assert rows.leases_on[1] == {1 << 40 | 1, 1 << 40 | 2}
    assert set(rows.tickets_on[1]) == {1 << 40 | 3}
    for held in list(rows.leases.values()):
        rows.move_lease(held, LeaseEvent.ENDED)
    rows.drop_ticket(rows.tickets[1 << 40 | 3])
    assert 1 not in rows.leases_on
    assert 1 not in rows.leases_of
    assert 1 not in rows.tickets_on


def test_ended_client_goes_with_the_last_segment_that_it_made() -> None:
    rows = Rows(REGISTRY)
    rows.put(ClientRow(1, WHO, b"", ClientState.ENDED, 0))
    rows.note_applied(1, 5)
    rows.put(segment(1))
    rows.put(segment(2))
    end(rows, 1)
    assert 1 in rows.clients
    end(rows, 2)
    assert not rows.clients
    assert not rows.applied


def test_numbers_go_on_from_those_of_the_predecessor() -> None:
    rows = Rows(REGISTRY)
    assert [rows.next_number(Mark.SEGMENT) for _ in range(3)] == [1, 2, 3]
    assert rows.next_number(Mark.CLIENT) == 1
    again = Rows.of(REGISTRY, Snapshot.of({key_of(row): row for row in rows.all_rows()}))
    assert again.next_number(Mark.SEGMENT) == 4
    assert MarkRow(Mark.SEGMENT, 4) in again.take_changes()


def test_what_was_loaded_is_what_was_written_and_is_no_change() -> None:
    rows = Rows(REGISTRY)
    rows.put(ClientRow(1, WHO, b"s", ClientState.CONNECTED, 0))
    rows.note_applied(1, 5)
    rows.put(segment(1, SegmentState.WARM))
    rows.put(segment(2, name="a"))
    rows.put(lease(1, on=2))
    rows.put(TicketRow(1 << 40 | 3, 2, 1, 99))
    rows.record(5, EventKind.TAKEOVER)
    successor = RegistryRow("r", WHO, 1, 2, 3, 2, 0, None)
    again = Rows.of(successor, Snapshot.of({key_of(row): row for row in rows.all_rows()}))
    assert again.take_changes() == [successor]
    assert again.all_rows()[1:] == rows.all_rows()[1:]
    assert (again.used_bytes, again.by_name, again.next_event) == (rows.used_bytes, rows.by_name, rows.next_event)
