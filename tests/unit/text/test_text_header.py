"""A schema is fitted to the beginning of a file, or the error says what the file has instead."""

from __future__ import annotations

import gzip

import pytest

from shmlease.errors import IngestError
from shmlease.text.header import open_table
from shmlease.text.schema import Schema

DTYPE = "name:S4,n:i4"


def test_columns_are_found_by_their_names(write, read):
    schema = Schema(delimiter=",", header=True).with_dtype("b:i4,a:S2", columns=["count (mm)", "key"])
    assert read(write('key,x,"count (mm)"\nk1,9,5\n'), Schema(**{**_options(schema), "quote": '"'})).rows.tolist() == [
        (5, b"k1")
    ]


def _options(schema: Schema) -> dict:
    return {name: getattr(schema, name) for name in schema.__dataclass_fields__}


def test_a_byte_order_mark_is_no_part_of_the_first_cell(write, read):
    with_header = read(write("\ufeffname\tn\nx\t1\n"), Schema(header=True).with_dtype(DTYPE, columns=["name", "n"]))
    assert with_header.rows.tolist() == [(b"x", 1)]
    assert read(write("\ufeffx\t1\n"), Schema().with_dtype(DTYPE)).rows.tolist() == [(b"x", 1)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_prose_header_and_units_are_skipped_under_every_line_end(write, read, line_end, pack):
    lines = ["Station of X", "  where", "  name n", "  - mm", "a 1", "b 2", ""]
    schema = Schema(delimiter=None, skip_to="name", header=True, skip_after_header=1).with_dtype(DTYPE)
    found = read(write(pack(line_end.join(lines).encode())), schema)
    assert found.rows.tolist() == [(b"a", 1), (b"b", 2)]


def test_comments_before_the_header_are_skipped(write, read):
    schema = Schema(header=True, comments=("#",), skip_after_header=1).with_dtype(DTYPE)
    assert read(write("# one\n#\nname\tn\n5s\t6n\nx\t1\n# end\n"), schema).rows.tolist() == [(b"x", 1)]


def test_a_header_alone_is_a_table_of_no_rows(write, read):
    assert len(read(write("name\tn\n"), Schema(header=True).with_dtype(DTYPE)).rows) == 0


@pytest.mark.parametrize(
    ("content", "options", "columns", "message"),
    [
        ("a\tb\n1\t2\n", {"header": True}, ["a", "c"], "field 'n' is column 'c'; the header has 'a', 'b'"),
        ("a\ta\n1\t2\n", {"header": True}, ["a", 1], "the header has several of that name; use their numbers"),
        ("1\t2\n", {}, ["a", "b"], "the schema says there is no header"),
        ("1\t2\n", {}, [0, 2], "the fields reach to column 2 (from 0) and the rows have 2 cells; check the delimiter"),
        ("1,2\n", {}, None, "the fields reach to column 1 (from 0) and the rows have 1 cells; check the delimiter"),
        ("1\t2\t3\n", {}, None, "2 fields for 3 columns; say which columns the fields are (numbers from 0)"),
        (
            "a\tb\tc\n1\t2\t3\n",
            {"header": True},
            None,
            "field 'name' is column 'name'; the header has 'a', 'b', 'c'; say which columns the fields are",
        ),
        ("name\tn\n1\t2\t3\n", {"header": True}, None, "the header names 2 columns and the first row (line 2) has 3 cells"),
        ("only prose\n", {"skip_to": "yyyy"}, None, "no line begins with 'yyyy'"),
        ("one line\n", {"skip_lines": 3}, None, "the file ends at line 2, before the lines to skip"),
        (b"na\xefve\tb\n", {"header": True}, None, "line 1 is not utf-8 (byte 0xef at place 3)"),
    ],
)
def test_a_schema_that_does_not_fit_says_what_the_file_has(write, content, options, columns, message):
    path = write(content)
    with pytest.raises(IngestError) as caught:
        open_table(path, Schema(**options).with_dtype(DTYPE, columns))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_the_width_of_the_header_is_the_width_of_the_rows(write, read):
    schema = Schema(delimiter=",", header=True).with_dtype("n:i4", columns=["n"])
    found = read(write("n,x,y\n1,2,3\n4,5\n6,7,8\n"), schema)
    assert found.rows["n"].tolist() == [1, 6]
    assert found.bad[0].line == 3


def test_the_first_row_may_hold_line_ends_in_quotes(write):
    table = open_table(
        write('"a\nname",b\n1,"x\ny"\n'), Schema(delimiter=",", quote='"', header=True).with_dtype("a:i4,b:S4", [0, 1])
    )
    assert (table.names, table.data_line, table.schema.width) == (("a\nname", "b"), 3, 2)


@pytest.mark.parametrize(("header", "row"), [("n,name", "7,x"), ("name,n", "x,7"), (" extra,n , name", "y,7,x")])
def test_with_a_header_fields_are_found_by_their_names_in_any_order(write, read, header, row):
    found = read(write(f"{header}\n{row}\n"), Schema(delimiter=",", header=True).with_dtype(DTYPE))
    assert found.rows.tolist() == [(b"x", 7)]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"# one\n", b"#\n\n# two", b"name\tn\n"]
)
@pytest.mark.parametrize(
    "options", [{}, {"header": True}, {"header": True, "quote": '"'}, {"skip_lines": 2, "header": True}]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_without_rows_is_a_table_of_no_rows_whatever_is_expected_before_them(write, read, content, options, pack):
    if (b"name" in content) != (options == {"header": True}) or (b"#" in content and "skip_lines" in options):
        content = b""  # a header only where one is expected; lines to skip are no comments
    found = read(write(pack(content)), Schema(comments=("#",), **options).with_dtype(DTYPE))
    assert (len(found.rows), found.bad, found.rows.dtype.names) == (0, [], ("name", "n"))


def test_files_of_one_kind_share_one_schema_and_others_have_their_own(tmp_path):
    texts = {"a": "x\ty\n1\t2\n", "b": "x\ty\n3\t4\n", "swapped": "y\tx\n1\t2\n", "wider": "x\ty\tz\n1\t2\t3\n"}
    schema = Schema(header=True).with_dtype("x:i4,y:i4")
    found = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        found[name] = open_table(tmp_path / name, schema).schema
    assert found["a"] is found["b"]
    assert [[each.source for each in found[name].fields] for name in ("a", "swapped", "wider")] == [[0, 1], [1, 0], [0, 1]]
    assert (found["a"].width, found["wider"].width) == (2, 3)
