"""What a stress run has seen so far, kept small however long it takes: findings, counts, durations, samples."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np

from shmlease.verification.faults import Fault
from shmlease.verification.history import Event
from shmlease.verification.operations import Call
from shmlease.verification.oracle import Sample
from shmlease.verification.promises import Finding, Violation, check
from shmlease.verification.stress.generator import Schedule
from shmlease.verification.stress.verdict import Broken, Latency, Moment, Verdict, latency_of

__all__ = ["Record"]

# What is written down but is no call of shmlease's.
_NO_CALLS: Final = (Call.READ, Call.CHILD)


class Record:
    """Everything that the verdict is made of."""

    def __init__(self) -> None:
        self.begin()
        self.findings: list[Finding] = []
        self.struck: list[Fault] = []
        self.reclaims_s: list[tuple[float, float]] = []
        self.takeovers_s: list[tuple[float, float]] = []
        self.rests = 0
        self.registry_bytes = [0, 0]
        self._peak_bytes = 0
        self._moments: list[Moment] = []
        self._outcomes: Counter[str] = Counter()
        self._durations: defaultdict[str, list[np.ndarray[Any, Any]]] = defaultdict(list)

    def begin(self) -> None:
        """Times count from here."""
        self._begin_ns = time.monotonic_ns()

    def now_s(self) -> float:
        """Seconds into the run."""
        return (time.monotonic_ns() - self._begin_ns) / 1e9

    def find(self, kind: Violation, process: str, detail: str) -> None:
        """Something is wrong."""
        self.findings.append(Finding(kind, process, detail, time.monotonic_ns()))

    def strike(self, fault: Fault, operations: int) -> None:
        """A fault, and when it took place."""
        self.struck.append(msgspec.structs.replace(fault, at_s=round(self.now_s(), 6), after_operations=operations))

    def sample(self, seen: Sample, operations: int) -> None:
        """What the oracle saw."""
        self._peak_bytes = max(self._peak_bytes, seen.segment_bytes)
        self._moments.append(Moment(round(self.now_s(), 3), operations, seen.segment_bytes, seen.segments))

    def history(self, events: Iterable[Event]) -> None:
        """Count and judge the events between two rests."""
        durations: defaultdict[Call, list[int]] = defaultdict(list)
        history = list(events)
        for event in history:
            act = event.act
            if not event.is_finished:
                self._outcomes[f"{act.call}: cut short"] += 1
                continue
            self._outcomes[f"{act.call}: {act.outcome}" if act.outcome else act.call] += 1
            if not act.outcome and act.call not in _NO_CALLS:
                durations[act.call].append(act.end_ns - act.begin_ns)
        for what, nanoseconds in durations.items():
            self._durations[what].append(np.array(nanoseconds) / 1e9)
        self.findings += check(history)

    def verdict(self, schedule: Schedule, duration_s: float, coverage: list[str]) -> Verdict:
        """What it all amounts to."""
        latencies: dict[str, Latency] = {}
        for what, pieces in self._durations.items():
            latency = latency_of(np.concatenate(pieces))
            if latency is not None:
                latencies[what] = latency
        first_bytes, last_bytes = self.registry_bytes
        return Verdict(
            seed=schedule.seed,
            clients=len(schedule.ranges),
            capacity_bytes=schedule.capacity_bytes,
            duration_s=duration_s,
            operations=schedule.operations,
            outcomes=dict(self._outcomes),
            latencies=latencies,
            faults=dict(Counter(str(fault.kind) for fault in self.struck)),
            reclaim=latency_of([taken_s for _, taken_s in self.reclaims_s]),
            takeover=latency_of([taken_s for _, taken_s in self.takeovers_s]),
            peak_bytes=self._peak_bytes,
            registry_bytes=(first_bytes, last_bytes),
            rests=self.rests,
            findings=[
                Broken(f.kind, f.process, f.detail, round((f.at_ns - self._begin_ns) / 1e9, 6)) for f in self.findings
            ],
            coverage=coverage,
            moments=self._moments,
            reclaims_s=self.reclaims_s,
            takeovers_s=self.takeovers_s,
            schedule=schedule,
        )
