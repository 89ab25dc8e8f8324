"""The findings as a table of the HTML report: a line for each, and beneath it what was seen, the stack, and how to mend it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Final

from shmlease.auditor.judge.findings import Finding, Place, Report
from shmlease.auditor.judge.rules import RULES, Severity
from shmlease.units import format_bytes

__all__ = ["findings_section", "short_place"]

_SEVERITY_RANK: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}
_CONFIDENCE_RANK: Final = {"proved": 0, "likely": 1, "unknown": 2}
# column -> what its head says; each cell of a row carries the value that it is sorted by
_COLUMNS: Final = {"rule": "Rule", "name": "Segment", "memory": "Memory", "place": "Made at", "sure": "Sure"}
# A page of ten thousand findings opens in no browser; the rest is in the JSON.
_MAX_ROWS: Final = 1000
_CODE: Final = re.compile("`([^`]+)`")


def findings_section(report: Report) -> str:
    """The section of the findings; it says so when there are none."""
    if not report.findings:
        return '<section id="findings"><h2>Findings <span>0</span></h2><p class="quiet">Nothing to tell.</p></section>'
    heads = "".join(
        f'<th scope="col" data-sort="{key}"><button type="button">{text}</button></th>' for key, text in _COLUMNS.items()
    )
    shown = report.findings[:_MAX_ROWS]
    rest = len(report.findings) - len(shown)
    more = f'<p class="quiet">{rest:,} more are in the JSON of this page.</p>' if rest > 0 else ""
    rows = "".join(_rows(position, finding) for position, finding in enumerate(shown))
    return (
        f'<section id="findings"><h2>Findings <span>{len(report.findings):,}</span></h2>{_filters(report)}'
        f'<table class="findings"><thead><tr>{heads}</tr></thead>{rows}</table>{more}</section>'
    )


def _filters(report: Report) -> str:
    counts = Counter(finding.rule for finding in report.findings)
    chips = "".join(
        f'<button type="button" class="chip {RULES[rule].severity.value}" data-rule="{rule}" aria-pressed="false" '
        f'title="{escape(RULES[rule].description)}">{escape(RULES[rule].name)} <b>{count:,}</b></button>'
        for rule, count in sorted(counts.items())
    )
    return f'<div class="chips">{chips}</div>'


def _rows(position: int, finding: Finding) -> str:
    """Two rows in a body of their own, so that sorting keeps them together."""
    definition = finding.definition
    place = finding.creator.place if finding.creator else None
    severity, confidence = finding.severity.value, finding.confidence.value
    label = f"<small>{escape(finding.label)}</small>" if finding.label else ""
    where = f"<code>{escape(short_place(place))}</code>" if place else '<span class="none">not known</span>'
    test = f"<small>{escape(finding.creator.test)}</small>" if finding.creator and finding.creator.test else ""
    rank = _SEVERITY_RANK[finding.severity]
    return (
        f'<tbody id="f{position}" data-rule="{finding.rule}" class="{severity}{"" if finding.is_leak else " quietly"}">'
        f'<tr class="head"><td data-label="Rule" data-key="{rank}{finding.rule}"><button type="button" class="fold" '
        f'aria-expanded="true" aria-controls="d{position}"><i></i>{escape(definition.name)}<small>{finding.rule}</small>'
        f'</button></td><td data-label="Segment" data-key="{escape(finding.name)}"><code>{escape(finding.name)}</code>{label}'
        f'</td><td data-label="Memory" class="number" data-key="{finding.resident_bytes:020d}">{_memory(finding)}</td>'
        f'<td data-label="Made at" data-key="{escape(str(place) if place else "~")}">{where}{test}</td>'
        f'<td data-label="Sure" data-key="{_CONFIDENCE_RANK[confidence]}"><span class="sure {confidence}">{confidence}</span>'
        f'</td></tr><tr class="detail" id="d{position}"><td colspan="{len(_COLUMNS)}">{_detail(finding)}</td></tr></tbody>'
    )


def _memory(finding: Finding) -> str:
    if finding.resident_bytes or not finding.size_bytes:
        return format_bytes(finding.resident_bytes)
    return f'<span class="none" title="its size; none of it is in memory">{format_bytes(finding.size_bytes)}</span>'


def short_place(place: Place) -> str:
    """The last two parts of the path and the line: what fits into a column."""
    return f"{'/'.join(place.file.rsplit('/', 2)[-2:])}:{place.line}"


def _detail(finding: Finding) -> str:
    parts = "".join(f"<div><h3>{head}</h3>{content}</div>" for head, content in _parts(finding))
    return f'<p class="message">{escape(finding.message)}</p><div class="parts">{parts}</div>'


def _parts(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.evidence:
        facts = "".join(f"<li>{escape(fact.text)} <code>{escape(fact.source)}</code></li>" for fact in finding.evidence)
        yield "Seen", f'<ul class="facts">{facts}</ul>'
    creator = finding.creator
    if creator is not None and creator.stack:
        frames = "".join(_frame(frame, is_place=frame == creator.place) for frame in creator.stack)
        yield "Made by this stack, innermost last", f'<ol class="stack">{frames}</ol>'
    elif creator is not None and creator.place is not None:
        yield "Made at", f'<ol class="stack">{_frame(creator.place, is_place=True)}</ol>'
    if creator is not None and creator.pid is not None:
        yield "Made by", f"<p>pid {creator.pid} <code>{escape(creator.command)}</code></p>"
    if finding.holders:
        holders = "".join(f"<li>pid {one.pid} <code>{escape(one.command)}</code></li>" for one in finding.holders)
        yield "Held by", f'<ul class="facts">{holders}</ul>'
    if finding.remedy:
        remedy = _CODE.sub(r"<code>\1</code>", escape(finding.remedy))
        yield "How to mend it", f"<p>{remedy}</p>"
    yield "Identity", f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in _identity(finding))}</dl>"


def _frame(place: Place, *, is_place: bool) -> str:
    mark = ' class="here"' if is_place else ""
    return f"<li{mark}><code>{escape(place.file)}:<b>{place.line}</b></code> {escape(place.function)}</li>"


def _identity(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.path:
        yield "path", f"<code>{escape(finding.path)}</code>"
    if finding.identity is not None:
        one = finding.identity
        yield "device, inode", f"{os.major(one.device)}:{os.minor(one.device)}, {one.inode}"
    yield "size", f"{format_bytes(finding.size_bytes)}, {format_bytes(finding.resident_bytes)} in memory"
    if finding.registry:
        yield "registry", f"<code>{escape(finding.registry)}</code>"
    yield "fingerprint", f"<code>{finding.fingerprint[:16]}</code>"
