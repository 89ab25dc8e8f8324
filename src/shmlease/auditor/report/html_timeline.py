"""The timeline of the HTML report: a lane for each segment, in plain boxes that the browser stretches to any width."""

from __future__ import annotations

from html import escape
from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.axis import Axis, axis_of
from shmlease.auditor.report.lanes import Bar, Lane, Mark, Span, Timeline

__all__ = ["timeline_section"]

_MAX_LANES: Final = 400
_MAX_MARKS: Final = 60  # in one lane; a segment that is attached a thousand times is a smear anyway
_LABEL_FITS_UNTIL: Final = 80  # per cent; further right it would leave the page
# kind of a mark -> its shape, drawn in a box of 12 by 12
_SHAPES: Final = {
    "create": '<circle cx="6" cy="6" r="3.4"/>',
    "publish": '<path d="M6 1.8l4 7.4H2z"/>',
    "attach": '<path d="M6 2l4 4-4 4-4-4z"/>',
    "grant": '<path d="M6 2l4 4-4 4-4-4z"/>',
    "unlink": '<path d="M2.5 2.5l7 7m0-7l-7 7" class="line"/>',
    "reap": '<path d="M2.5 2.5l7 7m0-7l-7 7M6 .8v10.4" class="line"/>',
    "retire": '<path d="M2.5 2.5l7 7m0-7l-7 7" class="line"/>',
    "exit": '<path d="M6 .5v11M3.4 8.6L6 11.4l2.6-2.8" class="line"/>',
    "other": '<path d="M2.5 6h7" class="line"/>',
}
_LEGEND: Final = {
    "create": "created",
    "publish": "published",
    "attach": "attached",
    "unlink": "unlinked",
    "reap": "unlinked by a resource tracker",
    "exit": "process exit",
}


def timeline_section(report: Report, timeline: Timeline) -> str:
    """The section of the timeline; empty when nothing happened."""
    axis = axis_of(timeline)
    lanes = [lane for lane in timeline.lanes if lane.findings or _is_visible(lane, timeline)]
    if not lanes:
        return ""
    shown = lanes[:_MAX_LANES]
    rest = len(lanes) - len(shown)
    ticks = "".join(f'<i style="left:{at:.3f}%"><b>{escape(name)}</b></i>' for at, name in axis.ticks())
    more = f'<p class="quiet">{rest:,} more segments are not drawn.</p>' if rest > 0 else ""
    cut = next((f"<p class='quiet'>{escape(mark.text)}</p>" for mark in timeline.marks if mark.kind == "cut"), "")
    leaking = sum(lane.is_leaking for lane in lanes)
    only = (
        f'<label class="only"><input type="checkbox" id="only"> only the {leaking:,} that leaked</label>'
        if 0 < leaking < len(lanes)
        else ""
    )
    rows = "".join(_lane(report, lane, axis) for lane in shown)
    head = (
        f'<div class="lane axis"><span class="name">{"age" if axis.is_age else ""}</span>'
        f'<div class="track">{ticks}{_end(timeline, axis)}{_exits(timeline, axis)}</div></div>{_shade(timeline, axis)}'
    )
    return (
        f'<section id="timeline"><h2>Timeline <span>{len(lanes):,}</span></h2>{_sprite()}{_legend(timeline)}{only}'
        f'<div class="chart">{head}{rows}</div>{more}{cut}</section>'
    )


def _is_visible(lane: Lane, timeline: Timeline) -> bool:
    """Whether any of it lies in the picture: a registry that runs outside has a past before the run."""
    last_ns = max([span.end_ns for span in lane.spans] + [mark.at_ns for mark in lane.marks])
    return last_ns >= timeline.begin_ns


def _sprite() -> str:
    shapes = "".join(f'<symbol id="m-{kind}" viewBox="0 0 12 12">{shape}</symbol>' for kind, shape in _SHAPES.items())
    return f'<svg class="sprite" aria-hidden="true">{shapes}</svg>'


def _legend(timeline: Timeline) -> str:
    used = {mark.kind for lane in timeline.lanes for mark in lane.marks} | {mark.kind for mark in timeline.marks}
    items = [f"<li>{_icon(kind)} {text}</li>" for kind, text in _LEGEND.items() if kind in used]
    items.insert(0, '<li><i class="key life"></i> exists</li>')
    if any(lane.bars for lane in timeline.lanes):
        items[1:1] = [
            '<li><i class="key grant"></i> leased for writing</li>',
            '<li><i class="key attach"></i> leased for reading</li>',
        ]
    if any(span.outlived_from_ns is not None for lane in timeline.lanes for span in lane.spans):
        what = "outlived its scope" if timeline.scope else "left behind"
        items.append(f'<li><i class="key outlived"></i> {what}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _icon(kind: str) -> str:
    shape = kind if kind in _SHAPES else "other"
    return f'<svg class="mark {escape(shape)}" aria-hidden="true"><use href="#m-{shape}"/></svg>'


def _shade(timeline: Timeline, axis: Axis) -> str:
    """A shade over everything after the scope, with a line where it ended."""
    if timeline.scope is None:
        return ""
    left = axis.position(timeline.scope[1])
    return (
        '<div class="lane shade" aria-hidden="true"><span class="name"></span>'
        f'<div class="track"><i style="left:{left:.3f}%"></i></div></div>'
    )


def _end(timeline: Timeline, axis: Axis) -> str:
    if timeline.scope is None:
        return ""
    left = axis.position(timeline.scope[1])
    side = " before" if left > _LABEL_FITS_UNTIL else ""
    return f'<em class="end{side}" style="left:{left:.3f}%">ended {escape(axis.say(timeline.scope[1]))}</em>'


def _exits(timeline: Timeline, axis: Axis) -> str:
    exits = [mark for mark in timeline.marks if mark.kind in {"exit", "takeover"}][:_MAX_MARKS]
    return "".join(_mark(mark, axis) for mark in exits)


def _lane(report: Report, lane: Lane, axis: Axis) -> str:
    rules = "".join(
        f'<a class="tag {report.findings[position].severity.value}" href="#f{position}">'
        f"{escape(report.findings[position].definition.name)}</a>"
        for position in lane.findings[:3]
    )
    spans = "".join(_span(span, axis) for span in lane.spans)
    bars = "".join(_bar(bar, axis) for bar in lane.bars)
    marks = "".join(_mark(mark, axis) for mark in lane.marks[:_MAX_MARKS])
    state = " leaking" if lane.is_leaking else ""
    return (
        f'<div class="lane{state}"><span class="name"><code title="{escape(lane.segment)}">{escape(lane.label or lane.segment)}'
        f"</code>{rules}</span>"
        f'<div class="track">{spans}{bars}{marks}</div></div>'
    )


def _box(kind: str, begin_ns: int, end_ns: int, title: str, axis: Axis) -> str:
    left = axis.position(begin_ns)
    width = axis.position(end_ns) - left
    return f'<i class="{kind}" style="left:{left:.3f}%;width:{width:.3f}%" title="{escape(title)}"></i>'


def _span(span: Span, axis: Axis) -> str:
    lasted = f"{axis.say(span.begin_ns)} to {'the end' if span.is_open else axis.say(span.end_ns)}"
    state = "life open" if span.is_open else "life"
    if span.outlived_from_ns is None:
        return _box(state, span.begin_ns, span.end_ns, lasted, axis)
    return _box("life", span.begin_ns, span.outlived_from_ns, lasted, axis) + _box(
        f"outlived{' open' if span.is_open else ''}", span.outlived_from_ns, span.end_ns,
        f"since {axis.say(span.outlived_from_ns)}", axis,
    )  # fmt: skip


def _bar(bar: Bar, axis: Axis) -> str:
    who = f"pid {bar.pid}" if bar.pid is not None else "a process"
    kind = "writing" if bar.kind == "grant" else "reading"
    until = "held still" if bar.is_open else f"until {axis.say(bar.end_ns)}"
    title = f"{kind} lease of {who} from {axis.say(bar.begin_ns)}, {until}{f', taken at {bar.text}' if bar.text else ''}"
    return _box(f"lease {escape(bar.kind)}", bar.begin_ns, bar.end_ns, title, axis)


def _mark(mark: Mark, axis: Axis) -> str:
    who = f" by pid {mark.pid}" if mark.pid is not None else ""
    title = f"{mark.kind}{who}, {axis.say(mark.at_ns)}{f': {mark.text}' if mark.text else ''}"
    return f'<span style="left:{axis.position(mark.at_ns):.3f}%" title="{escape(title)}">{_icon(mark.kind)}</span>'
