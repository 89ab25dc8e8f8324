"""A row that cannot be read says where it is, what was seen and what would have been right; nothing is changed or cut."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

from shmlease.errors import DTypeError, IngestError
from shmlease.text.native_parser import parse_block_native
from shmlease.text.parser import max_rows, parse_block, string_lengths
from shmlease.text.schema import Field, Schema


def _reasons(parsed):
    return [(bad.line, bad.column, bad.text, bad.reason) for bad in parsed.bad]


@pytest.mark.parametrize(
    ("dtype", "cell", "reason"),
    [
        ("v:i1", "128", "128 is outside int8, which goes from -128 to 127"),
        ("v:i1", "-129", "-129 is outside int8, which goes from -128 to 127"),
        ("v:u1", "256", "256 is outside uint8, which goes from 0 to 255"),
        ("v:u4", "-1", "-1 has a sign; uint32 has none"),
        ("v:i8", "9223372036854775808", "9223372036854775808 is outside int64"),
        ("v:i4", "1.5", "'1.5' is not an integer, a decimal number; read it as f8"),
        ("v:i4", "1e3", "'1e3' is not an integer, a decimal number; read it as f8"),
        ("v:i4", "chrX", "'chrX' is not an integer"),
        ("v:i4", "1 2", "'1 2' is not an integer"),
        ("v:i4", "1_000", "'1_000' is not an integer"),
        ("v:i4", "--1", "'--1' is not an integer"),
        ("v:i4", "", "an empty cell"),
        ("v:f8", "", "an empty cell"),
        ("v:f8", "   ", "an empty cell"),
        ("v:f8", ".", "'.' is not a number"),
        ("v:f8", "-", "'-' is not a number"),
        ("v:f8", "1.2.3", "'1.2.3' is not a number"),
        ("v:f8", "12345678.1234567.1", "'12345678.1234567.1' is not a number"),
        ("v:f8", "1.2e", "'1.2e' is not a number"),
        ("v:f8", "0x10", "'0x10' is not a number"),
        ("v:f8", "1_0", "'1_0' is not a number"),
        ("v:f8", "12:30", "'12:30' is not a number"),
        ("v:S4", "chr10", "5 bytes do not fit S4; S5 would hold them"),
        ("v:U2", "äöü", "3 characters do not fit U2; U3 would hold them"),
        ("v:M8[D]", "yesterday", "'yesterday' is not a date"),
        ("v:?", "7", "'7' is not true or false, T or F, yes or no, 1 or 0"),
    ],
)
def test_a_cell_that_cannot_be_read_says_why(parse, dtype, cell, reason):
    good = {"?": "1", "M8[D]": "2020-01-01"}.get(dtype[2:], "7")
    parsed = parse(f"{good}\tx\n{cell}\ty\n{good}\tz\n", f"{dtype},w:S1")
    (bad,) = parsed.bad
    assert bad.reason.startswith(reason)
    assert (bad.line, bad.column, bad.text, bad.row) == (2, "v", cell, f"{cell}\ty".encode())
    assert parsed.rows["w"].tolist() == [b"x", b"z"]


def test_a_short_and_a_long_row_are_bad_and_the_rest_is_kept(parse):
    parsed = parse("1\t2\n3\n4\t5\t6\n7\t8\n", "a:i4,b:i4")
    assert parsed.rows.tolist() == [(1, 2), (7, 8)]
    assert _reasons(parsed) == [
        (2, None, "3", "1 cells where 2 are expected"),
        (3, None, "4\t5\t6", "3 cells where 2 are expected"),
    ]


def test_a_short_row_and_a_long_row_do_not_make_two_right_ones(parse):
    parsed = parse("1\t2\t3\n4\t5\n6\t7\t8\t9\n", "a:i4,b:i4,c:i4")
    assert parsed.rows.tolist() == [(1, 2, 3)]
    assert [bad.line for bad in parsed.bad] == [2, 3]


def test_two_short_rows_do_not_make_one_right_one(parse):
    parsed = parse("1\t2\t3\n4\n5\t6\n", "a:i4,b:i4,c:i4")
    assert parsed.rows.tolist() == [(1, 2, 3)]
    assert [bad.line for bad in parsed.bad] == [2, 3]


def test_each_bad_row_is_reported_once_with_its_first_fault(parse):
    parsed = parse("x\ty\n1\t2\n", "a:i4,b:i4")
    assert [(bad.line, bad.column) for bad in parsed.bad] == [(1, "a")]
    assert parsed.rows.tolist() == [(1, 2)]


def test_a_report_names_line_and_field(parse):
    (bad,) = parse("1\t2\nx\t2\n", "a:i4,b:i4").bad
    assert str(bad) == "line 2, a: 'x' is not an integer"
    assert bad.below(100).line == 102
    assert pickle.loads(pickle.dumps(bad)) == bad


def test_lines_are_counted_from_the_first_line_of_the_block():
    schema = Schema().with_dtype("a:i4")
    (bad,) = parse_block(b"1\n\nx\n", schema, first_line=1000).bad
    assert (bad.line, bad.offset) == (1002, 3)


def test_an_offending_text_of_any_length_is_shown_by_its_beginning(parse):
    (bad,) = parse("x" * 1000 + "\n", "a:i4").bad
    assert bad.text == "x" * 80 + "..."
    assert len(bad.row) == 1000


def test_missing_values_become_nan_or_their_stand_in(parse):
    parsed = parse("NA\t---\tNA\n1\t2\tx\n", "a:f4,b:i4=-1,c:S2", missing=("NA", "---"))
    assert np.isnan(parsed.rows["a"][0])
    assert parsed.rows["b"].tolist() == [-1, 2]
    assert parsed.rows["c"].tolist() == [b"NA", b"x"]
    assert parsed.notes == {"missing values": 2}


@pytest.mark.parametrize("mark", ["-9900", "-9900.0", "-99e2", "-09900"])
@pytest.mark.parametrize("kind", ["f8", "f4", "i4=1", "u2=1", "i8?"])
def test_a_mark_that_is_a_number_is_missing_by_its_value(parse, mark, kind):
    cells = ["-9900", " -9900 ", "-9900.0", "-9.9E3", "-9900.00000000000000000", "9900"] + ["-9900.01"] * kind.startswith(
        "f8"
    )
    parsed = parse("\n".join(cells), f"a:{kind}", missing=(mark,))
    assert parsed.bad == []
    if kind == "i8?":
        assert parsed.rows["a_missing"].tolist() == [True] * 5 + [False]
    assert parsed.rows["a"].tolist()[5:] == [9900, -9900.01][: len(cells) - 5]
    assert parsed.notes["missing values"] == 5


def test_a_number_close_to_a_mark_is_not_missing_though_its_field_is_narrow(parse):
    rows = parse("-9999\n-9999.0001\n", "a:f4", missing=("-9999",)).rows
    assert rows["a"].tolist()[1] == -9999.0
    assert np.isnan(rows["a"][0])


def test_a_mark_is_missing_in_numbers_and_text_in_strings(parse):
    (row,) = parse("NA\tNA\t-1\t-1\n", "a:f8,b:S2,c:i4=7,d:U2", missing=("NA", "-1")).rows.tolist()
    assert row[1:] == (b"NA", 7, "-1")
    assert np.isnan(row[0])


def test_a_missing_integer_without_a_stand_in_is_bad(parse):
    (bad,) = parse("NA\n", "a:i4", missing=("NA",)).bad
    assert bad.reason == "a missing value, and i4 has none; declare a:i4? or a:i4=-1, or read it as a float"


def test_long_marks_are_compared_to_their_end(parse):
    parsed = parse("not available\nnot available!\n", "a:f8", missing=("not available",))
    assert np.isnan(parsed.rows["a"]).tolist() == [True]
    assert parsed.bad[0].text == "not available!"


def test_text_after_a_number_is_cut_off_and_counted(parse):
    parsed = parse("25.3*\n190.3#\n1\n2!\n", "a:f4", after_number="[*#]")
    assert parsed.rows["a"].tolist() == [np.float32(25.3), np.float32(190.3), 1]
    assert parsed.notes == {"'*' after a number": 1, "'#' after a number": 1}
    assert parsed.bad[0].text == "2!"


def test_comments_and_blank_lines_are_counted_and_not_rows(parse):
    parsed = parse("# one\ntrack x\n1\t2\n\n#3\t4\n5\t6\n", "a:i4,b:i4", comments=("#", "track"))
    assert parsed.rows.tolist() == [(1, 2), (5, 6)]
    assert parsed.notes == {"lines that begin with '#'": 2, "lines that begin with 'track'": 1, "blank lines": 1}


def test_a_comment_of_as_many_cells_as_a_row_is_no_row(parse):
    assert parse("1\tx\n#2\ty\n", "a:S2,b:S1", comments=("#",)).rows["a"].tolist() == [b"1"]


def test_a_comment_mark_inside_a_line_is_data(parse):
    assert parse("a#b\t1\n", "a:S3,b:i4", comments=("#",)).rows.tolist() == [(b"a#b", 1)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", ["\t", None])
def test_line_ends_never_become_part_of_a_cell(parse, line_end, delimiter):
    between = delimiter or "  "
    text = line_end.join([f"a{between}1", "", f"b{between}2", f"c{between}", f"d{between}4{line_end}"])
    parsed = parse(text, "a:S3,b:S3", delimiter=delimiter, short="missing")
    assert parsed.rows.tolist() == [(b"a", b"1"), (b"b", b"2"), (b"c", b""), (b"d", b"4")]


def test_cr_alone_ends_lines_and_a_last_lf_does_so_too(parse):
    parsed = parse("a,1\rb,x\rc,3\n", "a:S1,b:i4", delimiter=",", line_end="cr")
    assert parsed.rows.tolist() == [(b"a", 1), (b"c", 3)]
    assert parsed.bad[0].line == 2


def test_extra_cells_are_ignored_or_joined_on_request_and_counted(parse):
    ignored = parse("1,2\n3,4,5\n", "a:i4,b:i4", delimiter=",", extra="ignore")
    assert ignored.rows.tolist() == [(1, 2), (3, 4)]
    assert ignored.notes == {"rows with more than 2 cells, the rest ignored": 1}
    joined = parse("1 to  the end\n2 x\n", "a:i4,b:S20", delimiter=None, extra="join")
    assert joined.rows.tolist() == [(1, b"to  the end"), (2, b"x")]


def test_absent_cells_are_missing_on_request(parse):
    parsed = parse("1 2 3\n4\n", "a:i4,b:f4,c:S4", delimiter=None, short="missing")
    assert parsed.rows["c"].tolist() == [b"3", b""]
    assert np.isnan(parsed.rows["b"][1])


@pytest.mark.parametrize("stretch", [8, 64, 1 << 18])
def test_quotes_hide_delimiters_line_ends_and_themselves(monkeypatch, stretch):
    monkeypatch.setattr("shmlease.text.parser._STRETCH", stretch)
    text = '"a,b",1\n"two\nlines",2\n"say ""hi""",3\nplain,4\n"",5\n"x",bad\n'
    parsed = parse_block(text.encode(), Schema(delimiter=",", quote='"').with_dtype("a:S12,b:i4"))
    assert parsed.rows.tolist() == [(b"a,b", 1), (b"two\nlines", 2), (b'say "hi"', 3), (b"plain", 4), (b"", 5)]
    assert [(bad.line, bad.text) for bad in parsed.bad] == [(7, "bad")]


def test_a_quoted_number_is_a_number(parse):
    assert parse('"1","2.5"\r\n"3","4"\r\n', "a:i4,b:f8", delimiter=",", quote='"').rows.tolist() == [(1, 2.5), (3, 4)]


def test_bytes_that_are_not_the_encoding_make_a_bad_row():
    schema = Schema().with_dtype("a:S8,b:i4")
    parsed = parse_block("café\t1\n".encode() + "café\t2\n".encode("latin-1"), schema)
    assert parsed.rows.tolist() == [("café".encode(), 1)]
    assert parsed.bad[0].line == 2
    assert "0xe9" in parsed.bad[0].reason
    assert "latin-1" in parsed.bad[0].reason


def test_letters_are_decoded_into_u_fields_and_kept_as_bytes_in_s_fields():
    schema = Schema(encoding="latin-1").with_dtype("a:U4,b:S4")
    rows = parse_block("café\tcafé\nabc\td\n".encode("latin-1"), schema).rows
    assert rows.tolist() == [("café", "café".encode("latin-1")), ("abc", b"d")]


def test_rows_go_into_the_callers_array():
    schema = Schema().with_dtype("a:i4,b:S3")
    data = b"1\tx\nbad\ty\n3\tz\n"
    out = np.zeros(max_rows(data, schema), schema.dtype)
    parsed = parse_block(data, schema, out=out)
    assert parsed.rows.base is out
    assert parsed.rows.tolist() == [(1, b"x"), (3, b"z")]
    with pytest.raises(ValueError, match="room for 1 rows"):
        parse_block(data, schema, out=out[:1])
    with pytest.raises(ValueError, match="the schema makes"):
        parse_block(data, schema, out=np.zeros(3, "i4"))


def test_the_block_is_not_changed():
    data = bytearray(b'"a ""b""",1\r"c",2\r')
    before = bytes(data)
    parse_block(data, Schema(delimiter=",", quote='"', line_end="cr").with_dtype("a:S9,b:i4"))
    assert bytes(data) == before


def test_a_line_longer_than_a_stretch_is_read_whole(parse):
    long = "x" * 600_000
    assert parse(f"a\t1\n{long}\t2\n", "a:S600000,b:i4").rows["a"][1] == long.encode()


def test_an_empty_block_has_no_rows(parse):
    assert len(parse("", "a:i4").rows) == 0


def test_string_lengths_are_those_of_the_rows():
    schema = Schema(comments=("#",)).with_dtype("a:S,b:i4,c:U")
    assert string_lengths(b"# a very long comment\nabc\t1\tx\nd\t2\tyyyyy\n", schema) == {"a": 3, "c": 5}


def test_a_string_without_a_length_must_be_fitted_first(parse):
    with pytest.raises(DTypeError, match="fit_strings"):
        parse("x\n", "a:S")


def test_a_named_column_needs_a_file():
    with pytest.raises(IngestError, match="fit the schema to a file"):
        parse_block(b"1\n", Schema(fields=(Field("a", "i4", source="pos"),)))


def test_rows_say_where_they_begin(monkeypatch):
    monkeypatch.setattr("shmlease.text.parser._STRETCH", 16)
    data = b"#\n1\nx\n22\n\n333\n" * 5
    parsed = parse_block(data, Schema(comments=("#",)).with_dtype("a:i4"), with_starts=True)
    assert [data[start:].split(b"\n")[0] for start in parsed.starts] == [b"%d" % value for value in parsed.rows["a"]]
    assert len(parsed.rows) == 15


def test_a_table_of_bad_rows_is_given_up_early(monkeypatch):
    monkeypatch.setattr("shmlease.text.parser._STRETCH", 64)
    data = b"1\n" * 16 + b"x\n" * 1000
    parsed = parse_block(data, Schema().with_dtype("a:i4"), most_bad=0)
    assert parsed.bad[0].line == 17
    assert 1 <= len(parsed.bad) <= 64


@pytest.mark.parametrize(
    ("schema", "line", "limit_mib"),
    [
        (Schema().with_dtype("chr:S10,pos:i4,pct:f4,c:i4,t:i4"), "chr1\t1000000\t50.25\t3\t12\n", 8),
        (Schema(delimiter=None, short="missing").with_dtype("a:S4,b:f8,c:i4=0"), "abc  1.5e5\n", 20),
        (Schema(delimiter=",", quote='"').with_dtype("a:S4,b:f8"), '"ab",1e5\n', 20),
    ],
)
def test_the_memory_beside_the_rows_does_not_grow_with_the_block(schema, line, limit_mib):
    peaks = []
    for lines in (100_000, 400_000):
        data = line.encode() * lines
        out = np.empty(lines, schema.dtype)
        tracemalloc.start()
        assert len(parse_block(data, schema, out=out).rows) == lines
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < limit_mib << 20
    assert peaks[1] < 1.2 * peaks[0]


def test_an_empty_cell_before_a_signed_number_is_no_number(parse):
    """The byte behind an empty cell of fixed width is the sign of the next cell."""
    parsed = parse("  1    2\n      -2\n", "a:f8,b:f8", widths=(4, 4), delimiter=None)
    assert parsed.rows.tolist() == [(1.0, 2.0)]
    parsed = parse("   1  -2\n    -2.5\n    +7.5\n", "a:i4,b:f8", widths=(4, 4), delimiter=None)
    assert parsed.rows.tolist() == [(1, -2.0)]
    assert [each.reason[:13] for each in parsed.bad] == ["an empty cell"] * 2


@pytest.mark.parametrize(
    "cell", ["1e 5", "1e 05", "1e- 5", "1 e5", "1e +5", "- 1", "1. 5", "1e5 5", "+-1", "1e+-5", "e5", "1e"]
)
def test_blanks_and_signs_within_a_number_make_it_none(parse, cell):
    for dtype in ("a:f8", "a:f4"):
        assert (
            len(parse(f"{cell}\n", dtype).bad)
            == len(parse_block_native(f"{cell}\n".encode(), Schema().with_dtype(dtype)).bad)
            == 1
        )


@pytest.mark.parametrize("dtype", ["a:f8", "a:i4=0", "a:f8(percent)", "a:M8[s]", "a:U3", "a:?=0", "a:i4?"])
def test_a_column_without_a_value(parse, dtype):
    options = {"decimal": ",", "thousands": "."}
    assert len(parse("NA\nNA\n", dtype, missing=("a=NA",), **options).rows) == 2
    assert len(parse("# a\n# b\n", dtype, comments=("#",), **options).rows) == 0


@pytest.mark.parametrize("dtype", ["a:U3", "a:S3", "a:f8", "a:i4", "a:?", "a:M8[s]", "a:enum(x|y)"])
def test_bytes_of_another_encoding_are_a_malformed_line_for_each_kind_of_field(parse, dtype):
    for text in (b"\xff\xfe\xfd\xfc\n", b"\xc3\n", b"abcdef\xff\n"):
        parsed = parse(text, dtype)
        assert "is not utf-8" in parsed.bad[0].reason


@pytest.mark.parametrize(
    "options", [{"missing": ("é",)}, {"comments": ("é",)}, {"skip_to": "é"}, {"ends_at": "é"}, {"after_number": "é"}]
)
def test_what_no_file_of_the_encoding_can_have_is_refused(options):
    with pytest.raises(IngestError, match="'é' cannot be written in ascii"):
        Schema(encoding="ascii", **options)
    with pytest.raises(IngestError, match="'é' cannot be written in ascii"):
        Schema(encoding="ascii").with_dtype("a:enum(x|é)")


def test_line_ends_in_quotes_are_blanks_around_numbers_in_any_notation(parse):
    text = '"1\n"\n"2\r\n"\n"\r\n3\n"\n"4\n5"\n'
    for options in ({}, {"decimal": ","}, {"thousands": "'"}):
        parsed = parse(text, "a:f8", delimiter=";", quote='"', **options)
        assert parsed.rows["a"].tolist() == [1, 2, 3]
        assert len(parsed.bad) == 1


def test_a_comment_in_a_table_of_fixed_width_may_begin_in_any_cell(parse):
    parsed = parse("1  2\n  #no\n3  4\n", "a:i4,b:i4", widths=(2, 3), delimiter=None, comments=("#n",), extra="ignore")
    assert parsed.rows.tolist() == [(1, 2), (3, 4)]
    assert parsed.bad == []
