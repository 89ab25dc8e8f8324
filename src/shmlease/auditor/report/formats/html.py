"""The report as one HTML page: verdict, timeline, findings, suppressions, what was not seen, and the report itself as JSON.

The page needs no network and no script: everything is written out, and the script only sorts, filters and folds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from shmlease.auditor.judge.findings import Confidence, Report, SuppressionUse
from shmlease.auditor.judge.rules import RULES, Rule, Severity
from shmlease.auditor.report.axis import axis_of
from shmlease.auditor.report.lanes import timeline_of
from shmlease.pages.rendering import Headline, render_page
from shmlease.units import format_bytes, format_count, format_duration

__all__ = ["render"]

_BLIND: Final = "LH016"
# A page of ten thousand findings opens in no browser; the rest is in the JSON.
_MAX_FINDINGS: Final = 1000
_MAX_LANES: Final = 400


def render(report: Report) -> str:
    """`report` as one HTML page."""
    timeline = timeline_of(report)
    environment = report.environment
    # what could not be seen has a section of its own
    findings = [(position, one) for position, one in enumerate(report.findings) if one.rule != _BLIND]
    verdict = "no leaks" if report.is_clean else format_count(len(report.leaks), "leak")
    return render_page(
        "shmlease.auditor.report",
        "audit",
        tool="audit",
        title=f"{verdict} – {timeline.scope_name or 'shmlease audit'}",
        at=datetime.fromtimestamp(environment.began_ns / 1e9, UTC),
        headline=_headline(report),
        footer=(
            ("roots", ", ".join(environment.roots)),
            ("user", f"{environment.user} ({environment.user_id}{', privileged' if environment.privileged else ''})"),
            ("kernel", environment.kernel),
            ("command", environment.command),
            ("shmlease", environment.version),
        ),
        data=report.to_json(indent=0),
        save_as="shmlease-report.json",
        report=report,
        timeline=timeline,
        axis=axis_of(timeline),
        lanes=timeline.visible,
        max_lanes=_MAX_LANES,
        shown=findings[:_MAX_FINDINGS],
        count=len(findings),
        rules=_rules(report),
        suppressions=sorted(_suppressions(report), key=lambda use: -use.uses),
        severities=list(Severity),
        confidences=list(Confidence),
        major=os.major,
        minor=os.minor,
    )


def _headline(report: Report) -> Headline:
    leaks = report.leaks
    notes = sum(not finding.is_leak and finding.rule != _BLIND for finding in report.findings)
    facts = (
        ("exit code", str(report.exit_code())),
        ("notes", f"{notes:,}"),
        ("suppressed", f"{len(report.suppressed):,}"),
        ("not seen", f"{len(report.coverage.gaps):,}"),
        ("audit took", format_duration(report.environment.elapsed_ns / 1e9)),
    )
    if leaks:
        memory = sum({finding.subject: finding.resident_bytes for finding in leaks}.values())
        confidences = Counter(finding.confidence.value for finding in leaks)
        listed = ", ".join(f"{number} {confidence}" for confidence, number in confidences.items())
        reaped = sum(finding.cost_bytes - finding.resident_bytes for finding in leaks)
        where = f"{format_bytes(memory)} still in memory" if memory or not reaped else ""
        where += f"{', ' * bool(where)}{format_bytes(reaped)} removed by a resource tracker" if reaped else ""
        return Headline("bad", format_count(len(leaks), "leak"), f"{where}; {listed}.", facts)
    if report.coverage.is_blind:
        line = "Something could not be seen, and a leak may hide there: see below."
        return Headline("unsure", "No leaks, as far as could be seen", line, facts)
    gaps = len(report.coverage.gaps)
    line = "Everything that could leak was checked."
    if gaps:
        line = f"Nothing that could hide a leak was out of sight; {format_count(gaps, 'other thing')} could not be seen."
    return Headline("good", "No leaks", line, facts)


def _rules(report: Report) -> list[tuple[Rule, int]]:
    counts = Counter(finding.rule for finding in report.findings if finding.rule != _BLIND)
    return [(RULES[rule], number) for rule, number in sorted(counts.items())]


def _suppressions(report: Report) -> Iterator[SuppressionUse]:
    """The project's own, the defaults that were used, and what a baseline has suppressed."""
    yield from (use for use in report.suppressions if use.uses or use.source != "default")
    known = {(use.reason, use.source) for use in report.suppressions}
    others = Counter((one.reason, one.source) for one in report.suppressed if (one.reason, one.source) not in known)
    for (reason, source), number in others.items():
        yield SuppressionUse(reason, source, name="", creator="", uses=number)
