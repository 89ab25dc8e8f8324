"""The report for people at a terminal: the findings, worst first, and the verdict in the last line."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import click

from shmlease.auditor.judge.findings import Confidence, Finding, Report
from shmlease.auditor.judge.printable import cut_command, printable
from shmlease.auditor.judge.rules import Severity
from shmlease.auditor.report.formats import Style
from shmlease.units import format_bytes, format_count, format_duration

__all__ = ["render"]

_COLOURS: Final = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_LABEL_COLUMNS: Final = 9
_BLIND: Final = "LH016"
# A rule shows this many findings; more are counted.
_SHOWN_PER_RULE: Final = 20
# Of those that are alike, and of the calls that led to one.
_SHOWN_ALIKE: Final = 5
_SHOWN_CALLERS: Final = 4
# In the path of modules that are installed, and nobody's to fix.
_LIBRARY: Final = "/lib/python"


def render(report: Report, style: Style) -> str:
    """`report` as text; unless `style.verbose`, a rule with many findings is cut short and counted."""
    text = "".join(f"{line}\n" for line in _lines(report, style))
    return text if style.colour else click.unstyle(text)


def _lines(report: Report, style: Style) -> Iterator[str]:
    shown: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    for group in _groups(report.findings, style):
        rule = group[0].rule
        shown[rule] += 1
        if style.verbose or shown[rule] <= _SHOWN_PER_RULE:
            yield from _finding(group, style)
            yield ""
        else:
            cut[rule] += len(group)
    for rule, count in cut.items():
        yield click.style(f"{rule}: {count} more of these; --verbose shows all", dim=True)
    for line in _suppressed(report, style):
        yield click.style(line, dim=True)
    for gap in report.coverage.gaps:
        if gap.blinding or style.verbose:
            line = f"not seen: {printable(gap.what)}: {printable(gap.why)}"
            yield click.style(line, fg="yellow") if gap.blinding else click.style(line, dim=True)
    yield _verdict(report)


def _groups(findings: Iterable[Finding], style: Style) -> list[list[Finding]]:
    """The findings to show; those of one rule that the same process made at the same place are one, unless verbose.

    What could not be seen is left out: it is shown below, in one line each.
    """
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        if finding.rule == _BLIND:
            continue
        creator = finding.creator
        is_alone = style.verbose or creator is None or creator.place is None
        key = finding.key if is_alone else (finding.rule, finding.confidence, finding.holders, finding.remedy, creator)
        groups.setdefault(key, []).append(finding)
    return list(groups.values())


def _finding(group: list[Finding], style: Style) -> Iterator[str]:
    finding = group[0]
    head = click.style(f"{finding.rule} {finding.definition.name}", fg=_COLOURS[finding.severity], bold=True)
    plain = finding.severity is Severity.ERROR and finding.confidence is Confidence.PROVED
    doubt = "" if plain else click.style(f"  {finding.severity.value}, {finding.confidence.value}", dim=True)
    yield f"{head}{doubt}  {printable(finding.message)}"
    columns = max(style.width_columns - _LABEL_COLUMNS - 2, 30)
    for label, text in _details(group, style):
        first, *rest = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"  {click.style(f'{label:<{_LABEL_COLUMNS}}', dim=True)}{first}"
        yield from (" " * (_LABEL_COLUMNS + 2) + line for line in rest)


def _details(group: list[Finding], style: Style) -> Iterator[tuple[str, str]]:
    """Label and text of each line below a finding: what is equal to it, who made it and where, the fix, what was seen."""
    finding = group[0]
    if len(group) > 1:
        others = [f"{one.label or one.name} ({format_bytes(one.size_bytes)})" for one in group[1:]]
        more = ", ".join(others[:_SHOWN_ALIKE]) + (", ..." if len(others) > _SHOWN_ALIKE else "")
        yield "also", printable(f"{len(others)} more made at the same line: {more}")
    creator = finding.creator
    if creator is not None:
        command = creator.command if style.verbose else cut_command(creator.command)
        parts = [f"by pid {creator.pid}"] if creator.pid is not None else []
        parts += [f"({command})"] if command else []
        parts += [f"at {creator.place}"] if creator.place else []
        parts += [f"in test {creator.test}"] if creator.test else []
        if parts:
            yield "created", printable(" ".join(parts))
        # what is further in than the place is the standard library's
        callers = creator.stack[: creator.stack.index(creator.place)][::-1] if creator.place in creator.stack else ()
        own = [frame for frame in callers if _LIBRARY not in frame.file]
        yield from _labelled("from", callers if style.verbose else own[:_SHOWN_CALLERS])
    if finding.remedy:
        yield "fix", finding.remedy
    yield from _labelled("held by", finding.holders if style.verbose else finding.holders[:3])
    facts = [f"{fact.text}  [{fact.source}]" for fact in finding.evidence]
    yield from _labelled("seen", facts if style.verbose else facts[:3])


def _labelled(label: str, lines: Iterable[object]) -> Iterator[tuple[str, str]]:
    """The first line under `label`, the others below it."""
    for position, line in enumerate(lines):
        yield label if position == 0 else "", printable(str(line))


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
    total = sum({finding.subject: finding.cost_bytes for finding in report.leaks}.values())
    leaks = f"{format_count(len(report.leaks), 'leak')} ({format_bytes(total)})"
    return click.style(f"{leaks}{also}; {scanned}", fg="red", bold=True)
