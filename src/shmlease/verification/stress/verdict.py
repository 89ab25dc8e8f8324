"""What a stress run amounts to: figures, and every promise that was broken."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec
import numpy as np

from shmlease.units import format_bytes, format_duration
from shmlease.verification.stress.generator import Schedule

__all__ = ["Latency", "Moment", "Verdict", "as_text", "latency_of"]

_MOST_SHOWN: Final = 20


class Latency(msgspec.Struct, frozen=True):
    """Seconds that a call took, over all that succeeded."""

    count: int
    p50_s: float
    p99_s: float
    p999_s: float
    max_s: float


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """A sample of the run, for plots."""

    at_s: float
    operations: int
    segment_bytes: int
    segments: int


class Broken(msgspec.Struct, frozen=True):
    """One broken promise: `kind`, who met it, and what was seen."""

    kind: str
    process: str
    detail: str
    at_s: float


class Verdict(msgspec.Struct, frozen=True):
    """The outcome of one run.

    `coverage` says what could not be done or checked here. `schedule` runs it again.
    """

    seed: int
    clients: int
    capacity_bytes: int
    duration_s: float
    operations: int
    outcomes: dict[str, int]  # "lease", "lease: CapacityError", ...
    latencies: dict[str, Latency]
    faults: dict[str, int]
    reclaim: Latency | None
    takeover: Latency | None
    peak_bytes: int
    registry_bytes: tuple[int, int]  # memory of the registry process, first and last seen
    rests: int
    findings: list[Broken]
    coverage: list[str]
    moments: list[Moment]
    reclaims_s: list[tuple[float, float]]  # when, and how long
    takeovers_s: list[tuple[float, float]]
    schedule: Schedule

    @property
    def is_passed(self) -> bool:
        """Whether nothing was lost."""
        return not self.findings

    def count(self, kind: str) -> int:
        """Findings of that kind."""
        return sum(finding.kind == kind for finding in self.findings)


def latency_of(seconds: np.ndarray[Any, Any] | list[float]) -> Latency | None:
    """Percentiles of `seconds`; None if there are none."""
    if not len(seconds):
        return None
    p50, p99, p999, most = np.percentile(seconds, (50, 99, 99.9, 100))
    return Latency(len(seconds), float(p50), float(p99), float(p999), float(most))


def as_text(verdict: Verdict) -> str:
    """For people."""
    kinds = Counter(finding.kind for finding in verdict.findings)
    rate = verdict.operations / verdict.duration_s if verdict.duration_s else 0.0
    lines = [
        f"{verdict.operations:,} operations of {verdict.clients} clients in {format_duration(verdict.duration_s)} "
        f"({rate:,.0f} a second), seed {verdict.seed}, capacity {format_bytes(verdict.capacity_bytes)}",
        f"faults: {', '.join(f'{count} {kind}' for kind, count in sorted(verdict.faults.items())) or 'none'}",
        "",
        f"{'call':<12}{'count':>10}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}",
    ]
    rows = dict(sorted(verdict.latencies.items()))
    rows |= {name: latency for name, latency in (("reclaim", verdict.reclaim), ("takeover", verdict.takeover)) if latency}
    for name, latency in rows.items():
        times = (latency.p50_s, latency.p99_s, latency.p999_s, latency.max_s)
        lines.append(f"{name:<12}{latency.count:>10,}" + "".join(f"{format_duration(seconds):>10}" for seconds in times))
    refused = {name: count for name, count in sorted(verdict.outcomes.items()) if ":" in name}
    if refused:
        lines.append("allowed refusals: " + ", ".join(f"{name} {count:,}" for name, count in refused.items()))
    first, last = verdict.registry_bytes
    lines += [
        "",
        f"peak {format_bytes(verdict.peak_bytes)} in segments; registry process {format_bytes(first)} at the start, "
        f"{format_bytes(last)} at the end; everything was released and checked {verdict.rests} times",
        *(f"not covered: {gap}" for gap in verdict.coverage),
        "",
        ", ".join(f"{kinds.pop(kind, 0)} {words}" for kind, words in _KINDS.items())
        + "".join(f", {count} {kind}" for kind, count in kinds.items()),
    ]
    for finding in verdict.findings[:_MOST_SHOWN]:
        lines.append(f"  {finding.kind} at {finding.at_s:.3f} s, {finding.process}: {finding.detail}")
    if len(verdict.findings) > _MOST_SHOWN:
        lines.append(f"  ... and {len(verdict.findings) - _MOST_SHOWN} more; --json has all")
    return "\n".join(lines)


_KINDS: Final = {
    "leak": "leaks",
    "wrong read": "wrong reads",
    "lost publication": "lost publications",
    "redeemed twice": "tickets redeemed twice",
    "unexpected error": "unexpected errors",
    "death": "clients that died by themselves",
    "stuck": "clients stuck",
}
