"""Times, truth values, labels and other notations of numbers: the value that stands there, or a reason; never another."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.text.parser import parse_block
from shmlease.text.schema import Schema

TAB = Schema()


def _values(dtype, *cells, **options):
    parsed = parse_block("\n".join(cells).encode(), Schema(width=1, **options).with_dtype(f"v:{dtype}"))
    assert parsed.bad == []
    return parsed.rows["v"].tolist()


def _reason(dtype, cell, **options):
    (bad,) = parse_block(f"{cell}\n".encode(), Schema(width=1, **options).with_dtype(f"v:{dtype}")).bad
    assert bad.text == cell
    return bad.reason


@pytest.mark.parametrize(
    ("dtype", "cells"),
    [
        ("M8[ns]", ["2024-03-05T14:30:00.722558441Z", "1969-12-31 23:59:59.5", "2024-03-05", "1677-09-22T00:12:44"]),
        ("M8[D]", ["0001-01-01", "9999-12-31", "2024-02-29", "1900-02-28", "2000-02-29T00:00:00"]),
        ("M8[s]", ["2024-03-05T14:30", "2024-03-05T14:30:59", "2024-03-05T14:30:00.000"]),
        ("M8[M]", ["2024-03", "1969-12", "2024-03-01"]),
        ("M8[Y]", ["2024", "1969", "2024-01-01"]),
        ("M8[W]", ["1970-01-01", "2024-03-07"]),
        ("M8[h]", ["2024-03-05T14:00"]),
    ],
)
def test_iso_times_are_those_of_numpy(dtype, cells):
    expected = [np.datetime64(cell.removesuffix("Z")).astype(dtype) for cell in cells]
    assert _values(dtype, *cells, *cells[::-1]) == np.array([*expected, *expected[::-1]]).astype(np.int64).tolist()


@given(
    st.lists(st.datetimes(), min_size=1, max_size=8),
    st.sampled_from(
        ["%Y-%m-%dT%H:%M:%S.%f", "%d.%m.%Y %H:%M:%S.%f", "%j %Y %H%M%S %f", "%b %d %Y %I:%M:%S.%f %p", "%S%M%H%d%m%Y%f"]
    ),
)
def test_formats_are_those_of_strftime(times, format):
    cells = [time.strftime(format.replace("%Y", f"{time.year:04}")) for time in times]
    zero = datetime.datetime(1970, 1, 1)
    expected = [(time - zero) // datetime.timedelta(microseconds=1) for time in times]
    assert _values("M8[us]" if format.startswith("%Y") else f"M8[us]({format})", *cells) == expected


@pytest.mark.parametrize(
    ("dtype", "cell", "value"),
    [
        ("M8[D](%d:%m:%Y)", "01:02:2020", 18293),
        ("M8[D](%d.%m.%Y)", "1.2.2020", 18293),
        ("M8[D](%d%b%y)", "01FEB20", 18293),
        ("M8[D](%B %d, %Y)", "February 1, 2020", 18293),
        ("M8[m](%Y-%m-%d %H:%M %z)", "1970-01-01 00:00 +01:30", -90),
        ("M8[s](epoch)", "1709649000", 1709649000),
        ("M8[s](epoch ms)", "1709649000000", 1709649000),
        ("M8[ms](epoch s)", "1709649000.123", 1709649000123),
        ("M8[ns](epoch us)", "-1.5", -1500),
        ("M8[ms]", "NaT", -(2**63)),
        ("m8[s]", "90", 90),
        ("m8[ms]", "-0:01:30.250", -90250),
        ("m8[h]", "2 days, 3:00:00", 51),
        ("m8[s]", "100:00", 360000),
    ],
)
def test_times_in_other_forms(dtype, cell, value):
    assert _values(dtype, cell, cell) == [value, value]


@pytest.mark.parametrize(
    ("dtype", "cell", "reason"),
    [
        ("M8[D]", "2023-02-29", "'2023-02-29' is no day of the calendar"),
        ("M8[D]", "2023-13-01", "is no day of the calendar"),
        ("M8[s]", "2023-01-01T24:00:00", "is no time of the day"),
        ("M8[s]", "2023-01-01T23:59:60", "is no time of the day"),
        ("M8[s]", "2023-01-01T00:00:00.5", "is no whole number of the unit of M8[s]; use a finer one"),
        ("M8[D]", "2023-01-01T00:00:01", "use a finer one"),
        ("M8[ns]", "2023-01-01T00:00:00.0000000001", "use a finer one"),
        ("M8[ns]", "2300-01-01", "is beyond what M8[ns] holds; use a coarser unit"),
        ("M8[ns](epoch s)", "99999999999", "is beyond what M8[ns] holds"),
        ("M8[s](epoch ms)", "1709649000001", "use a finer one"),
        ("M8[s](epoch)", "1e999", "is beyond what a time can be"),
        ("M8[D]", "20230101", "is not a date of the form 2024-03-05T14:30:00"),
        ("M8[D](%d.%m.%Y)", "2020-01-01", "is not a date of the form %d.%m.%Y"),
        ("M8[D](%j %Y)", "366 2023", "is no day of the calendar"),
        ("M8[D](%d %b %Y)", "1 Foo 2023", "is no day of the calendar"),
        ("m8[s]", "1:60:00", "has more than 59 minutes"),
        ("m8[s]", "soon", "is not a number of s"),
        ("f8(percent)", "0.5", "'0.5' is no number written as declared (percent)"),
        ("i4(hex)", "0xG", "'0xG' is not a hexadecimal number"),
        ("u1(hex)", "100", "100 is outside uint8"),
        ("enum(F|M)", "X", "'X' is not one of F, M"),
        ("enum(F|M)", "f", "'f' is not one of F, M"),
        ("?", "maybe", "'maybe' is not true or false"),
        ("?", "2", "'2' is not true or false"),
    ],
)
def test_what_is_no_value_says_why(dtype, cell, reason):
    assert reason in _reason(dtype, cell)


def test_times_that_look_alike_and_others_stand_side_by_side():
    cells = ["2020-01-01", "2020-01-02", "2020/01/03", "2020-01-0x", "2020-01-04T00:00:00Z", "2020-01-05T00:00:00+01:00"]
    parsed = parse_block("\n".join(cells).encode(), Schema(width=1).with_dtype("v:M8[h]"))
    assert [bad.text for bad in parsed.bad] == ["2020/01/03", "2020-01-0x"]
    assert parsed.rows["v"].tolist() == [24 * day for day in (18262, 18263, 18265)] + [24 * 18266 - 1]


@pytest.mark.parametrize(
    ("dtype", "cells", "values"),
    [
        ("?", ["true", "FALSE", "T", "f", "Yes", "no", "y", "N", "1", "0", " true "], [True, False] * 5 + [True]),
        ("enum(F|M|not known)", ["M", "F", "not known", " F "], [1, 0, 2, 0]),
        ("i4(hex)", ["0x1F", "ff", "-0xA", "00"], [31, 255, -10, 0]),
        ("f8(percent)", ["0.5%", "-3 %", "1e2%"], [0.5, -3.0, 100.0]),
        ("f8", ["1D+03", "-1.5d-10", "2.D0", "1E2"], [1000.0, -1.5e-10, 2.0, 100.0]),
    ],
)
def test_notations(dtype, cells, values):
    assert _values(dtype, *cells) == values


@pytest.mark.parametrize(("decimal", "thousands"), [(",", "."), (",", " "), (".", ","), (",", ""), (".", "'")])
def test_numbers_of_other_countries(decimal, thousands):
    options = {"decimal": decimal, "thousands": thousands}
    plain = ["1234.5", "-0.25", "1234567", "12", ".5", "1e3", "-1234567.875"]
    local = [f"{float(each):,.3f}".replace(",", "t").replace(".", decimal).replace("t", thousands) for each in plain]
    assert _values("f8", *local, **options) == [float(each) for each in plain]
    integers = [f"{n:,}".replace(",", thousands) for n in (1, 1234, -1234567, 999)]
    assert _values("i4", *integers, **options) == [1, 1234, -1234567, 999]


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("1.5", {"decimal": ","}),
        ("1.23", {"decimal": ",", "thousands": "."}),
        ("1.2345", {"decimal": ",", "thousands": "."}),
        ("1.234.5", {"decimal": ",", "thousands": "."}),
        ("1234.567.890", {"decimal": ",", "thousands": "."}),
        ("1,2,3", {"thousands": ","}),
        ("1,5", {"thousands": ","}),
        ("0,1234", {"thousands": ","}),
    ],
)
def test_a_number_of_another_country_is_no_number(cell, options):
    assert "is no number written as declared" in _reason("f8", cell, **options) or "is not a number" in _reason(
        "f8", cell, **options
    )


def test_missing_values_have_a_mask_beside_them():
    schema = Schema(missing=("NA", "")).with_dtype("a:i8?,b:??,c:enum(x|y)?=y,d:M8[D],e:m8[s],f:?=no")
    parsed = parse_block(b"9007199254740993\tT\tx\t2020-01-01\t5\t1\nNA\t\tNA\tNA\tNA\tNA\n", schema)
    assert parsed.bad == []
    assert parsed.rows.dtype.names == ("a", "a_missing", "b", "b_missing", "c", "c_missing", "d", "e", "f")
    first, second = parsed.rows.tolist()
    assert first == (2**53 + 1, False, True, False, 0, False, 18262, 5, True)
    assert second == (0, True, False, True, 1, True, -(2**63), -(2**63), False)


@pytest.mark.parametrize(
    ("dtype", "cell", "reason"),
    [
        ("i4", "01234", "'01234' would lose its leading 0; declare v:S5"),
        ("i4", "-01", "'-01' would lose its leading 0"),
        ("f8", "007.5", "'007.5' would lose its leading 0"),
        ("f8", "9007199254740993", "9007199254740993 would become 9007199254740992; declare v:i8?"),
    ],
)
def test_exact_refuses_numbers_that_would_change(dtype, cell, reason):
    assert reason in _reason(dtype, cell, exact=True)
    assert _values(dtype, cell) == [float(cell)]


def test_exact_takes_numbers_that_do_not_change():
    assert _values("f8", "0", "0.5", "-0.5", "9007199254740994", "1e300", "0.1", exact=True) == [
        0,
        0.5,
        -0.5,
        2**53 + 2,
        1e300,
        0.1,
    ]
    assert _values("i4", "0", "-0", "10", exact=True) == [0, 0, 10]


def test_cells_of_fixed_width():
    schema = Schema(widths=(3, 4, 2)).with_dtype("a:S3,b:i4,c:S2")
    parsed = parse_block("ab   12xy\r\n  c-123\n\nd\nabc 12345\nabc1234xyz\né    1\n".encode(), schema)
    assert parsed.rows.tolist() == [(b"ab", 12, b"xy"), (b"c", -123, b""), (b"abc", 123, b"45")]
    assert [(bad.line, bad.reason[:20]) for bad in parsed.bad] == [
        (4, "an empty cell; if th"),
        (6, "text behind the 9 by"),
        (7, "letters beyond ASCII"),
    ]
