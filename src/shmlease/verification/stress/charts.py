"""Line charts as inline SVG: no scripts, no network, legible on light and dark ground."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["Axis", "Series", "chart"]

_WIDTH: Final = 720
_HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 190, 34, 46
# Okabe and Ito's colours, which people with any colour vision can tell apart (https://jfly.uni-koeln.de/color/).
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A900")
_TICKS: Final = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """`label` with its unit; `words` writes a tick; the ticks of a logarithmic one are powers of `base`."""

    label: str
    is_log: bool = False
    words: Callable[[float], str] = "{:g}".format
    base: float = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """One line, or with `is_dots` one set of dots; `is_reference` draws it dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    is_dots: bool = False
    is_reference: bool = False


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """An SVG element that shows `series`; points that a logarithmic axis cannot show are left out."""
    shown = [
        dataclasses.replace(
            one, points=[(a, b) for a, b in one.points if (a > 0 or not x.is_log) and (b > 0 or not y.is_log)]
        )
        for one in series
    ]
    points = [point for one in shown for point in one.points]
    x_low, x_high = _range([a for a, _ in points], x)
    y_low, y_high = _range([b for _, b in points], y)

    def place(a: float, b: float) -> tuple[float, float]:
        across = _share(a, x_low, x_high, x) * (_WIDTH - _LEFT - _RIGHT)
        up = _share(b, y_low, y_high, y) * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _HEIGHT - _BOTTOM - up

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}" font-family="sans-serif" font-size="12" fill="#767676">',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{html.escape(title)}</text>',
    ]
    for tick in _ticks(x_low, x_high, x):
        across, bottom = place(tick, y_low)
        parts.append(f'<line x1="{across:.1f}" y1="{_TOP}" x2="{across:.1f}" y2="{bottom:.1f}" stroke="#76767640"/>')
        parts.append(_text(across, bottom + 16, x.words(tick), "middle"))
    for tick in _ticks(y_low, y_high, y):
        left, up = place(x_low, tick)
        parts.append(f'<line x1="{left:.1f}" y1="{up:.1f}" x2="{_WIDTH - _RIGHT}" y2="{up:.1f}" stroke="#76767640"/>')
        parts.append(_text(left - 6, up + 4, y.words(tick), "end"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x.label, "middle"))
    parts.append(_text(_LEFT - 60, _TOP - 4, y.label, "start"))
    for index, one in enumerate(shown):
        parts += _drawn(one, _COLOURS[index % len(_COLOURS)], index, place)
    return "\n".join([*parts, "</svg>"])


def _drawn(one: Series, colour: str, index: int, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    dash = ' stroke-dasharray="5 4"' if one.is_reference else ""
    placed = [place(a, b) for a, b in one.points]
    parts = []
    if not one.is_dots:
        line = " ".join(f"{across:.1f},{up:.1f}" for across, up in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
    if one.is_dots or len(placed) <= 16:
        parts += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="2.6" fill="{colour}"/>' for across, up in placed]
    top, left = _TOP + 10 + 18 * index, _WIDTH - _RIGHT + 14
    parts.append(f'<line x1="{left}" y1="{top}" x2="{left + 18}" y2="{top}" stroke="{colour}" stroke-width="2.5"{dash}/>')
    return [*parts, _text(left + 24, top + 4, one.name, "start")]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _range(values: list[float], axis: Axis) -> tuple[float, float]:
    if not values:
        return (1.0, 10.0) if axis.is_log else (0.0, 1.0)
    low, high = min(values), max(values)
    if axis.is_log:
        return axis.base ** math.floor(math.log(low, axis.base)), axis.base ** math.ceil(math.log(high, axis.base) + 1e-9)
    return min(low, 0.0), high * 1.05 or 1.0


def _share(value: float, low: float, high: float, axis: Axis) -> float:
    if axis.is_log:
        return (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return (value - low) / (high - low)


def _ticks(low: float, high: float, axis: Axis) -> list[float]:
    if axis.is_log:
        first, last = round(math.log(low, axis.base)), round(math.log(high, axis.base))
        return [axis.base**power for power in range(first, last + 1, max((last - first) // _TICKS, 1))]
    rough = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
