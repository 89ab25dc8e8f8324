"""Diagrams of states: boxes in given places, an arrow for each transition of a table; drawn as an SVG file by a template.

Boxes are placed by hand, since no layout is as clear; which arrows there are, and what they say, is the table's. What
happens in several states has a colour of its own, and is explained once, below; other arrows carry their words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Arrow", "Box", "Diagram", "diagram_of"]

Point = tuple[float, float]

_COLUMN_PX: Final = 220
_ROW_PX: Final = 105
_MARGIN_PX: Final = 100
_BOX_PX: Final = (104, 34)
_LEGEND_PX: Final = 22
# Of a sans-serif at 12 px.
_CHARACTER_PX: Final = 6.6
# Two arrows between the same two boxes go past one another by this share of their length.
_ASIDE: Final = 0.16
# What happens in as many states is drawn in a colour.
_REPEATED: Final = 3
_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73")
_PLAIN: Final = "#767676"
_STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class Box:
    """A state, around `x` and `y` in pixels."""

    name: str
    x: float
    y: float
    width: int = _BOX_PX[0]
    height: int = _BOX_PX[1]


@dataclass(frozen=True, slots=True)
class Arrow:
    """A transition: a quadratic curve; `words` is empty where the colour tells what happens."""

    start: Point
    bend: Point
    end: Point
    colour: str
    words: str
    words_at: Point

    @property
    def words_px(self) -> float:
        """The room for its words."""
        return 8 + _CHARACTER_PX * len(self.words)


@dataclass(frozen=True, slots=True)
class Diagram:
    """What the template needs."""

    title: str
    width: int
    height: int
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]
    legend: Sequence[tuple[str, str, float]]  # colour, words, y

    @property
    def colours(self) -> list[str]:
        """Every colour of an arrow, once."""
        return list(dict.fromkeys(arrow.colour for arrow in self.arrows))


def diagram_of(
    title: str,
    transitions: Iterable[tuple[str, str, str]],
    places: Mapping[str, Point],
    bends: Mapping[tuple[str, str], float],
) -> Diagram:
    """The diagram of `transitions`: from which state, what happens, to which state.

    Parameters
    ----------
    places
        Where each state is, in columns and rows; KeyError if one has no place.
    bends
        By how much of its length an arrow leaves the straight line, to its left if positive, where a box is in its way.
    """
    table = list(transitions)
    boxes = {name: Box(name, _MARGIN_PX + x * _COLUMN_PX, 30 + y * _ROW_PX) for name, (x, y) in places.items()}
    times = Counter(event for _, event, _ in table)
    colours = dict(zip((event for event, count in times.items() if count >= _REPEATED), _COLOURS, strict=False))
    pairs = {(before, after) for before, _, after in table}
    arrows = []
    for before, event, after in table:
        bend = bends.get((before, after), _ASIDE if (after, before) in pairs else 0.0)
        colour = colours.get(event, _PLAIN)
        arrows.append(_arrow(boxes[before], boxes[after], bend, colour, "" if event in colours else event))
    lowest = max(box.y for box in boxes.values()) + _BOX_PX[1]
    legend = [(colour, event, lowest + 20 + _LEGEND_PX * row) for row, (event, colour) in enumerate(colours.items())]
    width = round(max(box.x for box in boxes.values()) + _MARGIN_PX)
    return Diagram(title, width, round(lowest + 12 + _LEGEND_PX * len(legend)), list(boxes.values()), arrows, legend)


def _arrow(before: Box, after: Box, bend: float, colour: str, words: str) -> Arrow:
    """The arrow from border to border."""
    x, y = after.x - before.x, after.y - before.y
    # twice the bend, since the curve goes half-way to its control point
    control = ((before.x + after.x) / 2 + 2 * bend * y, (before.y + after.y) / 2 - 2 * bend * x)
    curve = [_on_curve((before.x, before.y), control, (after.x, after.y), step / _STEPS) for step in range(_STEPS + 1)]
    outside = [point for point in curve if not _is_in(before, point, 2) and not _is_in(after, point, 4)]
    first, last, middle = outside[0], outside[-1], outside[len(outside) // 2]
    # the curve through these three points that is nearest to the part between the boxes
    bent = (2 * middle[0] - (first[0] + last[0]) / 2, 2 * middle[1] - (first[1] + last[1]) / 2)
    return Arrow(_round(first), _round(bent), _round(last), colour, words, _round(middle))


def _on_curve(start: Point, control: Point, end: Point, t: float) -> Point:
    a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
    return a * start[0] + b * control[0] + c * end[0], a * start[1] + b * control[1] + c * end[1]


def _is_in(box: Box, point: Point, margin: float) -> bool:
    return math.fabs(point[0] - box.x) <= box.width / 2 + margin and math.fabs(point[1] - box.y) <= box.height / 2 + margin


def _round(point: Point) -> Point:
    return round(point[0], 1), round(point[1], 1)
