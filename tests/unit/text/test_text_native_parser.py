"""The parser in C gives what the general one gives: the same rows, reports and notes, on good lines and on any other."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.text import native_parser
from shmlease.text.native_parser import last_row_end_native, library, max_rows_native, parse_block_native
from shmlease.text.parser import max_rows, parse_block
from shmlease.text.quoted_cells import last_row_end
from shmlease.text.schema import Schema

pytestmark = pytest.mark.skipif(library() is None, reason="lines.c was not compiled (no C compiler)")

_NUMBERS = st.one_of(
    st.integers(-300, 300).map(str),
    st.integers(-(2**64), 2**64).map(str),
    st.integers(0, 99).map("{:05d}".format),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-100, 100).map("{:.2f}".format),
    st.floats(1e-9, 1).map("{:.5e}".format),
    st.sampled_from(
        ["", " ", "+1", "-0", " 7 ", ".", "5.", ".5", "1e5", "1e", "1e+", "1e1234", "nan", "NA", "x", "1 2", "0x1"]
    ),
)
_WORDS = st.sampled_from(["chr1", "chrX", "", "chrUn_GL456239", "é", "a b", "#1", '"q"', "12"])
_LINES = st.one_of(
    st.builds("{}\t{}\t{}\t{}\t{}".format, _WORDS, _NUMBERS, _NUMBERS, _NUMBERS, _WORDS),
    st.sampled_from(["", "# comment", "too\tshort", "a\t1\t2\t3\tb\tlong", "\r"]),
)
_GOOD = st.builds("{}\t{}\t{}\t{}\t{}".format, _WORDS, st.integers(-9, 9), st.floats(0, 9), st.integers(0, 9), _WORDS)


def _compare(text: bytes, schema: Schema) -> None:
    assert max_rows_native(np.frombuffer(text, np.uint8), schema) == max_rows(text, schema)
    expected = parse_block(text, schema, first_line=10)
    found = parse_block_native(text, schema, first_line=10)
    assert found.rows.dtype == expected.rows.dtype
    for name in schema.dtype.names or ():
        assert found.rows[name].tobytes() == expected.rows[name].tobytes(), name
    assert found.bad == expected.bad
    assert found.notes == expected.notes


@pytest.mark.parametrize("dtype", ["a:S5,b:i1,c:f4,d:u2,e:S8", "a:S16,b:i8?,c:f8,d:f4,e:S1", "b:i4,c:f8"])
@given(
    st.lists(_LINES, max_size=4),
    st.lists(_GOOD, min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_both_readers_agree_on_any_lines(dtype, odd, good, line_end, ends, exact):
    lines = [*good * 30, *odd, *good * 30, *odd[:1]]
    text = (line_end.join(lines) + line_end * ends).encode()
    schema = Schema(comments=("#",), missing=("NA",), width=5, exact=exact)
    columns = [1, 2] if dtype.startswith("b") else None
    _compare(text, schema.with_dtype(dtype, columns))
    _compare(text, Schema(width=5, encoding="latin-1", short="missing", extra="ignore").with_dtype(dtype, columns))


@pytest.mark.parametrize(
    "schema",
    [
        Schema(delimiter=None).with_dtype("a:S3,b:i4"),
        Schema(line_end="cr").with_dtype("a:S3,b:i4"),
        Schema().with_dtype("a:U3,b:i4"),
        Schema().with_dtype("a:S3,b:>i4"),
        Schema(missing=("-9",)).with_dtype("a:S3,b:i4=0"),
        Schema(quote='"').with_dtype("a:S3,b:i4"),
        Schema(quote="2").with_dtype("a:S3,b:i4"),
        Schema(short="missing").with_dtype("a:S3=no,b:i4"),
    ],
)
def test_what_c_cannot_read_is_read_all_the_same(schema):
    end = "\r" if schema.line_end == "cr" else "\n"
    between = schema.delimiter or " "
    _compare(f'x{between}1{end}"y"{between}2{end}z{between}-9{end}{between}3{end}'.encode(), schema)


_QUOTED_CELLS = st.sampled_from(
    [
        '"q"',
        '""',
        '"a,b"',
        '"c\nd"',
        '"c\r\nd"',
        '"e""f"',
        '"""',
        '""""',
        '"g" ',
        '5"',
        '"1"',
        '"NA"',
        '"12"',
        "#",
        '"é""日"',
    ]
)
_QUOTED_LINES = st.one_of(
    st.builds("{},{},{}".format, _QUOTED_CELLS | _WORDS, _QUOTED_CELLS | st.sampled_from(["1", "NA", "x"]), _QUOTED_CELLS),
    st.sampled_from(["", "\r", '# "comment', '# a,"comment"', '#a,"b\nc",1', "too,short", '"t\nshort",1', 'a,1,"b",long']),
)
_REGULAR_LINES = st.sampled_from(['"a",1,x', 'b,"2","y,\n"', '"c""d",3,"é"', '"\n",4,""', "e,5,f"])


@given(
    st.lists(_QUOTED_LINES, max_size=4),
    st.lists(_REGULAR_LINES, min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(0, 100),
    st.sampled_from(["utf-8", "latin-1", "ascii"]),
)
def test_both_readers_agree_on_any_quotes(odd, good, line_end, stop, encoding):
    lines = [*good * 5, *odd, *good * 5, *odd[:1]]
    text = (line_end.join(lines) + line_end).encode()
    schema = Schema(delimiter=",", quote='"', comments=("#",), missing=("NA",), width=3, encoding=encoding)
    _compare(text, schema.with_dtype("a:S5,b:i4,c:S4"))
    _compare(text, replace(schema, comments=("##",), short="missing", extra="ignore").with_dtype("a:S5,b:f8,c:S4"))
    _compare(text.replace(b"\xa9", b"a"), schema.with_dtype("a:S9,c:S4", [0, 2]))
    schema = schema.with_dtype("a:S5,b:i4,c:S4")
    part = np.frombuffer(text, np.uint8)[: len(text) * stop // 100]
    end = last_row_end_native(part, schema)
    assert end == last_row_end(part, schema) or not odd
    assert end <= last_row_end(part, schema)


def test_quoted_cells_and_letters_beyond_ascii_take_no_python(monkeypatch):
    text = '"Köln, Nord",1,"x"\r\n東京,"22","said ""no"""\r\n"two\nlines",-3,""\r\n' * 100
    schema = Schema(delimiter=",", quote='"').with_dtype("a:S16,b:i4,c:S12")
    expected = parse_block(text.encode(), schema).rows
    monkeypatch.setattr(native_parser, "parse_block", None)
    monkeypatch.setattr(native_parser, "last_row_end", None)
    assert parse_block_native(text.encode(), schema).rows.tobytes() == expected.tobytes()
    assert expected[1].tolist() == ("東京".encode(), 22, b'said "no"')
    part = np.frombuffer(text.encode(), np.uint8)[:-6]  # within the last record
    assert last_row_end_native(part, schema) == len(text.encode()) - len(b'"two\nlines",-3,""\r\n')


@pytest.mark.parametrize("size", range(0, 140, 7))
def test_quotes_at_any_place(size):
    """Across the 64 bytes that are searched at once, and up to the very end of the text."""
    schema = Schema(delimiter=",", quote='"', width=2).with_dtype("a:S150,b:i4")
    for inner in ('""', ",", "\n", '""""', ""):
        lines = [f'"{"x" * (size + n)}{inner}{"y" * (n % 3)}",{n}\n' for n in range(20)]
        for count in range(1, 20):
            _compare("".join(lines[:count]).encode(), schema)


def test_a_quote_within_a_cell_opens_nothing_at_any_place():
    schema = Schema(delimiter=",", quote='"', width=2).with_dtype("a:S150,b:i4")
    for size in range(140):
        stray = "x" * size + '5" a,6",7'  # three cells
        _compare(f"{stray}\na,1\nb,2\nc,3\nd,4\n".encode(), schema)


_LEADS = [0x41, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
_NEXT = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0]


def test_what_is_utf8_is_what_python_decodes():
    def is_utf8(cell: bytes) -> bool:
        try:
            return cell.decode() is not None
        except UnicodeDecodeError:
            return False

    cells = [
        bytes([lead, *more]) for lead in _LEADS for count in range(4) for more in itertools.product(_NEXT, repeat=count)
    ]
    text = b"".join(b"plain\nplain\nplain\nplain\n%b\n" % cell for cell in cells)
    expected = [cell for cell in cells if is_utf8(cell)]
    assert expected
    rows = parse_block_native(text, Schema().with_dtype("a:S20")).rows["a"]
    assert rows[rows != b"plain"].tolist() == expected


def test_one_column_and_its_blank_lines():
    _compare(b"1\n\n2\r\n\r\n3\n" + b"4\n" * 100, Schema().with_dtype("a:i4"))
    _compare(b"a\n\nb\r\n\r\nc\n" + b"d\n" * 100, Schema().with_dtype("a:S2"))


def test_rows_go_into_the_callers_array_and_gaps_are_closed():
    schema = Schema().with_dtype("a:i4,b:S3")
    data = b"".join(b"%d\tx\n" % n if n % 40 else b"no\ty\n" for n in range(400))
    out = np.ones(500, schema.dtype)
    parsed = parse_block_native(data, schema, out=out)
    assert parsed.rows.base is out
    assert parsed.rows["a"].tolist() == [n for n in range(400) if n % 40]
    assert [bad.line for bad in parsed.bad] == [n + 1 for n in range(0, 400, 40)]
    assert all(data[bad.offset :].startswith(b"no") for bad in parsed.bad)


def test_subarrays_and_columns_out_of_order():
    data = b"".join(b"%d,%d,%d,%d\n" % (n, n + 1, n + 2, n + 3) for n in range(200))
    schema = Schema(delimiter=",", width=4).with_dtype("last:i2,first:2f8", [3, 0])
    _compare(data, schema)


@pytest.mark.parametrize("size", range(0, 140, 7))
def test_cells_of_any_length_at_any_place(size):
    """Across the 64 bytes that are searched at once, and up to the very end of the text."""
    schema = Schema(width=3).with_dtype("a:S150,b:f8,c:u8", [0, 1, 2])
    lines = [f"{'x' * (size + n)}\t{'1' * (n % 19)}.{n}\t{10**n}" for n in range(20)]
    for count in range(1, 20):
        _compare("".join(line + "\n" for line in lines[:count]).encode(), schema)
        _compare("".join(line + "\n" for line in ["x\t1\t1"] * 40 + lines[:count]).encode(), schema)


@pytest.mark.parametrize("delimiter", [" ", "e", ".", "-", "5", "|"])
def test_a_delimiter_may_be_part_of_numbers(delimiter):
    cells = ["ab", "12", "3.5", "-1", "1e3", ""]
    schema = Schema(delimiter=delimiter, width=3).with_dtype("a:S4,b:i4,c:f8")
    _compare(b"".join(f"{a}{delimiter}{b}{delimiter}{c}\n".encode() for a in cells for b in cells for c in cells), schema)


@pytest.mark.parametrize("dtype", ["i4", "f8"])
def test_a_cell_without_digits_is_no_number_where_the_delimiter_is_one(dtype):
    schema = Schema(delimiter="5", width=3).with_dtype(f"a:S4,b:{dtype},c:{dtype}")
    _compare(b"x5152\n" * 100 + b"x552\n" + b"x51234567852\n" * 10 + b"x552\n" + b"x515\n" + b"x5152\n" * 100, schema)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_at_the_ends_of_their_range(dtype):
    ends = np.iinfo(dtype)
    values = [end + step for end in (int(ends.min), int(ends.max)) for step in (-1, 0, 1)]
    _compare("".join(f"{value}\n" for value in [*range(100), *values]).encode(), Schema().with_dtype(f"a:{dtype}"))


_DIGITS = ["1234567890123456789012"[:count] for count in range(1, 22)]
_NUMBER_CELLS = [
    *_DIGITS,
    *(f"{digit}{'0' * zeros}" for digit in "19" for zeros in range(21)),
    *("9" * count for count in range(1, 21)),
    *(f"{'0' * zeros}{digits}" for zeros in (1, 7, 8, 15, 16) for digits in ("", "5", "12345678")),
    *(f"{digits[:place]}.{digits[place:]}" for digits in _DIGITS[:19] for place in range(len(digits) + 1)),
    *(f"{digits}{end}" for digits in _DIGITS[:18] for end in ("e3", "E-7", "e+22", "e-22", "e23", "e", ".e1", " ", "\r")),
    *("9007199254740991", "9007199254740992", "9007199254740993", "900719925474099.3", "0.9007199254740993"),
    *("0.0", "00.5", ".", "..", "1..2", "1.2.3", "12345678.1.2", "1.23456789.", "1.5e-05", "1e-300", "", " ", "e5", "nan"),
    *("--1", "+-1", "1-", "1-2", "12345678-", "123456-789", "1+2", "1,2", "1/2", "1:2", "1.2/3", "\0", "1\0", "1\0002"),
]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("exact", [False, True])
def test_numbers_of_any_form_among_others(dtype, exact):
    """Each where a number of fewer steps is expected, behind others that were not, and at both ends of the text."""
    schema = Schema(exact=exact).with_dtype(f"a:{dtype}")
    cells = [f"{sign}{cell}" for sign in ("", "-", "+", " ", "- ") for cell in _NUMBER_CELLS]
    signed = 3 if dtype.startswith("u") else -3
    _compare("".join(f"7\n42\n{signed}\n5\n{cell}\n" for cell in cells).encode(), schema)
    _compare("".join(f"7\r\n42\r\n100\r\n5\r\n{cell}\r\n" for cell in cells).encode(), schema)
    for cell in cells[:: 1 if dtype in ("i4", "f8") else 5]:
        _compare(f"{cell}\n7\n42\n100\n5\n".encode(), schema)
        _compare(f"7654321\n7654321\n42\n100\n5\n{cell}\n".encode(), schema)


@pytest.mark.parametrize("dtype", ["i8", "f8"])
@pytest.mark.parametrize("number", ["12345678", "123.5678", "123456789012", "1234567.9012", "123456789.12"])
def test_no_other_byte_passes_for_a_digit_or_a_point(dtype, number):
    schema = Schema(delimiter="\t", encoding="latin-1").with_dtype(f"a:{dtype}")
    cells = [
        number[:place].encode() + bytes([byte]) + number[place + 1 :].encode()
        for place in range(len(number))
        for byte in range(256)
        if byte not in b"\t\n"
    ]
    _compare(b"".join(b"1\n2\n3\n4\n%b\n" % cell for cell in cells), schema)
    _compare(b"".join(b"1\n2\n3\n4\n-%b\n" % cell for cell in cells[::3]), schema)


@pytest.mark.parametrize("size", [*range(1, 18), 23, 24, 25, 31, 40])
def test_strings_of_any_size_and_length(size):
    schema = Schema(delimiter=",", quote='"').with_dtype(f"a:i4,b:S{size},c:S{size}")
    cells = ["abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[:length] for length in (*range(size + 2), 50)]
    cells += [f'"{cell}"' for cell in cells] + [f'"{cell}""{cell}"' for cell in cells]
    text = "".join(
        f"1,,x\n2,x,\n3,,\n4,x,x\n5,{cell},{other}\n" for cell, other in zip(cells, reversed(cells), strict=True)
    )
    _compare(text.encode(), schema)
    _compare(text.replace("\n", "\r\n").encode(), schema)


def test_lines_with_and_without_cr_take_no_python(monkeypatch):
    text = b"".join(b"%d\ta%b\n" % (n, b"\r" * (n % 3 == 0 or 50 < n < 90)) for n in range(1000))
    schema = Schema().with_dtype("a:i4,b:S2")
    expected = parse_block(text, schema).rows
    monkeypatch.setattr(native_parser, "parse_block", None)
    assert parse_block_native(text, schema).rows.tobytes() == expected.tobytes()


@pytest.mark.parametrize("width", [1, 2, 500, 5000])
def test_more_lines_and_cells_than_are_read_at_once(width):
    """With lines in between that are empty, or a comment, or have cells of several rows."""
    line = ",".join(str(n % 1000) for n in range(width))
    odd = ["", "#" + "," * 20_000, ",".join("1" * 30_000), "\r", f"{line},1"]
    schema = Schema(delimiter=",", comments=("#",), width=width).with_dtype(
        ",".join(f"c{n}:i4" for n in range(0, width, max(width // 5, 1))), [*range(0, width, max(width // 5, 1))]
    )
    lines = [line] * (3000 if width < 100 else 40)
    for place in (0, 1, len(lines) // 2):
        lines[place:place] = odd
    _compare("".join(f"{each}\n" for each in lines).encode(), schema)
    _compare("".join(f"{each}\n" for each in [*lines[10:], *odd[2:]]).encode(), schema)
    blank = "\n" * 2000 + f"{line}\n" * 10_000 if width < 100 else ""
    _compare((blank + f"{line}\n").encode(), schema)


def test_a_line_of_too_many_cells_is_never_a_row():
    """However many of them are left when the list of ends is full."""
    schema = Schema(delimiter=",", width=2).with_dtype("b:i4", [1])
    for count in range(4100, 4300):
        _compare(f"{'1,' * count}1\n1,2\n".encode() + b"3,4\n" * 8, schema)


def test_most_bad_ends_the_reading_early():
    data = b"".join(b"%d\n" % n if n % 5 else b"no" * 100 + b"\n" for n in range(50_000))
    parsed = parse_block_native(data, Schema().with_dtype("a:i4"), most_bad=0)
    assert parsed.bad[0].line == 1
    assert len(parsed.bad) < 10_000
    assert all(n % 5 for n in parsed.rows["a"].tolist())


@pytest.mark.parametrize("words", ["as the machine has them", "of eight bytes"])
def test_no_text_makes_it_touch_memory_that_is_not_its_own(words, tmp_path):
    """Compiled anew, with every access checked; without SSE2, too, as for other processors."""
    here = Path(__file__).with_name("lines_fuzz.c")
    options = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-w"]
    options += ["-U__SSE2__"] if words == "of eight bytes" else []
    program = tmp_path / "fuzz"
    source = Path(native_parser.__file__).parent
    made = subprocess.run(["cc", *options, "-I", source, here, "-o", program], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this compiler cannot check accesses: {made.stderr[-200:]}")
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
