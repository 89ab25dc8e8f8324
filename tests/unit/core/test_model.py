"""Rows and states: the transitions are one literal table, and a snapshot is made of rows and of nothing else."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from shmlease.core.model import (
    EVENTS_KEPT,
    LEASE_TRANSITIONS,
    SEGMENT_TRANSITIONS,
    AppliedRow,
    Change,
    ClientRow,
    ClientState,
    EventKind,
    EventRow,
    Gone,
    Identity,
    LeaseEvent,
    LeaseMode,
    LeaseRow,
    LeaseState,
    Mark,
    MarkRow,
    RegistryRow,
    SegmentEvent,
    SegmentRow,
    SegmentState,
    Snapshot,
    TicketRow,
    after,
    client_of,
    key_of,
)

WHO = Identity(10, 20, "boot", 30, 40, "python work.py")
ROWS = [
    RegistryRow("r", WHO, 1, 2, 3, 4, 5, WHO, True),
    MarkRow(Mark.CLIENT, 9),
    ClientRow(3, WHO, b"s" * 16, ClientState.DETACHED, 7),
    AppliedRow(3, 8),
    SegmentRow(4, 1, 4096, SegmentState.PUBLISHED, "name", 5, b"layout", 3, 1, 2, "site", 2, 9, True, True, True, "alias"),
    LeaseRow(3 << 40 | 1, 4, LeaseMode.READ, LeaseState.LINGERING, 1, 2, "site", 3),
    TicketRow(3 << 40 | 2, 4, 1, 99, "site"),
    EventRow(17, 5, EventKind.HOLDER_DIED, 4, 3, 3, "detail"),
]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SegmentState, SegmentEvent)))
def test_segment_goes_where_the_table_says_and_nowhere_else(state: SegmentState, event: SegmentEvent) -> None:
    segment = SegmentRow(4, 1, 4096, state)
    if (state, event) in SEGMENT_TRANSITIONS:
        assert after(segment, event) is SEGMENT_TRANSITIONS[state, event]
    else:
        with pytest.raises(AssertionError, match=f"segment 4 is {state}"):
            after(segment, event)


def test_every_segment_state_can_be_reached_and_left_towards_the_end() -> None:
    reached = {SegmentState.CREATING}
    while new := {end for (start, _), end in SEGMENT_TRANSITIONS.items() if start in reached} - reached:
        reached |= new
    assert reached == set(SegmentState)
    ends = {start for (start, event), _ in SEGMENT_TRANSITIONS.items() if event is SegmentEvent.RETIRED}
    assert ends == set(SegmentState) - {SegmentState.RETIRING}
    assert not [start for start, _ in SEGMENT_TRANSITIONS if start is SegmentState.RETIRING], "what is retiring stays so"


def test_only_what_was_finished_is_attachable() -> None:
    """The one way into `published` is through `filling`."""
    assert {start for (start, _), end in SEGMENT_TRANSITIONS.items() if end is SegmentState.PUBLISHED} == {
        SegmentState.FILLING
    }


def test_every_lease_state_ends() -> None:
    assert {state for state, event in LEASE_TRANSITIONS if event is LeaseEvent.ENDED} == set(LeaseState)
    assert all((end is None) == (event is LeaseEvent.ENDED) for (_, event), end in LEASE_TRANSITIONS.items())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_row_survives_the_ledger(row: Change) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([row]), type=list[Change]) == [row]


def test_change_that_says_gone_survives_the_ledger() -> None:
    gone = Gone("L", 2**62)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(gone), type=Change) == gone


def test_keys_tell_rows_apart_and_replacements_together() -> None:
    assert len({key_of(row) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert key_of(msgspec.structs.replace(row)) == key_of(row)
    assert key_of(EventRow(5, 0, EventKind.TAKEOVER)) == key_of(EventRow(5 + EVENTS_KEPT, 0, EventKind.TAKEOVER))


def test_snapshot_has_each_row_in_its_place() -> None:
    snapshot = Snapshot.of({key_of(row): row for row in ROWS})
    registry, mark, client, applied, segment, lease, ticket, event = ROWS
    assert snapshot == Snapshot(
        registry, {mark.mark: mark.number}, {client.id: client}, {applied.client: applied.seq}, {segment.number: segment},
        {lease.id: lease}, {ticket.id: ticket}, (event,),
    )  # fmt: skip


def test_snapshot_has_events_in_order() -> None:
    events = [EventRow(number, 0, EventKind.TAKEOVER) for number in (EVENTS_KEPT + 2, 3, 7)]
    assert [event.number for event in Snapshot.of({key_of(row): row for row in events}).events] == [3, 7, EVENTS_KEPT + 2]


def test_id_says_whose_it_is() -> None:
    assert client_of(5 << 40 | 1 << 39 | 77) == 5
