"""Published segments and their readers: those who attach, those who wait for a name, those who were announced."""

from __future__ import annotations

from msgspec.structs import replace

from shmlease.core import answers
from shmlease.core import messages as m
from shmlease.core.abandonments import Abandonments
from shmlease.core.leases import Leases
from shmlease.core.model import EventKind, LeaseState, SegmentRow, SegmentState
from shmlease.core.outbox import Outbox
from shmlease.core.preconditions import held_by, mode_of, require_own_id
from shmlease.core.queues import AttachQueue, Waiter
from shmlease.core.refusals import (
    Refusal,
    abandoned_refusal,
    closing_refusal,
    gone_refusal,
    not_found_refusal,
    not_held_refusal,
    reused_id_refusal,
)
from shmlease.core.rows import Rows
from shmlease.core.timers import Timers
from shmlease.core.transitions import SegmentEvent

__all__ = ["Readers"]


class Readers:
    """Grants leases on segments that are there."""

    def __init__(self, rows: Rows, outbox: Outbox, timers: Timers, leases: Leases, abandonments: Abandonments) -> None:
        self._rows = rows
        self._outbox = outbox
        self._timers = timers
        self._leases = leases
        self._abandonments = abandonments
        self._queue = AttachQueue()
        timers.handle("attach", self._attach_due, self._still_waited_for)
        timers.handle("readers", self._readers_due, self._still_expected)

    def __len__(self) -> int:
        """How many wait for a name."""
        return len(self._queue)

    def attach(self, client: int, message: m.Attach, now_ns: int) -> None:
        """A segment is asked for by name."""
        rows = self._rows
        require_own_id(client, message.lease)
        held = rows.leases.get(message.lease)
        if held is not None:  # asked again after a takeover
            self._outbox.send(client, answers.attached(message.seq, held, rows.segments[held.segment]))
            return
        number = rows.by_name.get(message.name)
        if number is not None and rows.segments[number].state is SegmentState.PUBLISHED:
            self._grant(client, message, rows.segments[number], now_ns)
            return
        waiter = Waiter(client, message, now_ns, now_ns + message.timeout_ns)
        lost = self._abandonments.of(message.name)
        if lost is not None and not message.is_patient:
            raise abandoned_refusal(lost, now_ns)
        if message.timeout_ns == 0:
            raise not_found_refusal(rows, waiter, now_ns)
        self._queue.append(waiter)
        self._timers.at(waiter.deadline_ns, "attach")

    def attach_segment(self, client: int, message: m.AttachSegment, now_ns: int) -> None:
        """A segment is asked for by its address."""
        rows = self._rows
        require_own_id(client, message.lease)
        segment, lease = rows.segments.get(message.segment), rows.leases.get(message.lease)
        if lease is None:
            wanted = segment is not None and segment.generation == message.generation
            if segment is None or not wanted or segment.state is not SegmentState.PUBLISHED:
                raise gone_refusal(message.segment, message.generation, segment)
            mode = mode_of(segment, message.mode)
            lease = self._leases.add(message.lease, segment.number, mode, message.seq, message.site, message.due_ns, now_ns)
        self._outbox.send(client, answers.attached(message.seq, lease, rows.segments[lease.segment]))

    def inherit(self, client: int, message: m.Inherit, now_ns: int) -> None:
        """A forked child takes its own lease on what its parent holds."""
        rows = self._rows
        require_own_id(client, message.lease)
        lease = rows.leases.get(message.lease)
        if lease is None:
            parent = rows.leases.get(message.parent_lease)
            if parent is None or parent.state is LeaseState.RESERVED:
                raise not_held_refusal(message.parent_lease, "the process that it was inherited from has released it")
            lease = self._leases.add(message.lease, parent.segment, parent.mode, message.seq, message.site, 0, now_ns)
        self._outbox.send(client, answers.attached(message.seq, lease, rows.segments[lease.segment]))

    def publish(self, client: int, message: m.Publish, now_ns: int) -> None:
        """A writer has finished its segment, and may announce readers."""
        segment = self._rows.segments[held_by(self._rows, client, message.lease).segment]
        self.publish_segment(segment, now_ns, message.readers, message.deadline_ns)

    def publish_segment(self, segment: SegmentRow, now_ns: int, expected: int = 0, deadline_ns: int = 0) -> None:
        """Let others attach `segment`; `expected` readers are waited for until `deadline_ns`."""
        rows = self._rows
        if segment.state is SegmentState.FILLING:
            segment = rows.move_segment(segment, SegmentEvent.PUBLISHED, published_ns=now_ns, reserved=True)
            self._outbox.counters["published"] += 1
            if segment.name is not None:
                self._abandonments.forget(segment.name)
        if expected:
            rows.put(replace(segment, readers_expected=expected, readers_deadline_ns=deadline_ns))
            self._timers.at(deadline_ns, "readers", segment.number)  # after the row, without which it is dropped
        if segment.name is not None:
            for waiter in self._queue.take(segment.name):
                try:
                    self._grant(waiter.client, waiter.request, rows.segments[segment.number], now_ns)
                except Refusal as refusal:
                    self._outbox.refuse(waiter.client, waiter.request.seq, refusal, now_ns)

    def serve(self, now_ns: int) -> None:
        """Tell those who wait for a name that was just abandoned."""
        for name in self._abandonments.take_news():
            lost = self._abandonments.of(name)
            for waiter in self._queue.take(name) if lost is not None else ():
                if lost is None or waiter.request.is_patient:
                    self._queue.append(waiter)
                else:
                    self._outbox.refuse(waiter.client, waiter.request.seq, abandoned_refusal(lost, now_ns), now_ns)

    def are_expected(self) -> bool:
        """Whether a segment waits for readers that were announced."""
        return any(segment.readers_expected for segment in self._rows.segments.values())

    def forget(self, client: int) -> None:
        """Nobody waits for what `client` has asked for."""
        self._queue.forget(client)

    def refuse_all(self, now_ns: int) -> None:
        """The registry is closing: refuse all who wait."""
        refusal = closing_refusal(self._rows.registry)
        for waiter in self._queue.drain():
            self._outbox.refuse(waiter.client, waiter.request.seq, refusal, now_ns)

    def restore(self, segment: SegmentRow) -> None:
        """After a takeover: go on waiting for the readers of `segment`."""
        if segment.readers_expected:
            self._timers.at(segment.readers_deadline_ns, "readers", segment.number)

    def _grant(self, client: int, message: m.Attach, segment: SegmentRow, now_ns: int) -> None:
        if message.lease in self._rows.leases:
            raise reused_id_refusal(message.lease)
        mode = mode_of(segment, message.mode)
        if segment.readers_expected:
            segment = replace(segment, readers_expected=segment.readers_expected - 1)
            self._rows.put(segment)
        lease = self._leases.add(message.lease, segment.number, mode, message.seq, message.site, message.due_ns, now_ns)
        self._outbox.send(client, answers.attached(message.seq, lease, segment))

    def _attach_due(self, key: int, now_ns: int) -> None:
        del key
        for waiter in self._queue.take_overdue(now_ns):
            refusal = not_found_refusal(self._rows, waiter, now_ns)
            self._outbox.refuse(waiter.client, waiter.request.seq, refusal, now_ns)

    def _still_waited_for(self, entries: set[tuple[int, int]]) -> set[tuple[int, int]]:
        dates = {waiter.deadline_ns for waiter in self._queue}
        return {entry for entry in entries if entry[0] in dates}

    def _readers_due(self, number: int, now_ns: int) -> None:
        segment = self._rows.segments.get(number)
        if segment is None or not segment.readers_expected or segment.readers_deadline_ns > now_ns:
            return
        missing = segment.readers_expected
        self._outbox.counters["readers expired"] += missing
        self._rows.record(now_ns, EventKind.READERS_EXPIRED, number, client=segment.creator, detail=f"{missing} never came")
        self._rows.put(replace(segment, readers_expected=0, tainted=True))
        self._leases.free_if_unused(number, now_ns)

    def _still_expected(self, entries: set[tuple[int, int]]) -> set[tuple[int, int]]:
        segments = self._rows.segments
        return {(at, number) for at, number in entries if number in segments and segments[number].readers_deadline_ns == at}
