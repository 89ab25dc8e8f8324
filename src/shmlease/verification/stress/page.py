"""A verdict as one HTML page: figures, charts, findings, and the schedule; nothing is fetched."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

import msgspec

from shmlease.units import format_bytes, format_duration
from shmlease.verification.stress.charts import Axis, Series, chart
from shmlease.verification.stress.verdict import Verdict, as_text

__all__ = ["as_page"]

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }
pre { overflow-x: auto; padding: 1rem; background: #7f7f7f1a; border-radius: 6px; font-size: 13px }
.verdict { padding: .6rem 1rem; border-radius: 6px; color: #fff; font-weight: 600 }
.passed { background: #1a7f37 } .failed { background: #b42318 }
svg { width: 100%; height: auto; margin: .5rem 0 }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: left; vertical-align: top }
"""
_TIME: Final = Axis("s into the run")


def as_page(verdict: Verdict) -> str:
    """The page."""
    passed = "Nothing was lost" if verdict.is_passed else f"{len(verdict.findings)} promises were broken"
    style = "passed" if verdict.is_passed else "failed"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>shmlease stress, seed {verdict.seed}</title><style>{_STYLE}</style>",
        f"<h1>shmlease stress</h1><p class='verdict {style}'>{passed}</p>",
        f"<pre>{html.escape(as_text(verdict))}</pre>",
        *_charts(verdict),
        *_findings(verdict),
        "<h2>Schedule</h2><p>Save as a file and run <code>shmlease stress --replay FILE</code>.</p>",
        f"<pre>{html.escape(msgspec.json.encode(verdict.schedule).decode())}</pre></html>",
    ]
    return "\n".join(parts)


def _charts(verdict: Verdict) -> Iterable[str]:
    faults = [(fault.at_s, 0.0) for fault in verdict.schedule.faults]
    moments = verdict.moments
    rates = [
        (later.at_s, (later.operations - earlier.operations) / (later.at_s - earlier.at_s))
        for earlier, later in zip(moments, moments[5:], strict=False)
        if later.at_s > earlier.at_s
    ]
    yield chart(
        "Operations", _TIME, Axis("a second"), [Series("all clients", rates), Series("faults", faults, is_dots=True)]
    )
    held = [(moment.at_s, float(moment.segment_bytes)) for moment in moments]
    limit = [(moment.at_s, float(verdict.capacity_bytes)) for moment in moments]
    words = Axis("bytes in segments", words=lambda size: format_bytes(int(size)))
    yield chart("Memory", _TIME, words, [Series("segments", held), Series("capacity", limit, is_reference=True)])
    marks = (("p50", 0.5, "p50_s"), ("p99", 0.99, "p99_s"), ("p99.9", 0.999, "p999_s"))
    latencies = [
        Series(name, [(1 / (1 - share), getattr(latency, field)) for _, share, field in marks])
        for name, latency in sorted(verdict.latencies.items())
    ]
    yield chart(
        "Latency by percentile",
        Axis("one call in", is_log=True, words=lambda count: f"{count:,.0f}"),
        Axis("seconds", is_log=True, words=format_duration),
        latencies,
    )
    if verdict.reclaims_s or verdict.takeovers_s:
        yield chart(
            "Recovery",
            _TIME,
            Axis("seconds", is_log=True, words=format_duration),
            [
                Series("reclaim after SIGKILL of a client", verdict.reclaims_s, is_dots=True),
                Series("takeover after SIGKILL of the registry", verdict.takeovers_s, is_dots=True),
            ],
        )


def _findings(verdict: Verdict) -> Iterable[str]:
    if verdict.findings:
        rows = (
            f"<tr><td>{finding.at_s:.3f} s<td>{html.escape(finding.kind)}<td>{html.escape(finding.process)}"
            f"<td>{html.escape(finding.detail)}"
            for finding in verdict.findings
        )
        yield f"<h2>Broken promises</h2><table><tr><th>when<th>what<th>who<th>seen{''.join(rows)}</table>"
