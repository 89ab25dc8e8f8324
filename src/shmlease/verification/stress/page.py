"""A verdict as one HTML page: figures, charts, broken promises, calls, and the schedule; nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from shmlease.pages.charts import Axis, Chart, Series, chart_of
from shmlease.pages.rendering import Headline, render_page
from shmlease.pages.scales import round_bytes, round_seconds
from shmlease.units import format_bytes, format_count, format_duration
from shmlease.verification.stress.verdict import Verdict

__all__ = ["as_page"]

_TIME: Final = Axis("time into the run", format_duration, round_seconds)
_SECONDS: Final = Axis(format=format_duration, log_base=10)
_BYTES: Final = Axis(format=lambda size: format_bytes(round(size)), step=round_bytes)
# Samples that a rate is taken over: fewer are mostly noise.
_RATE_OVER: Final = 5
_PERCENTILES: Final = (("p50_s", 2), ("p99_s", 100), ("p999_s", 1000))


def as_page(verdict: Verdict) -> str:
    """The page."""
    broken = format_count(len(verdict.findings), "promise was broken", "promises were broken")
    headline = Headline(
        "good" if verdict.is_passed else "bad",
        "Nothing was lost" if verdict.is_passed else broken[0].upper() + broken[1:],
        f"{format_count(verdict.operations, 'operation')} of {format_count(verdict.clients, 'client')} in "
        f"{format_duration(verdict.duration_s)}, under {format_count(sum(verdict.faults.values()), 'fault')}.",
        (
            ("operations/s", f"{verdict.operations / verdict.duration_s:,.0f}" if verdict.duration_s else "–"),
            ("peak in segments", format_bytes(verdict.peak_bytes)),
            ("registry process", " → ".join(map(format_bytes, verdict.registry_bytes))),
            ("checks at rest", str(verdict.rests)),
        ),
    )
    refused = sorted(outcome.split(": ", 1) for outcome in verdict.outcomes if ": " in outcome)
    calls = [*sorted(verdict.latencies.items()), ("reclaim", verdict.reclaim), ("takeover", verdict.takeover)]
    return render_page(
        "shmlease.verification.stress",
        "verdict",
        tool="stress",
        title=f"{headline.text} – shmlease stress, seed {verdict.seed}",
        at=None,
        headline=headline,
        footer=(("seed", str(verdict.seed)), ("capacity", format_bytes(verdict.capacity_bytes))),
        data=msgspec.json.encode(verdict.schedule),
        save_as=f"shmlease-stress-{verdict.seed}.json",
        verdict=verdict,
        charts=list(_charts(verdict)),
        calls=[(name, latency) for name, latency in calls if latency is not None],
        refused=[(call, why, verdict.outcomes[f"{call}: {why}"]) for call, why in refused],
    )


def _charts(verdict: Verdict) -> Iterator[Chart]:
    moments = verdict.moments
    rates = [
        (later.at_s, (later.operations - earlier.operations) / (later.at_s - earlier.at_s))
        for earlier, later in zip(moments, moments[_RATE_OVER:], strict=False)
        if later.at_s > earlier.at_s
    ]
    faults = [(fault.at_s, 0.0) for fault in verdict.schedule.faults]
    rate = Axis("operations a second", "{:,.0f}".format)
    yield chart_of("Operations", _TIME, rate, [Series("all clients", rates), Series("faults", faults, is_dots=True)])
    held = [(moment.at_s, float(moment.segment_bytes)) for moment in moments]
    limit = [(moment.at_s, float(verdict.capacity_bytes)) for moment in moments]
    lines = [Series("in segments", held), Series("capacity", limit, is_reference=True)]
    yield chart_of("Memory", _TIME, _BYTES, lines)
    latencies = [
        Series(name, [(calls, getattr(latency, field)) for field, calls in _PERCENTILES])
        for name, latency in sorted(verdict.latencies.items())
    ]
    calls = Axis("slowest of so many calls", "{:,.0f}".format, log_base=10)
    yield chart_of("Latency", calls, _SECONDS, latencies)
    if verdict.reclaims_s or verdict.takeovers_s:
        recoveries = [
            Series("reclaim after SIGKILL of a client", verdict.reclaims_s, is_dots=True),
            Series("takeover after SIGKILL of the registry", verdict.takeovers_s, is_dots=True),
        ]
        yield chart_of("Recovery", _TIME, _SECONDS, recoveries)
