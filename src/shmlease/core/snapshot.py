"""The whole lease table as rows under keys: what a reader of the ledger finds, and how changes bring it up to date."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shmlease.core.model import (
    AbandonedRow,
    AppliedRow,
    Change,
    ClientRow,
    EventRow,
    Gone,
    LeaseRow,
    MarkRow,
    RegistryRow,
    Row,
    SegmentRow,
    TicketRow,
)

__all__ = ["EVENTS_KEPT", "KEYS", "Snapshot", "apply_changes", "key_of"]

# The event log is bounded: a registry that runs for months must not grow, and an auditor wants the recent past.
EVENTS_KEPT: Final = 1024


class Snapshot(msgspec.Struct, frozen=True):
    """The whole table at one moment, as a reader of the ledger finds it."""

    registry: RegistryRow | None = None
    marks: dict[int, int] = {}
    clients: dict[int, ClientRow] = {}
    applied: dict[int, int] = {}
    segments: dict[int, SegmentRow] = {}
    leases: dict[int, LeaseRow] = {}
    tickets: dict[int, TicketRow] = {}
    events: tuple[EventRow, ...] = ()
    abandoned: dict[int, AbandonedRow] = {}

    @classmethod
    def of(cls, rows: dict[tuple[str, int], Row]) -> Snapshot:
        """The snapshot that `rows` (by tag and key) make up."""
        found = cls()
        registry, events = None, []
        for row in rows.values():
            match row:
                case SegmentRow():
                    found.segments[row.number] = row
                case LeaseRow():
                    found.leases[row.id] = row
                case TicketRow():
                    found.tickets[row.id] = row
                case ClientRow():
                    found.clients[row.id] = row
                case AppliedRow():
                    found.applied[row.client] = row.seq
                case EventRow():
                    events.append(row)
                case AbandonedRow():
                    found.abandoned[row.lease] = row
                case MarkRow():
                    found.marks[row.mark] = row.number
                case RegistryRow():
                    registry = row
        events.sort(key=lambda event: event.number)
        return replace(found, registry=registry, events=tuple(events))


# How each kind of row is found: its tag, and the key that is unique within it.
KEYS: Final[dict[type, tuple[str, Callable[[Any], int]]]] = {
    SegmentRow: ("S", operator.attrgetter("number")),
    LeaseRow: ("L", operator.attrgetter("id")),
    TicketRow: ("T", operator.attrgetter("id")),
    AbandonedRow: ("B", operator.attrgetter("lease")),
    AppliedRow: ("A", operator.attrgetter("client")),
    ClientRow: ("C", operator.attrgetter("id")),
    EventRow: ("E", lambda row: row.number % EVENTS_KEPT),
    RegistryRow: ("R", lambda _: 0),
    MarkRow: ("M", operator.attrgetter("mark")),
}


def key_of(row: Row) -> tuple[str, int]:
    """Tag and key under which `row` stands; two rows with the same key replace each other."""
    tag, key = KEYS[type(row)]
    return tag, key(row)


def apply_changes(rows: dict[tuple[str, int], Row], changes: Iterable[Change]) -> None:
    """Bring `rows`, by tag and key, up to date."""
    for change in changes:
        if isinstance(change, Gone):
            rows.pop((change.tag, change.key), None)
        else:
            rows[key_of(change)] = change
