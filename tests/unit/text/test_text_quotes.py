"""Quotes mean the same to every parser, however the text is cut, and a stray one costs the line that it is in."""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rig.reading import read_table
from shmlease.errors import IngestError
from shmlease.text import parser, quoted_cells, records
from shmlease.text.header import open_table
from shmlease.text.native_parser import parse_block_native
from shmlease.text.parser import parse_block
from shmlease.text.schema import Schema

_COMMA = Schema(delimiter=",", quote='"', comments=("#",))
_LIMIT = 12  # in place of 1 MiB, so that short texts have cells that go on for too long


def _cells_of(text: str, at: int) -> tuple[list[str] | None, int]:
    """A slow, obvious reader: the cells of the record at `at` and where the next begins; None for a malformed one."""
    cells = []
    while True:
        cell = ""
        if text[at : at + 1] == '"':
            begin, at = at, at + 1
            while text[at : at + 1] != '"' or text[at : at + 2] == '""':
                if at >= len(text):
                    return None, at
                cell += text[at]
                at += 2 if text[at : at + 2] == '""' else 1
            if at - begin > _LIMIT:
                return None, at
            at += 1
            if text[at : at + 1] not in ("", ",", "\n") and text[at : at + 2] != "\r\n":
                return None, at
        while at < len(text) and text[at] not in ",\n":
            cell += text[at]
            at += 1
        if at >= len(text) or text[at] == "\n":
            return [*cells, cell.removesuffix("\r")] if text[at - 1] == "\r" else [*cells, cell], at + 1
        cells.append(cell)
        at += 1


def _read_slowly(text: str, width: int, *, tolerant: bool) -> tuple[list[list[str]], list[int]]:
    """The rows of a text, and the numbers of its malformed lines."""
    rows, bad, at = [], [], 0
    text += "\n" * (text[-1:] not in ("", "\n"))
    while at < len(text):
        first_line = text[at:].split("\n")[0]
        if first_line in ("", "\r") or first_line.startswith("#"):
            at += len(first_line) + 1
            continue
        cells, end = _cells_of(text, at)
        if cells is not None and (len(cells) == width or tolerant):
            rows.append((cells + [""] * width)[:width])
        else:
            bad.append(1 + text[:at].count("\n"))
            end = at + len(first_line) + 1
        at = end
    return rows, bad


def _outcome(parsed) -> tuple[list[list[str]], list[int]]:
    return [[cell.decode() for cell in row] for row in parsed.rows.tolist()], [bad.line for bad in parsed.bad]


@contextmanager
def _small_limits(stretch: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser, "_STRETCH", stretch)
        patch.setattr(records, "LONGEST_QUOTED_BYTES", _LIMIT)
        patch.setattr(quoted_cells, "LONGEST_QUOTED_BYTES", _LIMIT)
        yield


_ANY_TEXT = st.lists(
    st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", "a", "bc", "#", '","', '"\n"', '"a\n']), max_size=30
)
_CELLS = st.sampled_from(["x", '5" y', '"q"', '"a,b"', '"c\nd"', '"e""f"', '""', "", '"g""', 'h"', '"i', '"j" k'])
_TABLES = st.lists(st.builds("{},{}\n".format, _CELLS, _CELLS), max_size=12)


@given(_ANY_TEXT | _TABLES, st.integers(1, 3), st.sampled_from([1, 7, 20, 1 << 19]), st.booleans())
@example(['"x,1\n', '"y"\n', "z,2\n"], 2, 1, False)
@example(['#"a,1\n', 'b","2\n'], 2, 1, False)
@example(['"', "a" * 11, '",1\n', '"', "a" * 12, '",2\n'], 2, 1, False)
@example(['1,"a"\r\n', '2,"b\r\n"\r\n', '3,"c"\r'], 2, 7, False)
def test_every_parser_finds_the_rows_and_malformed_lines_that_a_slow_reader_finds(parts, width, stretch, tolerant):
    text = "".join(parts)
    how = {"short": "missing", "extra": "ignore"} if tolerant else {}
    schema = replace(_COMMA, width=width, **how).with_dtype(",".join(f"f{n}:S40" for n in range(width)))
    with _small_limits(stretch):
        expected = _read_slowly(text, width, tolerant=tolerant)
        assert _outcome(parse_block(text.encode(), schema)) == expected
        assert _outcome(parse_block_native(text.encode(), schema)) == expected


@given(_ANY_TEXT | _TABLES, st.integers(2, 40), st.booleans())
def test_blocks_end_behind_records_so_that_a_file_is_read_as_its_text(tmp_path_factory, parts, block_bytes, packed):
    text = "a,b\n" + "".join(parts)
    path = tmp_path_factory.getbasetemp() / "quotes.csv"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    schema = replace(_COMMA, header=True, width=2).with_dtype("a:S40,b:S40")
    rows, bad = _read_slowly(text[4:], 2, tolerant=False)
    with _small_limits(1 << 19):
        assert _outcome(read_table(path, schema, block_bytes=block_bytes)) == (rows, [line + 1 for line in bad])


@given(st.lists(st.lists(st.text('abc"\n\r,é', max_size=6), min_size=2, max_size=2), min_size=1, max_size=20))
def test_what_the_csv_module_writes_is_read_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    read = read_table(path, replace(_COMMA, comments=(), header=True).with_dtype("a:S40,b:S40"), block_bytes=50)
    assert _outcome(read) == (rows, [])


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_in_quotes_belong_to_their_cell_under_every_line_end(write, read, line_end):
    path = write(line_end.join(['"x', 'y",n', '"a', 'b",1', '"c",2', "d,3", ""]))
    schema = Schema(delimiter=",", quote='"', header=True).with_dtype("a:S8,n:i4", [0, 1])
    table = open_table(path, schema)
    assert (table.names, table.data_line) == ((f"x{line_end}y", "n"), 3)
    inside = line_end.replace("\r", "\n") if line_end == "\r" else line_end
    assert read(path, schema).rows.tolist() == [(f"a{inside}b".encode(), 1), (b"c", 2), (b"d", 3)]


@pytest.mark.parametrize(
    ("row", "cell"), [('5" nail,1', b'5" nail'), ('a"b"c,1', b'a"b"c'), ('"5"" nail",1', b'5" nail'), ('a"",1', b'a""')]
)
def test_a_quote_inside_a_cell_is_a_character(parse, row, cell):
    parsed = parse(f'ok,1\n{row}\n"q",2\n', "a:S8,b:i4", delimiter=",", quote='"')
    assert parsed.bad == []
    assert parsed.rows.tolist() == [(b"ok", 1), (cell, 1), (b"q", 2)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('"a"b,1', 'text follows the " that closes a cell'),
        ('"b,2', 'a " is opened and not closed'),
        ('x,"b', 'a " is opened and not closed'),
    ],
)
def test_a_stray_quote_costs_its_line_and_says_why(parse, row, reason):
    parsed = parse(f"ok,1\n{row}\nc,3\nd,4\n", "a:S8,b:i4", delimiter=",", quote='"')
    assert parsed.rows.tolist() == [(b"ok", 1), (b"c", 3), (b"d", 4)]
    assert [(bad.line, bad.row.decode()) for bad in parsed.bad] == [(2, row)]
    assert reason in parsed.bad[0].reason


def test_a_quote_that_another_one_closes_lines_further_down_costs_its_line(parse):
    parsed = parse('"a,1\nb,2\nc,"3"\n', "a:S8,b:i4", delimiter=",", quote='"')
    assert parsed.rows.tolist() == [(b"b", 2), (b"c", 3)]
    (bad,) = parse('"a,1\nb,2\nc",3,4\n', "a:S8,b:i4", delimiter=",", quote='"').bad[:1]
    assert bad.reason == '3 cells where 2 are expected, in lines joined by a "'
    assert bad.row == b'"a,1'


def test_a_cell_is_closed_within_a_mebibyte_or_costs_its_line():
    at_most = "\n" + "x" * (records.LONGEST_QUOTED_BYTES - 1)
    schema = replace(_COMMA, width=2).with_dtype("b:i4", [1])
    assert parse_block(f'"{at_most[:-1]}",1\nb,2\n'.encode(), schema).bad == []
    assert [bad.line for bad in parse_block(f'"{at_most}",1\nb,2\n'.encode(), schema).bad] == [1]


def test_a_table_of_stray_quotes_takes_time_in_proportion_to_its_length():
    def seconds(lines: int) -> float:
        data = b'"a,1\n' * lines + b'b,"\n' * lines
        began = time.process_time()
        assert len(parse_block(data, _COMMA.with_dtype("a:S8,b:S8")).bad) > lines // 2
        return time.process_time() - began

    few = min(seconds(500) for _ in range(3))
    assert seconds(20_000) < 300 * few, "40 times the lines; 1,600 times the seconds if each line looked at all the others"


@pytest.mark.parametrize("other", ["nan", "inf", "1e300", "5"])
@pytest.mark.parametrize("blank", ['"\n"', '"\r\n"', '"\r"', '" \n"'])
@pytest.mark.parametrize("read_block", [parse_block, parse_block_native])
def test_a_number_of_line_ends_only_is_an_empty_cell_and_takes_no_value_of_its_neighbours(blank, other, read_block):
    schema = Schema(delimiter=",", quote='"').with_dtype("a:f8,b:S2")
    parsed = read_block(f"{blank},x\n{other},y\n{blank},z\n3,w\n".encode(), schema)
    assert repr(parsed.rows.tolist()) == repr([(float(other), b"y"), (3.0, b"w")])
    assert ["an empty cell" in bad.reason for bad in parsed.bad] == [True, True]


def test_a_header_whose_quote_is_not_closed_is_an_error_that_names_it(write):
    path = write('"a,b\n1,2\n')
    with pytest.raises(IngestError, match='line 1, the header: a " is opened and not closed'):
        open_table(path, replace(_COMMA, header=True).with_dtype("a:i4,b:i4"))


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("row", ['"x,1\nb,2"\n', '"x,1\nb",2,9\n', '"x,1\n', '"x"y,1\n'])
def test_a_stray_quote_in_the_first_row_costs_its_line_only(write, read, row, header):
    path = write("a,b\n" * header + row + "c,3\nd,4\n")
    schema = replace(_COMMA, header=header, width=None if header else 2).with_dtype("a:S4,b:S4")
    found = read(path, schema)
    assert found.rows.tolist()[-2:] == [(b"c", b"3"), (b"d", b"4")]
    assert found.bad[0].line == 1 + header


def test_cells_longer_than_the_csv_module_allows_are_read_in_header_and_first_row(write, read):
    long = "x" * 200_000
    found = read(write(f'"a","{long}"\n"{long}","1"\n'), replace(_COMMA, header=True).with_dtype("b:i4", [1]))
    assert found.rows["b"].tolist() == [1]


def test_quotes_between_runs_of_blanks_are_refused():
    with pytest.raises(IngestError, match="quotes need a delimiter"):
        Schema(delimiter=None, quote='"')
