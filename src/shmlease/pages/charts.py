"""Line charts and bars: where everything lies, computed here; drawn by a template, in a page or as an SVG file of its own.

Positions are percentages of the plot, so that a browser can stretch it to any width without stretching the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shmlease.pages.scales import round_decimal

__all__ = ["Axis", "Bar", "Bars", "Chart", "Line", "Series", "Tick", "bars_of", "chart_of"]

_TICKS: Final = 5
# A line of few points shows them.
_MOST_DOTS_ON_A_LINE: Final = 16
# Okabe and Ito's colours, which people with any colour vision can tell apart (https://jfly.uni-koeln.de/color/).
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A900")
# Of a sans-serif at 12 px; the widest that systems have, so that nothing is cut off.
_CHARACTER_PX: Final = 7.4


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis and how its ticks are written.

    Parameters
    ----------
    label : str
        What it shows, with the unit unless the ticks have it.
    format : callable
        Writes a tick.
    step : callable
        The round distance between two ticks that is not below the one given; for a linear axis.
    log_base : float, optional
        Makes the axis logarithmic, with ticks at powers of this.
    """

    label: str = ""
    format: Callable[[float], str] = "{:g}".format
    step: Callable[[float], float] = round_decimal
    log_base: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or with `is_dots` one set of dots; `is_reference` draws it dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    is_dots: bool = False
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick: where it is, in percent of the axis, and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A series as it is drawn: a line through `points` (in percent, from the top left), and `dots`."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    dots: tuple[tuple[float, float], ...]
    is_reference: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """What a template needs to draw a chart."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]

    @property
    def left_px(self) -> int:
        """The room for the ticks beside the plot."""
        return 10 + _width_px(tick.text for tick in self.y_ticks)

    @property
    def right_px(self) -> int:
        """The room for the half of the last tick that lies beyond the plot."""
        return 8 + _width_px(tick.text for tick in self.x_ticks[-1:]) // 2

    @property
    def legend_px(self) -> int:
        """The room for a legend beside the plot."""
        return 42 + _width_px(line.name for line in self.lines)


def chart_of(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Chart:
    """The chart of `series`; points that a logarithmic axis cannot show are left out."""
    shown = [[(a, b) for a, b in one.points if _has(x, a) and _has(y, b)] for one in series]
    across = _Scale(x, [a for points in shown for a, _ in points])
    up = _Scale(y, [b for points in shown for _, b in points])
    lines = []
    for number, (one, points) in enumerate(zip(series, shown, strict=True)):
        placed = tuple((across.position(a), round(100 - up.position(b), 2)) for a, b in points)
        has_dots = one.is_dots or len(placed) <= _MOST_DOTS_ON_A_LINE
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(Line(one.name, colour, () if one.is_dots else placed, placed if has_dots else (), one.is_reference))
    y_ticks = tuple(Tick(round(100 - tick.at, 2), tick.text) for tick in up.ticks())
    return Chart(title, x.label, y.label, tuple(across.ticks()), y_ticks, tuple(lines))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, its length in percent of the longest, and the text behind it."""

    name: str
    percent: float
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Bars:
    """What a template needs to draw bars, one below the other."""

    title: str
    label: str
    bars: tuple[Bar, ...]

    @property
    def left_px(self) -> int:
        """The room for the names."""
        return 14 + _width_px(bar.name for bar in self.bars)

    @property
    def right_px(self) -> int:
        """The room for the text behind the longest bar."""
        return 14 + _width_px(bar.text for bar in self.bars)


def bars_of(title: str, label: str, rows: Sequence[tuple[str, float, str]]) -> Bars:
    """Bars from 0 on for `rows`: a name, a value, and the value as text."""
    most = max((value for _, value, _ in rows), default=0) or 1
    bars = [
        Bar(name, round(100 * value / most, 2), text, _COLOURS[number % len(_COLOURS)])
        for number, (name, value, text) in enumerate(rows)
    ]
    return Bars(title, label, tuple(bars))


class _Scale:
    """From values to percentages; it begins and ends at a tick."""

    def __init__(self, axis: Axis, values: Sequence[float]) -> None:
        self._axis = axis
        if axis.log_base is not None:
            low, high = (min(values), max(values)) if values else (1.0, axis.log_base)
            first = math.floor(math.log(low, axis.log_base) + 1e-9)
            last = max(math.ceil(math.log(high, axis.log_base) - 1e-9), first + 1)
            step = max((last - first) // _TICKS, 1)
            self._values = [axis.log_base**power for power in range(first, last + 1, step)]
            self._low, self._high = axis.log_base**first, axis.log_base**last
        else:
            low, high = min([0.0, *values]), max([0.0, *values]) or 1.0
            distance = axis.step((high - low) / _TICKS)
            first, last = math.floor(low / distance + 1e-9), math.ceil(high / distance - 1e-9)
            self._values = [distance * number for number in range(first, last + 1)]
            self._low, self._high = self._values[0], self._values[-1]

    def position(self, value: float) -> float:
        if self._axis.log_base is not None:
            share = math.log(value / self._low) / math.log(self._high / self._low)
        else:
            share = (value - self._low) / (self._high - self._low)
        return round(100 * share, 2)

    def ticks(self) -> Iterable[Tick]:
        return (Tick(self.position(value), self._axis.format(value)) for value in self._values)


def _has(axis: Axis, value: float) -> bool:
    return axis.log_base is None or value > 0


def _width_px(texts: Iterable[str]) -> int:
    return math.ceil(_CHARACTER_PX * max(map(len, texts), default=0))
