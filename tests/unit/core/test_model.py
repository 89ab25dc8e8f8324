"""Rows: they survive the ledger, and a snapshot is made of rows and of nothing else."""

from __future__ import annotations

import msgspec
import pytest

from shmlease.core.model import (
    AppliedRow,
    Change,
    ClientRow,
    ClientState,
    EventKind,
    EventRow,
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
    client_of,
)
from shmlease.core.snapshot import EVENTS_KEPT, Snapshot, key_of

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
        registry,
        {mark.mark: mark.number},
        {client.id: client},
        {applied.client: applied.seq},
        {segment.number: segment},
        {lease.id: lease},
        {ticket.id: ticket},
        (event,),
    )


def test_snapshot_has_events_in_order() -> None:
    events = [EventRow(number, 0, EventKind.TAKEOVER) for number in (EVENTS_KEPT + 2, 3, 7)]
    assert [event.number for event in Snapshot.of({key_of(row): row for row in events}).events] == [3, 7, EVENTS_KEPT + 2]


def test_id_says_whose_it_is() -> None:
    assert client_of(5 << 40 | 1 << 39 | 77) == 5
