"""Requests for new segments: in order of arrival, from what is warm or fresh, when there is room.

One that needs much is not overtaken by ones that need little. Room is made by giving back warm segments, then spares; when
/dev/shm itself is full, the first in line is tried again after a while, since others' releases do not announce themselves.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from shmlease.core import answers
from shmlease.core import messages as m
from shmlease.core.abandonments import Abandonments
from shmlease.core.leases import Leases
from shmlease.core.model import LeaseMode, Mark, SegmentRow, SegmentState
from shmlease.core.outbox import Outbox
from shmlease.core.pool import Pool
from shmlease.core.preconditions import held_by, require_free_name, require_own_id
from shmlease.core.prefetch import Prefetch
from shmlease.core.queues import LeaseQueue, Waiter
from shmlease.core.refusals import (
    capacity_refusal,
    closing_refusal,
    exists_refusal,
    not_held_refusal,
    reused_id_refusal,
)
from shmlease.core.rows import Rows
from shmlease.core.sizes import file_size
from shmlease.core.timers import Timers
from shmlease.core.transitions import LeaseEvent, SegmentEvent

__all__ = ["Grants"]

SHORTAGE_RETRY_NS: Final = 20_000_000


class Grants:
    """Who waits for a new segment, and how they get one.

    Attributes
    ----------
    queue : LeaseQueue
        Who waits.
    """

    def __init__(
        self,
        rows: Rows,
        outbox: Outbox,
        timers: Timers,
        pool: Pool,
        prefetch: Prefetch,
        leases: Leases,
        abandonments: Abandonments,
    ) -> None:
        self._rows = rows
        self._outbox = outbox
        self._timers = timers
        self._pool = pool
        self._prefetch = prefetch
        self._leases = leases
        self._abandonments = abandonments
        self.queue = LeaseQueue()
        # Segments that are being made -> the request. While there is one nobody else is served: /dev/shm may have no room
        # for it, then it is first in line again, and nobody has overtaken it.
        self._creating: dict[int, Waiter[m.Lease]] = {}
        timers.handle("lease", None, self._still_waited_for)  # every command, a tick too, ends with `serve`

    def __len__(self) -> int:
        """How many wait."""
        return len(self.queue)

    # --- what clients ask ------------------------------------------------------------------------------------------

    def lease(self, client: int, message: m.Lease, now_ns: int) -> None:
        """A new segment is asked for."""
        rows = self._rows
        require_own_id(client, message.lease)
        held = rows.leases.get(message.lease)
        if held is not None:  # asked again after a takeover
            self._outbox.send(client, answers.granted(message.seq, held, rows.segments[held.segment]))
            return
        require_free_name(rows, message.name, now_ns)
        # the client asks for whole pages; what it asks for is what is counted, so round here as well
        request = replace(message, size_bytes=file_size(message.size_bytes))
        waiter = Waiter(client, request, now_ns, now_ns + message.timeout_ns)
        if request.size_bytes > rows.registry.capacity_bytes:
            raise capacity_refusal(rows, waiter, self._pool.shm_free_bytes, now_ns)
        self.queue.append(waiter)
        self._outbox.note_peak("waiting", len(self.queue))
        self.serve(now_ns)
        if self.queue.is_last(waiter) and not self._room_is_coming(waiter):
            rows.next_number(Mark.WAIT)
        if self.queue:  # its end perhaps
            self._timers.at(waiter.deadline_ns, "lease")

    def decline(self, client: int, message: m.Decline, now_ns: int) -> None:
        """A fresh segment could not be used: its client, first in line again, waits for another."""
        lease = held_by(self._rows, client, message.lease)
        segment = self._rows.segments[lease.segment]
        if segment.state is not SegmentState.FILLING or len(self._rows.leases_on[segment.number]) > 1:
            raise not_held_refusal(lease.id, "only a fresh grant that nobody else has seen can be declined")
        request = m.Lease(
            message.seq,
            lease.id,
            segment.name,
            segment.size_bytes,
            segment.nbytes,
            segment.layout,
            lease.site,
            lease.due_ns,
            message.timeout_ns,
            segment.mutable,
        )
        self._rows.move_lease(lease, LeaseEvent.ENDED)
        self._pool.retire(segment)
        waiter = Waiter(client, request, now_ns, now_ns + message.timeout_ns, now_ns + SHORTAGE_RETRY_NS)
        self.queue.put_back(waiter)
        self._timers.at(waiter.not_before_ns, "lease")
        self._timers.at(waiter.deadline_ns, "lease")

    def forget(self, client: int) -> None:
        """Nobody waits for what `client` has asked for."""
        self.queue.forget(client)
        for waiter in self._creating.values():
            if waiter.client == client:
                waiter.cancelled = True

    def refuse_all(self, now_ns: int) -> None:
        """The registry is closing: refuse all who wait."""
        refusal = closing_refusal(self._rows.registry)
        for waiter in [*self.queue.drain(), *self._creating.values()]:
            self._outbox.refuse(waiter.client, waiter.request.seq, refusal, now_ns)

    # --- outcomes --------------------------------------------------------------------------------------------------

    def created(self, number: int, now_ns: int) -> None:
        """The file of a segment was made."""
        waiter = self._creating.pop(number)
        self._grant(waiter, self._rows.segments[number], SegmentEvent.CREATED, now_ns)

    def failed(self, number: int, reason: str, now_ns: int, *, passes: bool) -> None:
        """The file could not be made: warm segments go first, then the request waits, if waiting can help."""
        waiter = self._creating.pop(number)
        if waiter.cancelled:
            return
        waiter.shortage = reason
        if not passes:
            refusal = capacity_refusal(self._rows, waiter, self._pool.shm_free_bytes, now_ns)
            self._outbox.refuse(waiter.client, waiter.request.seq, refusal, now_ns)
            return
        self.queue.put_back(waiter)
        self._timers.at(waiter.deadline_ns, "lease")
        if self._rows.warm:
            self._pool.evict(waiter.request.size_bytes)
        else:
            waiter.not_before_ns = now_ns + SHORTAGE_RETRY_NS
            self._timers.at(waiter.not_before_ns, "lease")

    # --- serving ---------------------------------------------------------------------------------------------------

    def serve(self, now_ns: int) -> None:
        """Grant what can be granted, in order of arrival; refuse what has waited long enough."""
        queue = self.queue
        while queue:
            while queue and not self._creating and queue.first().not_before_ns <= now_ns:
                if not self._place(queue.first(), now_ns):
                    break
            overdue = [w for w in queue.overdue(now_ns) if w is not queue.first() or not self._room_is_coming(w)]
            first_leaves = bool(overdue) and overdue[0] is queue.first()
            for waiter in overdue:
                queue.remove(waiter)
                refusal = capacity_refusal(self._rows, waiter, self._pool.shm_free_bytes, now_ns)
                self._outbox.refuse(waiter.client, waiter.request.seq, refusal, now_ns)
            if not first_leaves:
                return

    def _place(self, waiter: Waiter[m.Lease], now_ns: int) -> bool:
        """Serve the first in line: True if it left the queue, False if room must be made, or come, first."""
        rows, request = self._rows, waiter.request
        taken = None
        if request.name is not None and request.name in rows.by_name:
            taken = exists_refusal(rows, request.name, now_ns)
        elif request.lease in rows.leases:
            taken = reused_id_refusal(request.lease)
        if taken is not None:
            self.queue.remove(waiter)
            self._outbox.refuse(waiter.client, request.seq, taken, now_ns)
            return True
        warm = rows.warm.best_fit(request.size_bytes)
        if warm is not None:
            self.queue.remove(waiter)
            self._outbox.counters["recycled"] += 1
            self._grant(waiter, rows.segments[warm], SegmentEvent.REUSED, now_ns)
            return True
        missing_bytes = self._missing_bytes(waiter)
        if missing_bytes <= 0:
            self.queue.remove(waiter)
            self._creating[self._pool.create(request.size_bytes, request.name)] = waiter
            return True
        self._prefetch.revoke_for(self._pool.evict(missing_bytes - self._bytes_coming()))
        return False

    def _missing_bytes(self, waiter: Waiter[m.Lease]) -> int:
        return self._rows.used_bytes + waiter.request.size_bytes - self._rows.registry.capacity_bytes

    def _bytes_coming(self) -> int:
        """Bytes that effects under way will free."""
        return self._pool.bytes_coming() + self._prefetch.bytes_coming()

    def _room_is_coming(self, waiter: Waiter[m.Lease]) -> bool:
        coming_bytes = self._bytes_coming()
        return coming_bytes > 0 and self._missing_bytes(waiter) <= coming_bytes

    def _grant(self, waiter: Waiter[m.Lease], segment: SegmentRow, event: SegmentEvent, now_ns: int) -> None:
        request, site = waiter.request, self._rows.interned.of(waiter.request.site)
        if waiter.cancelled or request.lease in self._rows.leases:
            self._pool.retire(segment)
            return
        segment = self._rows.move_segment(
            segment,
            event,
            generation=segment.generation + 1,
            name=request.name,
            nbytes=request.nbytes,
            layout=self._rows.interned.of(request.layout),
            creator=waiter.client,
            created_ns=now_ns,
            published_ns=0,
            site=site,
            mutable=request.mutable,
        )
        if request.name is not None:
            self._abandonments.forget(request.name)
        lease = self._leases.add(request.lease, segment.number, LeaseMode.WRITE, request.seq, site, request.due_ns, now_ns)
        self._outbox.send(waiter.client, answers.granted(request.seq, lease, segment))
        if request.name is None:
            self._prefetch.note_taken(waiter.client, segment.size_bytes)

    def _still_waited_for(self, entries: set[tuple[int, int]]) -> set[tuple[int, int]]:
        dates = {waiter.deadline_ns for waiter in self.queue} | {waiter.not_before_ns for waiter in self.queue}
        return {entry for entry in entries if entry[0] in dates}
