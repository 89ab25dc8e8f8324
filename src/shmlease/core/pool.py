"""The files of segments: made, kept warm for the next lease, given back to the system.

A segment whose last use has ended in order is kept warm, as far as the limit of the pool allows. One whose pages were never
reserved is unlinked and never used again; so is one that something unknown may still map, unless it is a large one, and the
kernel says that nobody has it open: then its file becomes another segment's, under a number of its own, to which nothing
that is known of the first one leads.
"""

from __future__ import annotations

from typing import Final

from shmlease.core import messages as m
from shmlease.core.effects import CreateSegment, RetireSegment
from shmlease.core.model import ClientState, EventKind, Mark, SegmentRow, SegmentState
from shmlease.core.outbox import Outbox
from shmlease.core.rows import Rows
from shmlease.core.timers import Timers
from shmlease.core.transitions import SegmentEvent

__all__ = ["Pool"]

RETIRE_RETRY_NS: Final = 1_000_000_000
# Asking the kernel, and clearing what was used, are cheaper than fresh pages from here on: half the time at 64 MiB.
RECYCLED_BYTES: Final = 1 << 20


class Pool:
    """Warm segments, and segments whose files are being made or unlinked."""

    def __init__(self, rows: Rows, outbox: Outbox, timers: Timers) -> None:
        self._rows = rows
        self._outbox = outbox
        self._timers = timers
        self._retiring: dict[int, int] = {}  # segment -> bytes that its unlinking will free
        self._warm_are_watched = False
        self.shm_free_bytes = 0
        timers.handle("warm", self._warm_due, lambda entries: entries)
        timers.handle("retire", self._retire_due, lambda entries: {e for e in entries if e[1] in rows.segments})

    def create(self, size_bytes: int, name: str | None) -> int:
        """Have the file of a new segment made; its number. `Table.segment_created` or `segment_failed` answers."""
        number = self._rows.next_number(Mark.SEGMENT)
        self._rows.put(SegmentRow(number, 0, size_bytes, SegmentState.CREATING, name))
        self._outbox.add(CreateSegment(number, size_bytes))
        return number

    def keep_or_retire(self, segment: SegmentRow, now_ns: int) -> None:
        """The last use of `segment` has ended."""
        rows, registry = self._rows, self._rows.registry
        reusable = segment.reserved and not segment.tainted
        pooling = registry.warm_idle_ns > 0 and not registry.closing
        if not reusable or not pooling or segment.size_bytes > registry.warm_limit_bytes:
            self.retire(segment)
        elif segment.exposed:
            self.retire(segment, recycle=segment.size_bytes >= RECYCLED_BYTES)
        else:
            rows.move_segment(
                segment,
                SegmentEvent.POOLED,
                name=None,
                nbytes=0,
                layout=b"",
                site="",
                created_ns=now_ns,
                published_ns=0,
                mutable=False,
            )
            self._keep_warm(now_ns)

    def _keep_warm(self, now_ns: int) -> None:
        """There is one warm segment more."""
        warm, registry = self._rows.warm, self._rows.registry
        if warm.total_bytes > registry.warm_limit_bytes:
            self.evict(warm.total_bytes - registry.warm_limit_bytes)
        self._watch_warm(now_ns + registry.warm_idle_ns)
        self._outbox.note_peak("warm bytes", warm.total_bytes)

    def retire(self, segment: SegmentRow, *, recycle: bool = False) -> None:
        """Have the file of `segment` unlinked, or another segment made of it; `Table.segment_retired` answers."""
        segment = self._rows.move_segment(segment, SegmentEvent.RETIRED, name=None)
        self._unlink(segment, self._rows.next_number(Mark.SEGMENT) if recycle else 0)
        if segment.exposed:
            for client in self._rows.clients.values():
                if client.state is ClientState.CONNECTED:
                    self._outbox.send(client.id, m.Forget(segment.number))

    def evict(self, missing_bytes: int) -> int:
        """Give back warm segments, least recently used first, until `missing_bytes` are free; what is still missing."""
        for number in self._rows.warm.evictions(missing_bytes):
            missing_bytes -= self._rows.segments[number].size_bytes
            self.retire(self._rows.segments[number])
        return missing_bytes

    def trim(self) -> int:
        """Give back every warm segment; how many bytes that frees."""
        freed_bytes = self._rows.warm.total_bytes
        self.evict(freed_bytes)
        return freed_bytes

    def bytes_coming(self) -> int:
        """Bytes that unlinking under way will free."""
        return sum(self._retiring.values())

    def idle_until_ns(self, number: int) -> int | None:
        """When a segment that was set aside, for the pool or for one client, has been idle for too long."""
        segment = self._rows.segments.get(number)
        return None if segment is None else segment.created_ns + self._rows.registry.warm_idle_ns

    def still_idle(self, entries: set[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the deadlines (and numbers of segments) in `entries` that `idle_until_ns` still names."""
        return {(due_ns, number) for due_ns, number in entries if self.idle_until_ns(number) == due_ns}

    def restore(self, segment: SegmentRow, now_ns: int) -> None:
        """After a takeover: go on with what a predecessor was about to do with the file of `segment`."""
        if segment.state is SegmentState.RETIRING:
            self._timers.at(now_ns, "retire", segment.number)
        elif segment.state is SegmentState.CREATING:
            self.retire(segment)
        elif segment.state is SegmentState.WARM:
            self._timers.at(segment.created_ns + self._rows.registry.warm_idle_ns, "warm")

    def failed(self, number: int) -> None:
        """The file of a segment could not be made."""
        self._rows.move_segment(self._rows.segments[number], SegmentEvent.FAILED)

    def retired(self, number: int, failure: str, now_ns: int, recycled_as: int) -> None:
        """The file of a segment is gone, or that of segment `recycled_as`, or could not be unlinked and is tried again."""
        self._retiring.pop(number, None)
        segment = self._rows.segments.get(number)
        if segment is None:
            return
        if failure:
            self._rows.record(now_ns, EventKind.RETIRE_FAILED, number, detail=failure)
            self._timers.at(now_ns + RETIRE_RETRY_NS, "retire", number)
            return
        self._rows.move_segment(segment, SegmentEvent.UNLINKED)
        if recycled_as:
            self._recycle(recycled_as, segment.size_bytes, now_ns)
        else:
            self._outbox.counters["retired"] += 1

    def _recycle(self, number: int, size_bytes: int, now_ns: int) -> None:
        """There is a segment `number`, with all its pages, that nobody knows yet."""
        row = SegmentRow(number, 0, size_bytes, SegmentState.CREATING, created_ns=now_ns, reserved=True)
        self._rows.put(row)
        if self._rows.registry.closing:
            self.retire(row)
        else:
            self._rows.move_segment(row, SegmentEvent.RECYCLED)
            self._keep_warm(now_ns)

    def _unlink(self, segment: SegmentRow, recycled_as: int = 0) -> None:
        self._retiring[segment.number] = segment.size_bytes
        self._outbox.add(RetireSegment(segment.number, segment.alias, not segment.exposed, recycled_as, segment.size_bytes))

    def _watch_warm(self, due_ns: int) -> None:
        """Look at the warm segments at `due_ns`, unless that is to be done before: one deadline is enough for all."""
        if not self._warm_are_watched:
            self._warm_are_watched = True
            self._timers.at(due_ns, "warm")

    def _warm_due(self, key: int, now_ns: int) -> None:
        del key
        self._warm_are_watched = False
        rows = self._rows
        idle_since_ns = {number: rows.segments[number].created_ns for number in rows.warm}
        for number, since_ns in idle_since_ns.items():
            if since_ns + rows.registry.warm_idle_ns <= now_ns:
                self.retire(rows.segments[number])
        if rows.warm:
            self._watch_warm(min(map(idle_since_ns.__getitem__, rows.warm)) + rows.registry.warm_idle_ns)

    def _retire_due(self, number: int, now_ns: int) -> None:
        del now_ns
        segment = self._rows.segments.get(number)
        if segment is not None and segment.state is SegmentState.RETIRING:
            self._unlink(segment)
