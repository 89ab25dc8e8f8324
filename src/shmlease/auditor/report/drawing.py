"""The timeline as the HTML report draws it: lanes of boxes and marks, placed in percent so that the browser can stretch them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shmlease.auditor.report.axis import Axis, axis_of
from shmlease.auditor.report.lanes import Bar, Lane, Mark, Span, Timeline
from shmlease.pages.charts import Tick

__all__ = ["Box", "Drawing", "PlacedMark", "Row", "drawing_of"]

_MAX_ROWS: Final = 400
_MAX_MARKS: Final = 60  # in one lane; a segment that is attached a thousand times is a smear anyway
_MAX_TAGS: Final = 3


@dataclass(frozen=True, slots=True)
class Box:
    """A span of time; `left` and `width` in percent."""

    kind: str
    left: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class PlacedMark:
    """A moment; `left` in percent."""

    kind: str
    left: float
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """The lane of one segment; `findings` are positions in the report."""

    segment: str
    label: str
    is_leaking: bool
    findings: tuple[int, ...]
    boxes: tuple[Box, ...]
    marks: tuple[PlacedMark, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Everything the template draws; `end` is where the scope ended, if there was one."""

    scope_name: str
    rows: tuple[Row, ...]
    undrawn: int
    leaking: int
    is_age: bool
    ticks: tuple[Tick, ...]
    end: Tick | None
    exits: tuple[PlacedMark, ...]
    kinds: frozenset[str]
    has_leases: bool
    has_outlived: bool
    cut: str


def drawing_of(timeline: Timeline) -> Drawing:
    """`timeline` in percent; it has no rows where nothing happened."""
    axis = axis_of(timeline)
    lanes = [lane for lane in timeline.lanes if lane.findings or _is_visible(lane, timeline)]
    exits = [mark for mark in timeline.marks if mark.kind in {"exit", "takeover"}]
    marks = [*timeline.marks, *(mark for lane in lanes for mark in lane.marks)]
    return Drawing(
        scope_name=timeline.scope_name,
        rows=tuple(_row(lane, axis) for lane in lanes[:_MAX_ROWS]),
        undrawn=max(len(lanes) - _MAX_ROWS, 0),
        leaking=sum(lane.is_leaking for lane in lanes),
        is_age=axis.is_age,
        ticks=tuple(Tick(round(at, 3), text) for at, text in axis.ticks()),
        end=_tick(timeline.scope[1], axis) if timeline.scope else None,
        exits=tuple(_mark(mark, axis) for mark in exits[:_MAX_MARKS]),
        kinds=frozenset(mark.kind for mark in marks),
        has_leases=any(lane.bars for lane in lanes),
        has_outlived=any(span.outlived_from_ns is not None for lane in lanes for span in lane.spans),
        cut=next((mark.text for mark in timeline.marks if mark.kind == "cut"), ""),
    )


def _is_visible(lane: Lane, timeline: Timeline) -> bool:
    """Whether any of it lies within the timeline: a registry that runs outside has a past before the run."""
    last_ns = max([span.end_ns for span in lane.spans] + [mark.at_ns for mark in lane.marks])
    return last_ns >= timeline.begin_ns


def _row(lane: Lane, axis: Axis) -> Row:
    boxes = [box for span in lane.spans for box in _span(span, axis)]
    boxes += [_bar(bar, axis) for bar in lane.bars]
    marks = tuple(_mark(mark, axis) for mark in lane.marks[:_MAX_MARKS])
    return Row(lane.segment, lane.label, lane.is_leaking, lane.findings[:_MAX_TAGS], tuple(boxes), marks)


def _span(span: Span, axis: Axis) -> Iterator[Box]:
    until = "the end" if span.is_open else axis.format(span.end_ns)
    lasted = f"{axis.format(span.begin_ns)} to {until}"
    suffix = " open" if span.is_open else ""
    if span.outlived_from_ns is None:
        yield _box(f"life{suffix}", span.begin_ns, span.end_ns, lasted, axis)
    else:
        since = f"since {axis.format(span.outlived_from_ns)}"
        yield _box("life", span.begin_ns, span.outlived_from_ns, lasted, axis)
        yield _box(f"outlived{suffix}", span.outlived_from_ns, span.end_ns, since, axis)


def _bar(bar: Bar, axis: Axis) -> Box:
    who = f"pid {bar.pid}" if bar.pid is not None else "a process"
    kind = "writing" if bar.kind == "grant" else "reading"
    until = "still held" if bar.is_open else f"until {axis.format(bar.end_ns)}"
    where = f", taken at {bar.text}" if bar.text else ""
    title = f"{kind} lease of {who} from {axis.format(bar.begin_ns)}, {until}{where}"
    return _box(f"lease {bar.kind}", bar.begin_ns, bar.end_ns, title, axis)


def _box(kind: str, begin_ns: int, end_ns: int, title: str, axis: Axis) -> Box:
    left = axis.position(begin_ns)
    return Box(kind, round(left, 3), round(axis.position(end_ns) - left, 3), title)


def _mark(mark: Mark, axis: Axis) -> PlacedMark:
    who = f" by pid {mark.pid}" if mark.pid is not None else ""
    title = f"{mark.kind}{who}, {axis.format(mark.at_ns)}{f': {mark.text}' if mark.text else ''}"
    return PlacedMark(mark.kind, round(axis.position(mark.at_ns), 3), title)


def _tick(at_ns: int, axis: Axis) -> Tick:
    return Tick(round(axis.position(at_ns), 3), axis.format(at_ns))
