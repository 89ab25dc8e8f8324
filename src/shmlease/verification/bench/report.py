"""Measurements as tables and charts, for a terminal, for Markdown, and for the documentation."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shmlease.output_file import write_output
from shmlease.pages.charts import Axis, Series, bars_of, chart_of
from shmlease.pages.rendering import render_bars, render_chart
from shmlease.units import format_bytes, format_duration
from shmlease.verification.bench.handover import MEMCPY
from shmlease.verification.bench.meaning import meaning_of
from shmlease.verification.bench.timing import Figure, Measurement

__all__ = ["as_chart", "as_markdown", "as_table", "as_text", "file_name", "print_or_store"]

# Rounds that differ by more than this say that the machine has other things to do.
_MOST_NOISE: Final = 1.5
_COLUMNS: Final = 100
# what the axis of figures shows; its ticks have the unit
_AXES: Final = {"s": "wall time, median", "bytes": "memory", "1/s": "per second, all processes together, median"}


def as_text(measurement: Measurement) -> str:
    """For a terminal."""
    rows = as_table(measurement)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [measurement.name, *textwrap.wrap(measurement.quantifies, _COLUMNS)]
    lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    noise = max(figure.noise for figure in measurement.figures)
    warning = "; this machine is busy, take them with care" if noise > _MOST_NOISE else ""
    lines.append(f"medians, (ratio to {measurement.reference}); rounds differed by up to {noise:.2f}x{warning}\n")
    return "\n".join(lines)


def print_or_store(measurements: Sequence[Measurement], path: str) -> None:
    """What the scripts of benchmarks/ do with what they have measured."""
    if path:
        write_output(path, msgspec.json.format(msgspec.json.encode(measurements), indent=2))
    for measurement in measurements:
        print(as_text(measurement))


def as_table(measurement: Measurement) -> list[list[str]]:
    """Rows of words, the first of them the heading: a line for each subject, a column for each point."""
    points = measurement.points()
    rows = [["", *(_point(measurement, at) for at in points)]]
    for subject in measurement.subjects():
        rows.append([subject, *(_cell(measurement, measurement.find(subject, at), at) for at in points)])
    return rows


def as_markdown(measurement: Measurement) -> str:
    """A section: what it means for a user, what is quantified, chart, table, and machine."""
    head, *rows = as_table(measurement)
    meaning = meaning_of(measurement)
    lines = [
        f"## {measurement.name[0].upper()}{measurement.name[1:]}",
        "",
        *([f"**{meaning}**", ""] if meaning else []),
        measurement.quantifies,
        "",
        f"![{measurement.name}](benchmarks/{file_name(measurement)}.svg)",
        "",
        _line(head),
        "|---" + "|---:" * (len(head) - 1) + "|",
        *map(_line, rows),
        "",
        f"Medians; in brackets the ratio to {measurement.reference}. Rounds of one method differed by up to "
        f"{max(figure.noise for figure in measurement.figures):.2f}x. "
        + ", ".join(f"{key} {value}" for key, value in measurement.machine.items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def as_chart(measurement: Measurement) -> str:
    """An SVG: lines with logarithmic axes, or bars where there is one point only."""
    label = f"{_AXES.get(measurement.unit, measurement.unit)}; {_shortly(measurement.machine)}"
    if len(measurement.points()) == 1:
        (at,) = measurement.points()
        rows = [(figure.subject, figure.p50, _cell(measurement, figure, at)) for figure in measurement.figures]
        return render_bars(bars_of(f"{measurement.name}, {_point(measurement, at)}", label, rows))
    series = [
        Series(
            subject,
            [(figure.at, figure.p50) for figure in measurement.figures if figure.subject == subject],
            is_reference=subject == MEMCPY,
        )
        for subject in measurement.subjects()
    ]
    along = format_bytes if measurement.along == "bytes" else "{:,}".format
    base = 16.0 if measurement.along == "bytes" else 10.0  # 256 B, 4 KiB, 64 KiB, 1 MiB
    x_label = "size" if measurement.along == "bytes" else measurement.along
    x = Axis(x_label, lambda at: along(round(at)), log_base=base)
    y = Axis(label, lambda value: _value(measurement, value), log_base=10)
    return render_chart(chart_of(measurement.name, x, y, series))


def file_name(measurement: Measurement) -> str:
    """For its files."""
    return re.sub(r"\W+", "-", measurement.name)


def _cell(measurement: Measurement, figure: Figure | None, at: float) -> str:
    if figure is None:
        return "-"
    reference = measurement.find(measurement.reference, at)
    ratio = f" ({figure.p50 / reference.p50:.2f}x)" if reference is not None and reference is not figure else ""
    return _value(measurement, figure.p50) + ratio


def _value(measurement: Measurement, value: float) -> str:
    match measurement.unit:
        case "s":
            return format_duration(value)
        case "bytes":
            return format_bytes(round(value))
        case _:
            return f"{value:,.0f}/s"


def _point(measurement: Measurement, at: float) -> str:
    return format_bytes(round(at)) if measurement.along == "bytes" else f"{at:,.0f} {measurement.along}"


def _shortly(machine: Mapping[str, str]) -> str:
    """The machine and its load, in the width of a chart."""
    names = [name for name in ("processors", "memory", "python", "load") if name in machine]
    return ", ".join(f"{name} {machine[name]}" for name in names)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
