"""The rows of the table with their indexes, and the changes since the last commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from shmlease.core.index import Index
from shmlease.core.interning import Interning
from shmlease.core.model import (
    AbandonedRow,
    AppliedRow,
    Change,
    ClientRow,
    ClientState,
    EventKind,
    EventRow,
    Gone,
    LeaseRow,
    Mark,
    MarkRow,
    RegistryRow,
    Row,
    SegmentRow,
    SegmentState,
    TicketRow,
    client_of,
)
from shmlease.core.snapshot import KEYS, Snapshot, key_of
from shmlease.core.transitions import LeaseEvent, SegmentEvent, after_lease, after_segment
from shmlease.core.warm_index import WarmIndex

__all__ = ["Rows"]


class Rows:
    """Rows by key, with the indexes that the table looks things up by.

    Every change goes through the methods here, so that the indexes and the list of changes cannot miss one.
    """

    def __init__(self, registry: RegistryRow) -> None:
        self.registry = registry
        self.marks: dict[int, int] = {}
        self.clients: dict[int, ClientRow] = {}
        self.applied: dict[int, int] = {}
        self.segments: dict[int, SegmentRow] = {}
        self.leases: dict[int, LeaseRow] = {}
        self.tickets: dict[int, TicketRow] = {}
        self.abandoned: dict[int, AbandonedRow] = {}
        self.events: dict[int, EventRow] = {}
        self.next_event = 1
        self.by_name: dict[str, int] = {}
        self.leases_on = Index()
        self.tickets_on = Index()
        self.leases_of = Index()
        self.created_by = Index()
        self.interned = Interning()
        self.used_bytes = 0
        self.warm = WarmIndex()
        self._changes: dict[tuple[str, int], Change] = {}
        self._applied_anew: dict[int, None] = {}  # clients; apart from the changes, for each notice is one
        place: dict[type, Callable[[Any], None]] = {
            LeaseRow: self._place_lease,
            SegmentRow: self._place_segment,
            TicketRow: self._place_ticket,
            AbandonedRow: self._place_abandoned,
            ClientRow: self._place_client,
            EventRow: self._place_event,
            RegistryRow: self._place_registry,
            MarkRow: self._place_mark,
        }
        self._kinds = {kind: (place[kind], *KEYS[kind]) for kind in place}  # how a row is placed, its tag, what its key is
        self.put(registry)

    @classmethod
    def of(cls, registry: RegistryRow, snapshot: Snapshot) -> Rows:
        """The rows of `snapshot`, under `registry` as the new first row; nothing counts as changed but that."""
        rows = cls(registry)
        loaded: tuple[Row, ...] = (
            *(MarkRow(Mark(mark), number) for mark, number in snapshot.marks.items()),
            *snapshot.clients.values(),
            *snapshot.segments.values(),
            *snapshot.leases.values(),
            *snapshot.tickets.values(),
            *snapshot.abandoned.values(),
            *snapshot.events,
        )
        for row in loaded:
            rows.put(row)
        rows.applied.update(snapshot.applied)
        rows.take_changes()
        rows.put(registry)
        return rows

    def take_changes(self) -> list[Change]:
        """What changed since this was last asked."""
        changes = list(self._changes.values())
        self._changes.clear()
        if self._applied_anew:
            changes += [AppliedRow(client, self.applied[client]) for client in self._applied_anew]
            self._applied_anew.clear()
        return changes

    def all_rows(self) -> list[Row]:
        """Every row, as a checkpoint needs them."""
        return [
            self.registry,
            *(MarkRow(Mark(mark), number) for mark, number in self.marks.items()),
            *self.clients.values(),
            *(AppliedRow(client, seq) for client, seq in self.applied.items()),
            *self.segments.values(),
            *self.leases.values(),
            *self.tickets.values(),
            *self.abandoned.values(),
            *self.events.values(),
        ]

    def put(self, row: Row) -> None:
        """Add `row`, or put it in place of the one with its key."""
        place, tag, key = self._kinds[type(row)]
        place(row)
        self._changes[tag, key(row)] = row

    def _place_lease(self, row: LeaseRow) -> None:
        if row.id not in self.leases:
            self.leases_on.add(row.segment, row.id)
            self.leases_of.add(client_of(row.id), row.id)
        self.leases[row.id] = row

    def _place_segment(self, row: SegmentRow) -> None:
        number, before = row.number, self.segments.get(row.number)
        self.segments[number] = row
        if before is None:
            self.used_bytes += row.size_bytes
            self.created_by.add(row.creator, number)
            self._index_segment(row)
            return
        self.used_bytes += (
            row.size_bytes - before.size_bytes
        )  # a file that is named by its user becomes as small as its array
        if before.name != row.name or SegmentState.WARM in (before.state, row.state):
            self._unindex_segment(before)
            self._index_segment(row)
        if before.creator != row.creator:
            self.created_by.discard(before.creator, number)
            self.created_by.add(row.creator, number)
            self.drop_client_if_unneeded(before.creator)

    def _place_ticket(self, row: TicketRow) -> None:
        self.tickets[row.id] = row
        self.tickets_on.add(row.segment, row.id)

    def _place_abandoned(self, row: AbandonedRow) -> None:
        self.abandoned[row.lease] = row

    def _place_client(self, row: ClientRow) -> None:
        self.clients[row.id] = row

    def _place_event(self, row: EventRow) -> None:
        self.events[key_of(row)[1]] = row
        self.next_event = max(self.next_event, row.number + 1)

    def _place_mark(self, row: MarkRow) -> None:
        self.marks[row.mark] = row.number

    def _place_registry(self, row: RegistryRow) -> None:
        self.registry = row

    def note_applied(self, client: int, seq: int) -> None:
        """The notices of `client` up to number `seq` have been applied."""
        self.applied[client] = seq
        self._applied_anew[client] = None

    def next_number(self, mark: Mark) -> int:
        """A number that was never given before, nor by a predecessor."""
        number = self.marks.get(mark, 0) + 1
        self.put(MarkRow(mark, number))
        return number

    def move_segment(self, segment: SegmentRow, event: SegmentEvent, **changes: Any) -> SegmentRow:
        """Let `event` happen to `segment`, with `changes` to its other fields; the row as it is now, or was last."""
        state = after_segment(segment.number, segment.state, event)
        if state is None:
            del self.segments[segment.number]
            self.used_bytes -= segment.size_bytes
            self.created_by.discard(segment.creator, segment.number)
            self._unindex_segment(segment)
            self._changes["S", segment.number] = Gone("S", segment.number)
            self.drop_client_if_unneeded(segment.creator)
            return segment
        moved = replace(segment, state=state, **changes)
        self.put(moved)
        return moved

    def move_lease(self, lease: LeaseRow, event: LeaseEvent, **changes: Any) -> LeaseRow:
        """Let `event` happen to `lease`, with `changes` to its other fields; the row as it is now, or was last."""
        state = after_lease(lease.id, lease.state, event)
        if state is None:
            del self.leases[lease.id]
            self.leases_on.discard(lease.segment, lease.id)
            self.leases_of.discard(client_of(lease.id), lease.id)
            self._changes["L", lease.id] = Gone("L", lease.id)
            return lease
        moved = replace(lease, state=state, **changes)
        self.put(moved)
        return moved

    def drop_ticket(self, ticket: TicketRow) -> None:
        """Remove a ticket."""
        del self.tickets[ticket.id]
        self.tickets_on.discard(ticket.segment, ticket.id)
        self._changes["T", ticket.id] = Gone("T", ticket.id)

    def drop_abandoned(self, row: AbandonedRow) -> None:
        """Forget that a name was abandoned."""
        del self.abandoned[row.lease]
        self._changes["B", row.lease] = Gone("B", row.lease)

    def drop_client_if_unneeded(self, client: int) -> None:
        """Remove the row of an ended client that created no segment still there."""
        row = self.clients.get(client)
        if row is not None and row.state is ClientState.ENDED and client not in self.created_by:
            del self.clients[client]
            self._changes["C", client] = Gone("C", client)
            if self.applied.pop(client, None) is not None:
                self._applied_anew.pop(client, None)
                self._changes["A", client] = Gone("A", client)

    def record(
        self, at_ns: int, kind: EventKind, segment: int = 0, lease: int = 0, client: int = 0, detail: str = ""
    ) -> None:
        """Append to the event log, in place of its oldest entry when it is full."""
        self.put(EventRow(self.next_event, at_ns, kind, segment, lease, client, detail))

    def _index_segment(self, row: SegmentRow) -> None:
        if row.name is not None:
            self.by_name[row.name] = row.number
        if row.state is SegmentState.WARM:
            self.warm.add(row.number, row.size_bytes)

    def _unindex_segment(self, row: SegmentRow) -> None:
        if row.name is not None:
            del self.by_name[row.name]
        if row.state is SegmentState.WARM:
            self.warm.remove(row.number)
