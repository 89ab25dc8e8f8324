"""However a table is cut into pieces and blocks, its lines come once, whole, in order, with their place."""

from __future__ import annotations

import gzip
import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.errors import IngestError
from shmlease.text import blocks
from shmlease.text.blocks import Piece, count_lines, cut_table, read_piece, require_same_text
from shmlease.text.header import open_table
from shmlease.text.parts import table_part
from shmlease.text.schema import Schema

_LINES = st.lists(st.text("abc\t", max_size=12), min_size=1, max_size=30)


def _blocks(table, block_bytes, buffer=None):
    for piece in cut_table(table, block_bytes):
        for block in read_piece(table, piece, block_bytes, buffer):
            yield block, bytes(block.data)


@given(_LINES, st.integers(1, 40), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_the_blocks_are_the_text_and_know_their_place(tmp_path_factory, lines, block_bytes, line_end, ends, packed):
    text = ("x" + line_end.join(lines) + line_end * ends).encode()
    path = tmp_path_factory.mktemp("cut") / "table"
    path.write_bytes(gzip.compress(text) if packed else text)
    table = open_table(path, Schema(line_end="cr" if line_end == "\r" else "lf"))
    parts = []
    buffer = bytearray(7)
    for block, data in _blocks(table, block_bytes, buffer):
        assert data
        assert block.offset == sum(map(len, parts))
        line = 1 + text[: block.offset].count(line_end[-1].encode())
        assert block.first_line in (None, line)
        if not packed:
            assert count_lines(table, block.offset) == line
        assert block.offset == 0 or parts[-1].endswith(line_end[-1].encode())
        parts.append(data)
    assert b"".join(parts) == text


def test_a_piece_that_lies_inside_one_line_is_empty(write):
    table = open_table(write("short\n" + "x" * 1000 + "\nlast\n"), Schema())
    found = [data for _, data in _blocks(table, 100)]
    assert found == [b"short\n" + b"x" * 1000 + b"\n", b"last\n"]


def test_a_piece_is_read_alone(write):
    path = write("".join(f"{n}\n" for n in range(10_000)))
    table = open_table(path, Schema())
    piece = cut_table(table, 4096)[5]
    (block,) = read_piece(table, piece)
    first = int(bytes(block.data).split(b"\n")[0])
    assert block.first_line is None
    assert count_lines(table, block.offset) == first + 1


def test_quoted_line_ends_stay_inside_their_block(write):
    text = "".join(f'{n},"one\ntwo {n}"\n' for n in range(200))
    table = open_table(write(text), Schema(delimiter=",", quote='"'))
    assert len(cut_table(table, 64)) == 1
    parts = [data for _, data in _blocks(table, 64)]
    assert b"".join(parts).decode() == text
    assert len(parts) > 10
    assert all(part.count(b'"') % 2 == 0 for part in parts)


def test_a_file_without_a_quote_is_cut_although_quoting_is_on(write):
    table = open_table(write("a,1\n" * 1000), Schema(delimiter=",", quote='"'))
    assert len(cut_table(table, 1000)) == 4


def test_lines_before_the_data_count(write):
    table = open_table(write("prose\nname\tn\nx\t1\ny\t2\n"), Schema(skip_lines=1, header=True))
    (block,) = [block for block, _ in _blocks(table, 1000)]
    assert (block.first_line, block.offset) == (3, 13)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(write):
    path = write("1\n" * 1000)
    table = open_table(path, Schema())
    path.write_bytes(b"1\n" * 10)
    with pytest.raises(IngestError, match="became shorter while it was read"):
        list(read_piece(table, cut_table(table)[0]))


def test_a_compressed_file_that_is_cut_short_says_in_which_line(write):
    packed = gzip.compress("".join(f"{n}\t{n * n}\n" for n in range(50_000)).encode())
    table = open_table(write(packed[: len(packed) // 2]), Schema())
    lines = 0
    with pytest.raises(IngestError) as caught:  # noqa: PT012 - the blocks before the damage are good
        for block in read_piece(table, Piece(0, 0, None), 4096):
            lines += bytes(block.data).count(b"\n")
    assert lines > 1000
    assert caught.value.line > lines
    assert f"in line {caught.value.line}" in str(caught.value)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(write, monkeypatch):
    monkeypatch.setattr(blocks, "_LONGEST_LINE", 10_000)
    for content in (b"a\n" + b"x" * 200_000, gzip.compress(b"a\n" + b"x" * 200_000)):
        table = open_table(write(content), Schema())
        with pytest.raises(IngestError, match="line 2 is longer than"):
            for _ in _blocks(table, 1000):
                pass


def test_memory_handed_in_is_used_again(write):
    table = open_table(write("0123456\n" * 1000), Schema())
    buffer = bytearray(1 << 17)
    for piece in cut_table(table, 1000):
        for block in read_piece(table, piece, 1000, buffer):
            assert np.shares_memory(np.frombuffer(block.data, "u1"), np.frombuffer(buffer, "u1"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_text_before_the_piece_that_was_rewritten_is_noticed(write, pack):
    path = write(pack(b"name\n" + b"abc\n" * 1000))
    table = open_table(path, Schema(header=True))

    def read_from(offset, crc32):
        if table.compression == "plain":
            require_same_text(table, offset, crc32)
        return list(read_piece(table, Piece(0, offset, None), crc32_before=crc32))

    assert [bytes(block.data) for block in read_from(405, zlib.crc32(b"abc\n" * 100))] == [b"abc\n" * 900]
    with pytest.raises(IngestError, match="was rewritten since the interrupted run"):
        read_from(405, zlib.crc32(b"abd\n" + b"abc\n" * 99))
    with pytest.raises(IngestError, match="was rewritten since the interrupted run"):
        read_from(5000, zlib.crc32(b"abc\n" * 1000))


@given(_LINES, st.lists(st.integers(0, 400), max_size=5), st.integers(1, 40), st.sampled_from(["\n", "\r"]), st.booleans())
def test_parts_of_a_file_that_meet_have_every_line_once(tmp_path_factory, lines, cuts, block_bytes, line_end, ends):
    text = ("x" + line_end.join(["head", *lines]) + line_end * ends).encode()
    path = tmp_path_factory.mktemp("parts") / "table"
    path.write_bytes(text)
    table = open_table(path, Schema(line_end="cr" if line_end == "\r" else "lf", skip_lines=1))
    cuts = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [table_part(table, start, stop) for start, stop in itertools.pairwise(cuts)]
    assert [part.part[0] for part in parts] == [0, *(part.part[1] for part in parts[:-1])]
    assert parts[-1].part[1] == len(text)
    rows = [[data for _, data in _blocks(part, block_bytes)] for part in parts]
    assert b"".join(data for blocks_of in rows for data in blocks_of) == text[table.data_offset :]
    for part, blocks_of in zip(parts, rows, strict=True):
        start, stop = part.extent
        assert b"".join(blocks_of) == text[start:stop]
        assert start == table.data_offset or text[start - 1 : start] == line_end.encode()


def test_part_of_what_is_read_from_its_start_is_refused(tmp_path, write):
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(b"a\n" * 100))
    quoted = write('a,"b\n"\n' * 9)
    for path, schema in ((packed, Schema()), (quoted, Schema(delimiter=",", quote='"'))):
        with pytest.raises(IngestError, match="can only be read from its start"):
            cut_table(table_part(open_table(path, schema), 0, 20))
    with pytest.raises(IngestError, match="bytes 5 to 900 are no range of its 63 bytes"):
        table_part(open_table(quoted, Schema()), 5, 900)
