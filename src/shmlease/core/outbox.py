"""What the table has decided and the registry is yet to carry out, and what the statistics count."""

from __future__ import annotations

from collections import Counter, deque

from shmlease.core import messages as m
from shmlease.core.effects import Effect, Send
from shmlease.core.model import EventKind
from shmlease.core.refusals import Refusal
from shmlease.core.rows import Rows

__all__ = ["Outbox"]


class Outbox:
    """Effects in the order in which they were decided; counters and peaks since this registry process began."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.effects: deque[Effect] = deque()
        self.counters: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()

    def add(self, effect: Effect) -> None:
        """Decide `effect`."""
        self.effects.append(effect)

    def send(self, client: int, message: m.RegistryMessage) -> None:
        """Send `message` to `client`, if it is connected."""
        self.effects.append(Send(client, message))

    def refuse(self, client: int, seq: int, refusal: Refusal, now_ns: int) -> None:
        """Answer request `seq` with a refusal."""
        self.counters[f"refused: {refusal.code}"] += 1
        if refusal.recorded:
            self._rows.record(now_ns, EventKind.REQUEST_REFUSED, client=client, detail=refusal.message[:512])
        self.send(client, m.Refused(seq, refusal.code, refusal.message, refusal.facts))

    def note_peak(self, what: str, value: int) -> None:
        """Remember the highest value of `what`."""
        self.peaks[what] = max(self.peaks[what], value)

    def note_peaks(self) -> None:
        """Remember the highest figures of the rows."""
        rows, peaks = self._rows, self.peaks
        peaks["leases"] = max(peaks["leases"], len(rows.leases))
        peaks["bytes"] = max(peaks["bytes"], rows.used_bytes)
        peaks["segments"] = max(peaks["segments"], len(rows.segments))
