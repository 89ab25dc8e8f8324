"""The report for people at a terminal: the findings, worst first, and the verdict in the last line."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Final

import click

from shmlease.auditor.judge.findings import Confidence, Finding, Report
from shmlease.auditor.judge.printable import printable
from shmlease.auditor.judge.rules import Severity
from shmlease.auditor.report.formats import Style
from shmlease.units import format_bytes, format_count, format_duration

__all__ = ["render"]

_COLOURS: Final = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_LABEL_COLUMNS: Final = 9
_BLIND: Final = "LH016"
# A rule shows this many findings; more are counted.
_SHOWN_PER_RULE: Final = 20


def render(report: Report, style: Style) -> str:
    """`report` as text; unless `style.verbose`, a rule with many findings is cut short and counted."""
    text = "".join(f"{line}\n" for line in _lines(report, style))
    return text if style.colour else click.unstyle(text)


def _lines(report: Report, style: Style) -> Iterator[str]:
    shown: Counter[str] = Counter()
    for finding in report.findings:
        if finding.rule == _BLIND:
            continue  # shown below, in one line each
        shown[finding.rule] += 1
        if style.verbose or shown[finding.rule] <= _SHOWN_PER_RULE:
            yield from _finding(finding, style)
            yield ""
    for rule, count in shown.items():
        if count > _SHOWN_PER_RULE and not style.verbose:
            yield click.style(f"{rule}: {count - _SHOWN_PER_RULE} more of these; --verbose shows all", dim=True)
    for line in _suppressed(report, style):
        yield click.style(line, dim=True)
    for gap in report.coverage.gaps:
        if gap.blinding or style.verbose:
            line = f"not seen: {printable(gap.what)}: {printable(gap.why)}"
            yield click.style(line, fg="yellow") if gap.blinding else click.style(line, dim=True)
    yield _verdict(report)


def _finding(finding: Finding, style: Style) -> Iterator[str]:
    head = click.style(f"{finding.rule} {finding.definition.name}", fg=_COLOURS[finding.severity], bold=True)
    plain = finding.severity is Severity.ERROR and finding.confidence is Confidence.PROVED
    doubt = "" if plain else click.style(f"  {finding.severity.value}, {finding.confidence.value}", dim=True)
    yield f"{head}{doubt}  {printable(finding.message)}"
    columns = max(style.width_columns - _LABEL_COLUMNS - 2, 30)
    for label, text in _details(finding, style):
        first, *rest = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"  {click.style(f'{label:<{_LABEL_COLUMNS}}', dim=True)}{first}"
        yield from (" " * (_LABEL_COLUMNS + 2) + line for line in rest)


def _details(finding: Finding, style: Style) -> Iterator[tuple[str, str]]:
    creator = finding.creator
    if creator is not None:
        parts = [f"by pid {creator.pid}"] if creator.pid is not None else []
        parts += [f"({creator.command})"] if creator.command else []
        parts += [f"at {creator.place}"] if creator.place else []
        parts += [f"in test {creator.test}"] if creator.test else []
        if parts:
            yield "created", printable(" ".join(parts))
    label = "held by"
    for holder in finding.holders if style.verbose else finding.holders[:3]:
        yield label, printable(str(holder))
        label = ""
    label = "seen"
    for fact in finding.evidence if style.verbose else finding.evidence[:3]:
        yield label, printable(f"{fact.text}  [{fact.source}]")
        label = ""
    if finding.remedy:
        yield "fix", finding.remedy


def _suppressed(report: Report, style: Style) -> Iterator[str]:
    suppressed = Counter((one.reason, one.source) for one in report.suppressed)
    for (reason, source), count in suppressed.most_common():
        yield f"suppressed: {count}, {reason} ({source})"
        if style.verbose:
            for one in report.suppressed:
                if (one.reason, one.source) == (reason, source):
                    yield f"  {one.finding.rule} {printable(one.finding.message)}"
    for use in report.suppressions:
        own = use.source != "default"
        if use.expired:
            yield f"expired on {use.expires}: the suppression of rule {use.rule}, name {use.name} ({use.source})"
        elif use.uses == 0 and (own or style.verbose):
            yield f"unused: the suppression of rule {use.rule}, name {use.name} ({use.source})"


def _verdict(report: Report) -> str:
    looked_at = report.coverage.looked_at
    scanned = (
        f"{format_count(looked_at.get('files', 0), 'file')}, "
        f"{format_count(looked_at.get('processes', 0), 'process', 'processes')}, "
        f"{format_count(looked_at.get('registries', 0), 'registry', 'registries')} "
        f"in {format_duration(report.environment.elapsed_ns / 1e9)}"
    )
    notes = sum(not finding.is_leak and finding.rule != _BLIND for finding in report.findings)
    also = f", {format_count(notes, 'note')}" if notes else ""
    if report.is_clean:
        blind = " as far as could be seen" if report.coverage.is_blind else ""
        return click.style(f"no leaks{blind}{also}; {scanned}", fg="green", bold=True)
    total = sum({finding.subject: finding.resident_bytes for finding in report.leaks}.values())
    leaks = f"{format_count(len(report.leaks), 'leak')} ({format_bytes(total)})"
    return click.style(f"{leaks}{also}; {scanned}", fg="red", bold=True)
