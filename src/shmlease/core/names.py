"""What keeps the name of a segment, and how it loses it: by request, or with the last process that keeps it."""

from __future__ import annotations

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import UnlinkAlias, UnwatchReceiver, WatchReceiver
from shmlease.core.leases import Leases
from shmlease.core.model import EventKind, Identity, SegmentRow, TicketRow
from shmlease.core.outbox import Outbox
from shmlease.core.refusals import Refusal
from shmlease.core.rows import Rows

__all__ = ["Names"]


class Names:
    """Takes names from segments; a name that is linked in /dev/shm keeps its segment, and is kept by processes.

    A keeper is a row among the tickets that nobody can redeem: it is watched, and handed on to a successor, as they are.
    """

    def __init__(self, rows: Rows, outbox: Outbox, leases: Leases) -> None:
        self._rows = rows
        self._outbox = outbox
        self._leases = leases

    def withdraw(self, client: int, message: m.Withdraw, now_ns: int) -> None:
        """A name is to be free again; who holds the segment keeps it."""
        segment = self.named_by(message)
        told = f"{message.name or message.segment!r}, by request {message.seq}"
        if segment is not None:
            self._stop_keeping(segment.number)
            self._free(segment, client, told, now_ns)
        else:
            events = self._rows.events.values()
            if not any((e.kind, e.client, e.detail) == (EventKind.NAME_WITHDRAWN, client, told) for e in events):
                what = f"segment {message.segment} has no name any more"
                if message.name is not None:
                    what = f"no segment has the name {message.name!r}"
                raise Refusal(m.RefusalCode.NOT_FOUND, what, {"name": message.name})
        self._outbox.send(client, m.Done(message.seq))

    def unlink(self, client: int, message: m.Unlink, now_ns: int) -> None:
        """A client takes the name of a segment from /dev/shm; nothing, if the segment has lost it before."""
        del client
        segment = self._named_at(message.segment, message.generation)
        if segment is not None:  # that is the usual end, and no event; what the client leaves goes with the segment
            self._stop_keeping(segment.number)
            self._rows.put(replace(segment, name=None, readers_expected=0))
            self._leases.free_if_unused(segment.number, now_ns)

    def named_by(self, message: m.Withdraw) -> SegmentRow | None:
        """The segment that would lose its name."""
        if message.name is None:
            return self._named_at(message.segment, message.generation)
        rows = self._rows
        number = rows.by_name.get(message.name)
        segment = None if number is None else rows.segments[number]
        return segment if segment is not None and segment.created_ns <= message.asked_ns else None

    def keep(self, segment: SegmentRow, keepers: tuple[tuple[int, Identity | None], ...], site: str) -> None:
        """The name of `segment` stays until the last of `keepers` has ended."""
        for number, process in keepers:
            if number not in self._rows.tickets:  # asked again after a takeover
                keeper = TicketRow(number, segment.number, segment.generation, 0, site, process, keeps=True)
                self._rows.put(keeper)
                if process is not None:
                    self._outbox.add(WatchReceiver(number, process))

    def stop_keeping(self, segment: int, now_ns: int) -> None:
        """The name of `segment` could not be linked: nothing keeps it."""
        self._stop_keeping(segment)
        self._leases.free_if_unused(segment, now_ns)

    def keeper_ended(self, keeper: TicketRow, now_ns: int) -> None:
        """The process of `keeper` is proved dead."""
        self._drop(keeper)
        if not self._keepers_of(keeper.segment):
            pid = keeper.receiver.pid if keeper.receiver is not None else 0
            self._free(self._rows.segments[keeper.segment], 0, f"pid {pid}, its last keeper, has ended", now_ns)

    def _named_at(self, number: int, generation: int) -> SegmentRow | None:
        """That segment, if it is there and has a name."""
        segment = self._rows.segments.get(number)
        is_that = segment is not None and segment.generation == generation and segment.name is not None
        return segment if is_that else None

    def _stop_keeping(self, segment: int) -> None:
        for keeper in self._keepers_of(segment):
            self._drop(keeper)

    def _keepers_of(self, segment: int) -> list[TicketRow]:
        tickets = (self._rows.tickets[number] for number in self._rows.tickets_on[segment])
        return [ticket for ticket in tickets if ticket.keeps]

    def _drop(self, keeper: TicketRow) -> None:
        self._rows.drop_ticket(keeper)
        if keeper.receiver is not None:
            self._outbox.add(UnwatchReceiver(keeper.id))

    def _free(self, segment: SegmentRow, client: int, told: str, now_ns: int) -> None:
        if segment.alias:
            self._outbox.add(UnlinkAlias(segment.number, segment.alias))
        self._rows.put(replace(segment, name=None, readers_expected=0))
        self._rows.record(now_ns, EventKind.NAME_WITHDRAWN, segment.number, client=client, detail=told)
        self._leases.free_if_unused(segment.number, now_ns)
