"""Values are those of numpy.loadtxt, bit for bit: random tables in all the spellings that people and programs use."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmlease.text import parser
from shmlease.text.parser import parse_block
from shmlease.text.schema import Schema

_DIGITS = st.text("0123456789", min_size=1, max_size=18)
_SIGN = st.sampled_from(["", "", "", "-", "+"])


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[str]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = st.one_of(st.integers(low, high), st.integers(0, 99), st.sampled_from([low, high, 0]))
    spelled = values.map(str) | st.integers(0, min(high, 999)).map("{:08d}".format)
    return spelled | st.integers(0, min(high, 10**12)).map("+{}".format)


def _decimals() -> st.SearchStrategy[str]:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return st.one_of(
        finite.map(repr),
        st.floats(-1000, 1000).map("{:.2f}".format),
        st.floats(0, 100).map("{:.15g}".format),
        finite.map("{:.17e}".format),
        st.floats(-0.5, 1024, width=32).map("{:.9g}".format),
        st.builds("{}{}.{}".format, _SIGN, _DIGITS, _DIGITS),
        st.builds("{}.{}".format, _SIGN, _DIGITS),
        st.builds("{}{}.".format, _SIGN, _DIGITS),
        st.builds("{}{}".format, _SIGN, _DIGITS),
        st.builds("{}{}e{}".format, _SIGN, _DIGITS, st.integers(-400, 400)),
        st.sampled_from(["nan", "-nan", "inf", "-inf", "Infinity", "0", "-0", "-0.0", "1e400", "4.9e-324", "0.1", "1E5"]),
    )


def _words(size: int) -> st.SearchStrategy[str]:
    letters = st.characters(
        codec="latin-1", exclude_characters="\t,\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\x00", exclude_categories=["Zs"]
    )
    return st.text(letters, min_size=1, max_size=size)


_CELLS = {
    **{f"i{size}": _integers(8 * size, signed=True) for size in (1, 2, 4, 8)},
    **{f"u{size}": _integers(8 * size, signed=False) for size in (1, 2, 4, 8)},
    **{f"f{size}": _decimals() for size in (2, 4, 8)},
    ">i4": _integers(32, signed=True),
    ">f8": _decimals(),
    "?": st.sampled_from(["0", "1"]),
    "c16": st.sampled_from(["1+2j", "(1-2j)", "3", "nan+1j"]),
    "M8[D]": st.dates().map(str),
    **{f"S{size}": _words(size) for size in (1, 3, 7, 8, 10, 17)},
    "U5": _words(5),
}


@st.composite
def _tables(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, ...]]]:
    """Types, and rows that combine a few cells of each in turn: many rows from few draws."""
    types = draw(st.lists(st.sampled_from(sorted(_CELLS)), min_size=1, max_size=4))
    columns = [draw(st.lists(_CELLS[each], min_size=1, max_size=7)) for each in types]
    pad = draw(st.sampled_from(["{}", "{}", " {}", "{}  ", "   {} "]))
    columns = [
        [pad.format(cell) for cell in cells] if each[0] in "iuf" else cells
        for each, cells in zip(types, columns, strict=True)
    ]
    count = draw(st.integers(1, 40))
    return types, list(itertools.islice(zip(*map(itertools.cycle, columns), strict=True), count))


def _same(types: list[str], text: str, delimiter: str | None) -> None:
    dtype = np.dtype([(f"f{index}", each) for index, each in enumerate(types)])
    with np.errstate(over="ignore"):
        expected = np.loadtxt(io.StringIO(text), dtype=dtype, delimiter=delimiter, comments=None, ndmin=1)
    schema = Schema(delimiter=delimiter, encoding="latin-1").with_dtype(dtype)
    parsed = parse_block(text.encode("latin-1"), schema)
    assert parsed.bad == []
    assert parsed.rows.dtype == schema.dtype
    for name in dtype.names or ():
        assert parsed.rows[name].tobytes() == expected[name].tobytes(), name


@given(_tables(), st.sampled_from(["\t", ",", None]), st.booleans())
@example((["f8"], [("123456789.1234567",)]), "\t", True)
@example((["f8", "f8"], [("9007199254740993", "9007199254740992.5")]), "\t", True)
@example((["i4", "i4"], [("-2147483648", "+2147483647")]), "\t", True)
def test_every_value_is_the_one_of_loadtxt(
    table: tuple[list[str], list[tuple[str, ...]]], delimiter: str | None, last_line_ends: bool
) -> None:
    types, rows = table
    between = " " if delimiter is None else delimiter
    _same(types, "\n".join(between.join(row) for row in rows) + "\n" * last_line_ends, delimiter)


@given(st.lists(_decimals(), min_size=1, max_size=200))
def test_a_long_column_of_mixed_decimals_is_the_one_of_loadtxt(cells: list[str]) -> None:
    _same(["f8"], "\n".join(cells), "\t")
    _same(["f4"], "\n".join(cells), "\t")


def test_every_short_decimal_is_the_one_of_loadtxt() -> None:
    cells = [f"{value / 1000:.{places}f}" for value in range(0, 100_000, 7) for places in (0, 1, 2, 3)]
    _same(["f4", "f8"], "\n".join(f"{cell}\t{cell}" for cell in cells), "\t")


def test_decimals_at_the_edge_of_exactness_are_those_of_loadtxt() -> None:
    edges = [str(2**53 + step) for step in range(-3, 4)]
    edges += [cell[:place] + "." + cell[place:] for cell in edges for place in range(17)]
    edges += ["96.48064786969077", "943.4607133838363", "91128735.31840813"]  # rounded twice, these come out wrong
    edges += [f"{10**15 + 1}", "0.000000000000001", "0.0000000000000001", ".1234567890123456", "1234567890.12345"]
    _same(["f8"], "\n".join(edges), "\t")


@pytest.mark.parametrize("stretch", [1, 17, 64, 1000])
def test_rows_do_not_depend_on_where_stretches_end(monkeypatch: pytest.MonkeyPatch, stretch: int) -> None:
    text = "".join(f"chr{n % 23}\t{n * 977}\t{n / 7:.4f}\t{'x' * (n % 9)}\n" for n in range(300))
    schema = Schema().with_dtype("chr:S8,pos:i4,value:f8,note:S9")
    whole = parse_block(text.encode(), schema)
    monkeypatch.setattr(parser, "_STRETCH", stretch)
    again = parse_block(text.encode(), schema)
    assert again.rows.tobytes() == whole.rows.tobytes()
    assert len(whole.rows) == 300


def test_negative_zero_keeps_its_sign() -> None:
    rows = parse_block(b"-0\n-0.0\n0.0\n", Schema().with_dtype("value:f8")).rows
    assert [math.copysign(1, value) for value in rows["value"]] == [-1, -1, 1]


def test_a_subarray_takes_neighbouring_columns() -> None:
    text = "1 2 3 10\n4 5 6 20\n"
    rows = parse_block(text.encode(), Schema(delimiter=None).with_dtype("pixel:3u1,label:i2")).rows
    expected = np.loadtxt(io.StringIO(text), dtype=[("pixel", "u1", 3), ("label", "i2")])
    assert rows.tobytes() == expected.tobytes()
