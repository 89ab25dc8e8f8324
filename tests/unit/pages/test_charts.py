"""Charts: round ticks from edge to edge, room for every text, and nothing that an axis cannot show."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.pages.charts import Axis, Series, chart_of
from shmlease.pages.rendering import render_chart
from shmlease.pages.scales import round_bytes, round_decimal, round_seconds
from shmlease.units import format_bytes, format_duration

BYTES = Axis(format=lambda size: format_bytes(round(size)), step=round_bytes)
TIME = Axis(format=format_duration, step=round_seconds)
LOG = Axis(log_base=10)


@pytest.mark.parametrize(
    ("axis", "most", "texts"),
    [
        (Axis(), 441, ["0", "100", "200", "300", "400", "500"]),
        (BYTES, 32 << 20, ["0 B", "8 MiB", "16 MiB", "24 MiB", "32 MiB"]),
        (BYTES, 3, ["0 B", "1 B", "2 B", "3 B"]),
        (TIME, 29.2, ["0 s", "10 s", "20 s", "30 s"]),
        (TIME, 600, ["0 s", "2 min", "4 min", "6 min", "8 min", "10 min"]),
        (TIME, 0.004, ["0 s", "1 ms", "2 ms", "3 ms", "4 ms"]),
        (LOG, 1000, ["1", "10", "100", "1000"]),
    ],
)
def test_ticks_are_round_and_the_last_is_the_end_of_the_axis(axis: Axis, most: float, texts: list[str]) -> None:
    chart = chart_of("t", axis, Axis(), [Series("s", [(1.0 if axis.log_base else 0.0, 0.0), (most, 1.0)])])
    assert [tick.text for tick in chart.x_ticks] == texts
    assert (chart.x_ticks[0].at, chart.x_ticks[-1].at) == (0, 100)


@given(st.lists(st.tuples(st.floats(1e-9, 1e12), st.floats(1e-9, 1e12)), max_size=20), st.booleans())
def test_every_point_lies_within_the_plot(points: list[tuple[float, float]], is_log: bool) -> None:
    axis = LOG if is_log else Axis()
    chart = chart_of("t", axis, axis, [Series("s", points)])
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in chart.lines[0].points)
    assert 2 <= len(chart.x_ticks) <= 13


def test_a_larger_value_is_further_right_and_higher_up() -> None:
    (line,) = chart_of("t", Axis(), Axis(), [Series("s", [(0, 0), (10, 5)])]).lines
    assert line.points == ((0, 100), (100, 0))


def test_what_a_logarithmic_axis_cannot_show_is_left_out() -> None:
    (line,) = chart_of("t", LOG, LOG, [Series("s", [(1, 10), (10, 100), (0, 5), (5, 0)])]).lines
    assert len(line.points) == 2


def test_there_is_room_for_the_longest_tick_and_the_longest_name() -> None:
    name = "takeover after SIGKILL of the registry"
    chart = chart_of("t", Axis(), Axis(format="{:,.0f} operations".format), [Series(name, [(0, 1e9)])])
    assert chart.left_px >= 7 * max(len(tick.text) for tick in chart.y_ticks)
    assert chart.legend_px >= 36 + 7 * len(name)


def test_svg_file_is_whole_and_escapes_what_it_says() -> None:
    svg = render_chart(
        chart_of("a < b", LOG, LOG, [Series("s", [(1, 10), (10, 100)]), Series("dots", [(1, 1)], is_dots=True)])
    )
    assert svg.startswith("<svg xmlns=")
    assert svg.count("<svg") == svg.count("</svg>")
    assert svg.count("<circle") == 3
    assert "a &lt; b" in svg
    assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_chart_without_points_has_axes() -> None:
    chart = chart_of("empty", TIME, LOG, [])
    assert len(chart.x_ticks) >= 2
    assert "<svg" in render_chart(chart)


@given(st.floats(1e-12, 1e15))
def test_round_numbers_are_not_below_and_not_far_above(rough: float) -> None:
    assert rough <= round_decimal(rough) <= 2.6 * rough
    assert rough <= round_seconds(rough) <= 6.1 * rough
    assert rough <= round_bytes(rough) <= max(2 * rough, 1)
    assert math.log2(round_bytes(rough)).is_integer()
