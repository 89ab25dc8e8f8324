"""The time axis of a timeline: where a moment lies between 0 and 100 %, and which moments are worth a tick.

A run is drawn to scale. What an audit of the whole system finds is seconds or months old, so there the axis is one of age,
and logarithmic: a decade of age has the same width everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shmlease.auditor.report.lanes import Timeline
from shmlease.pages.scales import round_seconds
from shmlease.units import format_duration

__all__ = ["Axis", "axis_of"]

# Below this a plain scale shows more.
_LOGARITHMIC_FROM_NS: Final = 600 * 1_000_000_000
_TICKS: Final = 6
# Ages that people think in.
_AGES_S: Final = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400)
_NAMES: Final = ("1 s", "10 s", "1 min", "10 min", "1 h", "6 h", "1 d", "1 wk", "30 d", "1 yr")


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `begin_ns` to `end_ns`; `is_age` if it is read from its end and logarithmic."""

    begin_ns: int
    end_ns: int
    is_age: bool = False

    def position(self, at_ns: int) -> float:
        """Where `at_ns` lies, in per cent; what lies outside is at the edge."""
        span_ns = max(self.end_ns - self.begin_ns, 1)
        since_ns = min(max(at_ns - self.begin_ns, 0), span_ns)
        if not self.is_age:
            return 100 * since_ns / span_ns
        age_s = (span_ns - since_ns) / 1e9
        return 100 * (1 - math.log1p(age_s) / math.log1p(span_ns / 1e9))

    def format(self, at_ns: int) -> str:
        """`at_ns` in words: since the beginning, or ago."""
        if self.is_age:
            return f"{format_duration(max(self.end_ns - at_ns, 0) / 1e9)} ago"
        since_ns = at_ns - self.begin_ns
        return f"{'+' if since_ns >= 0 else '-'}{format_duration(abs(since_ns) / 1e9)}"

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Position and label of each tick."""
        if self.is_age:
            span_s = (self.end_ns - self.begin_ns) / 1e9
            for age_s, name in zip(_AGES_S, _NAMES, strict=True):
                if age_s <= span_s:
                    yield self.position(self.end_ns - age_s * 1_000_000_000), name
            return
        step_ns = round(round_seconds(max(self.end_ns - self.begin_ns, 1) / 1e9 / _TICKS) * 1e9) or 1
        for number in range((self.end_ns - self.begin_ns) // step_ns + 1):
            yield (
                self.position(self.begin_ns + number * step_ns),
                format_duration(number * step_ns / 1e9),
            )


def axis_of(timeline: Timeline) -> Axis:
    """The axis that suits `timeline`."""
    span_ns = timeline.end_ns - timeline.begin_ns
    return Axis(timeline.begin_ns, timeline.end_ns, is_age=timeline.scope is None and span_ns >= _LOGARITHMIC_FROM_NS)
