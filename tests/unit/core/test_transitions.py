"""The literal table of transitions: every state is reached and left, and the rows go where it says and nowhere else."""

from __future__ import annotations

import itertools

import pytest

from shmlease.core.model import Identity, LeaseMode, LeaseRow, RegistryRow, SegmentRow
from shmlease.core.rows import Rows
from shmlease.core.transitions import (
    LEASE_TRANSITIONS,
    SEGMENT_TRANSITIONS,
    LeaseEvent,
    LeaseState,
    SegmentEvent,
    SegmentState,
)

LEASE = 3 << 40 | 1


@pytest.fixture
def rows() -> Rows:
    return Rows(RegistryRow("r", Identity(10, 20, "boot", 30, 40, "python work.py"), 1, 2, 3, 4, 5, None))


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SegmentState, SegmentEvent)))
def test_segment_goes_where_the_table_says_and_nowhere_else(rows: Rows, state: SegmentState, event: SegmentEvent) -> None:
    segment = SegmentRow(4, 1, 4096, state)
    rows.put(segment)
    if (state, event) not in SEGMENT_TRANSITIONS:
        with pytest.raises(AssertionError, match=f"segment 4 is {state}"):
            rows.move_segment(segment, event)
        assert rows.segments[4] is segment
        return
    rows.move_segment(segment, event, site="here")
    after = SEGMENT_TRANSITIONS[state, event]
    assert rows.segments == ({} if after is None else {4: SegmentRow(4, 1, 4096, after, site="here")})


@pytest.mark.parametrize(("state", "event"), list(itertools.product(LeaseState, LeaseEvent)))
def test_lease_goes_where_the_table_says_and_nowhere_else(rows: Rows, state: LeaseState, event: LeaseEvent) -> None:
    lease = LeaseRow(LEASE, 4, LeaseMode.WRITE, state, 0, 1)
    rows.put(lease)
    if (state, event) not in LEASE_TRANSITIONS:
        with pytest.raises(AssertionError, match=f"lease {LEASE:#x} is {state}"):
            rows.move_lease(lease, event)
        assert rows.leases[LEASE] is lease
        return
    rows.move_lease(lease, event, site="here")
    after = LEASE_TRANSITIONS[state, event]
    assert rows.leases == ({} if after is None else {LEASE: LeaseRow(LEASE, 4, LeaseMode.WRITE, after, 0, 1, "here")})


def test_every_segment_state_is_reached_and_leads_to_the_end() -> None:
    reached = {SegmentState.CREATING}
    while new := {end for (start, _), end in SEGMENT_TRANSITIONS.items() if start in reached and end} - reached:
        reached |= new
    assert reached == set(SegmentState)
    retired = {start for (start, event), _ in SEGMENT_TRANSITIONS.items() if event is SegmentEvent.RETIRED}
    assert retired == set(SegmentState) - {SegmentState.RETIRING}
    after_retiring = {event: end for (start, event), end in SEGMENT_TRANSITIONS.items() if start is SegmentState.RETIRING}
    assert after_retiring == {SegmentEvent.UNLINKED: None}, "nothing else can happen to it"


def test_only_what_was_finished_is_attachable() -> None:
    """The one way into `published` is through `filling`."""
    published = {start for (start, _), end in SEGMENT_TRANSITIONS.items() if end is SegmentState.PUBLISHED}
    assert published == {SegmentState.FILLING}


def test_every_lease_state_ends() -> None:
    assert {state for state, event in LEASE_TRANSITIONS if event is LeaseEvent.ENDED} == set(LeaseState)
    assert all((end is None) == (event is LeaseEvent.ENDED) for (_, event), end in LEASE_TRANSITIONS.items())
