"""The timeline of a report as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

Each segment is an asynchronous track of nestable events, because lifetimes overlap: its life begins and ends with ``b`` and
``e``, leases are nested in it, and what happens to it is an ``n``. The processes are those that created the segments.

Source: "Trace Event Format", sections on async events and metadata; times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.lanes import Lane, Timeline, timeline_of

__all__ = ["render"]

# Segments whose creator is unknown are shown under this pid, which no process has.
_NOBODY: Final = 0
_CATEGORY: Final = "segment"


def render(report: Report) -> str:
    """`report` as a trace in JSON."""
    timeline = timeline_of(report)
    events = [*_processes(report, timeline), *_scope(timeline)]
    for number, lane in enumerate(timeline.lanes):
        events += _lane(report, lane, f"{number:#x}", timeline.begin_ns)
    for mark in timeline.marks:
        arguments = {"text": mark.text}
        events.append(_event("i", mark.kind, mark.at_ns, timeline.begin_ns, mark.pid, arguments, s="p"))
    trace = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"version": report.environment.version, "began_ns": str(timeline.begin_ns)},
    }
    return json.dumps(trace, indent=1) + "\n"


def _event(
    phase: str, name: str, at_ns: int, zero_ns: int, pid: int | None, arguments: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    process = _NOBODY if pid is None else pid
    event = {"ph": phase, "name": name, "cat": _CATEGORY, "pid": process, "tid": process, "ts": (at_ns - zero_ns) / 1000}
    return {**event, **fields, **({"args": arguments} if arguments else {})}


def _processes(report: Report, timeline: Timeline) -> Iterator[dict[str, Any]]:
    """The names of the processes, as far as the report has them."""
    names = {_NOBODY: "shared memory"}
    for finding in report.findings:
        creator = finding.creator
        if creator is not None and creator.pid is not None and creator.command:
            names[creator.pid] = creator.command
        names.update({holder.pid: holder.command for holder in finding.holders if holder.command})
    for event in report.events:
        if event.kind == "begin" and event.pid is not None:
            names[event.pid] = timeline.scope_name
    for pid, name in names.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": pid, "args": {"name": name}}


def _scope(timeline: Timeline) -> Iterator[dict[str, Any]]:
    if timeline.scope is not None:
        begin_ns, end_ns = timeline.scope
        yield _event("b", timeline.scope_name, begin_ns, timeline.begin_ns, None, id="scope")
        yield _event("e", timeline.scope_name, end_ns, timeline.begin_ns, None, id="scope")


def _lane(report: Report, lane: Lane, track: str, zero_ns: int) -> Iterator[dict[str, Any]]:
    name = lane.label or lane.segment
    creator = next((mark.pid for mark in lane.marks if mark.kind == "create"), None)
    found = [report.findings[position] for position in lane.findings]
    arguments = {
        "segment": lane.segment,
        "findings": [f"{finding.rule} {finding.definition.name}: {finding.message}" for finding in found],
    }
    for span in lane.spans:
        yield _event("b", name, span.begin_ns, zero_ns, creator, arguments, id=track)
        if span.outlived_from_ns is not None:
            yield _event("b", "outlived its scope", span.outlived_from_ns, zero_ns, creator, id=track)
            yield _event("e", "outlived its scope", span.end_ns, zero_ns, creator, id=track)
        yield _event("e", name, span.end_ns, zero_ns, creator, id=track)
    for bar in lane.bars:
        kind = "write lease" if bar.kind == "grant" else "read lease"
        yield _event("b", kind, bar.begin_ns, zero_ns, creator, {"holder": bar.pid, "taken at": bar.text}, id=track)
        yield _event("e", kind, bar.end_ns, zero_ns, creator, id=track)
    for mark in lane.marks:
        yield _event("n", mark.kind, mark.at_ns, zero_ns, creator, {"pid": mark.pid, "text": mark.text}, id=track)
