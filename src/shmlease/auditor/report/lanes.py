"""The events of a report as lanes: one for each segment, with its lifetimes, its leases and the events in them.

What the timeline of the HTML report and the trace draw; both are drawn from here, so that they cannot disagree. The
timeline ends where the report does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shmlease.auditor.judge.findings import Event, Finding, Report

__all__ = ["Bar", "Lane", "Mark", "Span", "Timeline", "timeline_of"]

_ENDS_LIFE: Final = frozenset({"unlink", "reap", "retire"})
_BEGINS_LEASE: Final = frozenset({"grant", "attach"})
_ENDS_LEASE: Final = frozenset({"release", "exit", "expire"})


@dataclass(frozen=True, slots=True)
class Span:
    """The life of a segment under its name; `is_open` if it had not ended.

    `outlived_from_ns` is where it outlived its scope, if it did.
    """

    begin_ns: int
    end_ns: int
    is_open: bool = False
    outlived_from_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A lease, from grant to release."""

    begin_ns: int
    end_ns: int
    kind: str  # "grant" for the writer's, "attach" for a reader's
    lease: str
    text: str = ""
    pid: int | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment."""

    at_ns: int
    kind: str
    text: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """One segment; `label` is the name that users gave it, `findings` are the positions in the report of those about it."""

    segment: str
    label: str = ""
    spans: tuple[Span, ...] = ()
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    findings: tuple[int, ...] = ()
    is_leaking: bool = False

    @property
    def begin_ns(self) -> int:
        """When it is first known to exist."""
        return self.spans[0].begin_ns if self.spans else self.marks[0].at_ns

    @property
    def end_ns(self) -> int:
        """When it is last known to exist."""
        return max([span.end_ns for span in self.spans] + [mark.at_ns for mark in self.marks])


@dataclass(frozen=True, slots=True)
class Timeline:
    """All lanes, the leaking ones first; `scope` is where the command or test began and ended, if there was one.

    `marks` belong to no segment: exits of processes, takeovers, refusals.
    """

    begin_ns: int
    end_ns: int
    lanes: tuple[Lane, ...] = ()
    marks: tuple[Mark, ...] = ()
    scope: tuple[int, int] | None = None
    scope_name: str = ""

    @property
    def visible(self) -> tuple[Lane, ...]:
        """The lanes with findings, and those of which any part lies in the time shown: a registry may have an
        earlier past.
        """
        return tuple(lane for lane in self.lanes if lane.findings or lane.end_ns >= self.begin_ns)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of all marks."""
        return frozenset(mark.kind for marks in (self.marks, *(lane.marks for lane in self.lanes)) for mark in marks)


def timeline_of(report: Report) -> Timeline:
    """The timeline of `report`."""
    environment = report.environment
    begins = [event for event in report.events if event.kind == "begin"]
    ends = [event for event in report.events if event.kind == "end"]
    scope = (begins[0].at_ns, ends[-1].at_ns) if begins and ends else None
    times = [event.at_ns for event in report.events]
    end_ns = max([environment.began_ns + environment.elapsed_ns, *times])
    begin_ns = scope[0] if scope else min([end_ns, *times])
    by_segment: dict[str, list[Event]] = {}
    for event in report.events:
        if event.segment:
            by_segment.setdefault(event.segment, []).append(event)
    found = _findings_by_segment(report, by_segment)
    exits = {event.pid: event.at_ns for event in report.events if event.kind == "exit" and event.pid is not None}
    lanes = [
        _lane(segment, events, found.get(segment, ()), report, scope, exits, end_ns)
        for segment, events in by_segment.items()
    ]
    lanes.sort(key=lambda lane: (not lane.is_leaking, not lane.findings, lane.begin_ns, lane.segment))
    marks = tuple(
        Mark(event.at_ns, event.kind, event.text, event.pid)
        for event in report.events
        if not event.segment and event.kind not in {"begin", "end"}
    )
    return Timeline(begin_ns, end_ns, tuple(lanes), marks, scope, begins[0].text if begins else "")


def _findings_by_segment(report: Report, known: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The findings about each segment; a registry's has its path for a name here, whatever alias it goes by."""
    segments = set(known)
    found: dict[str, tuple[int, ...]] = {}
    for position, finding in enumerate(report.findings):
        candidates = [finding.name]
        candidates += [
            finding.path.removeprefix(f"{root}/")
            for root in report.environment.roots
            if finding.path.startswith(f"{root}/")
        ]
        segment = next((name for name in reversed(candidates) if name in segments), None)
        if segment is not None:
            found[segment] = (*found.get(segment, ()), position)
    return found


def _lane(
    segment: str,
    events: list[Event],
    positions: tuple[int, ...],
    report: Report,
    scope: tuple[int, int] | None,
    exits: Mapping[int, int],
    end_ns: int,
) -> Lane:
    findings = [report.findings[position] for position in positions]
    leaks = [finding for finding in findings if finding.is_leak]
    # a scope of its own, such as the test that should have ended it
    ends = [event.at_ns for event in events if event.kind == "end"]
    events = [event for event in events if event.kind != "end"] or events
    if ends:
        scope = (events[0].at_ns, ends[0])
    # a segment in a registry's table still exists; other files do if they were found at the end
    is_there = bool(leaks) or (segment.startswith("shmlease-") and events[-1].kind not in _ENDS_LIFE)
    spans = _spans(events, end_ns if is_there else events[-1].at_ns, is_open=is_there)
    if scope is not None:
        spans = [_outlived(span, scope[1]) for span in spans]
    elif leaks and spans[-1].is_open:
        since_ns = _abandoned_at(events, leaks, exits)
        spans[-1] = Span(spans[-1].begin_ns, spans[-1].end_ns, True, max(since_ns, spans[-1].begin_ns))
    label = next((finding.label for finding in findings if finding.label), "")
    return Lane(segment, label, tuple(spans), tuple(_bars(events, end_ns)), tuple(_marks(events)), positions, bool(leaks))


def _spans(events: list[Event], end_ns: int, *, is_open: bool) -> list[Span]:
    spans: list[Span] = []
    begin_ns: int | None = None
    for event in events:
        if event.kind not in _ENDS_LIFE:
            begin_ns = event.at_ns if begin_ns is None else begin_ns
        elif begin_ns is not None:
            spans.append(Span(begin_ns, event.at_ns))
            begin_ns = None
        elif not spans:
            spans.append(Span(event.at_ns, event.at_ns))
    if begin_ns is not None:
        spans.append(Span(begin_ns, max(end_ns, begin_ns), is_open))
    return spans


def _marks(events: list[Event]) -> list[Mark]:
    """The marks of a lane; a creation that both the file and the recorder report is one, with what both know."""
    marks: list[Mark] = []
    born: int | None = None
    for event in events:
        if event.kind == "create" and born is not None:
            first = marks[born]
            marks[born] = Mark(first.at_ns, "create", first.text or event.text, first.pid or event.pid)
            continue
        if event.kind == "create":
            born = len(marks)
        elif event.kind in _ENDS_LIFE:
            born = None
        marks.append(Mark(event.at_ns, event.kind, event.text, event.pid))
    return marks


def _outlived(span: Span, scope_end_ns: int) -> Span:
    if span.end_ns <= scope_end_ns:
        return span
    return Span(span.begin_ns, span.end_ns, span.is_open, max(span.begin_ns, scope_end_ns))


def _abandoned_at(events: list[Event], leaks: list[Finding], exits: Mapping[int, int]) -> int:
    """When a leaking segment was last used, as far as is known: the exit of its creator, or else its last event."""
    creators = [leak.creator.pid for leak in leaks if leak.creator is not None and leak.creator.pid in exits]
    return exits[creators[0]] if creators and creators[0] is not None else events[-1].at_ns


def _bars(events: list[Event], end_ns: int) -> list[Bar]:
    begun: dict[str, Event] = {}
    bars: list[Bar] = []
    for event in events:
        if event.lease and event.kind in _BEGINS_LEASE:
            begun.setdefault(event.lease, event)
        elif event.lease in begun and event.kind in _ENDS_LEASE:
            first = begun.pop(event.lease)
            bars.append(Bar(first.at_ns, event.at_ns, first.kind, first.lease, first.text, first.pid))
    bars += [Bar(e.at_ns, end_ns, e.kind, e.lease, e.text, e.pid, is_open=True) for e in begun.values()]
    return bars
