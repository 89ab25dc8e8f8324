"""`parse_block` with its common case in C: four times as fast, where the library is there.

The C function (lines.c) reads lines whose cells are all plain: strings that fit, integers, decimals with or without an
exponent, quoted or not. It writes the bytes of the rows in place. Every line with anything else in it is left out and read
by `shmlease.text.parser` afterwards, and so is a whole text with a stray quote in it: both give the same rows and the same
reports. It runs without the interpreter lock.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import sys
from collections import Counter
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shmlease.compiled import load_compiled
from shmlease.text import records
from shmlease.text.converters import is_number
from shmlease.text.parser import BytesLike, ParsedBlock, max_rows, parse_block
from shmlease.text.quoted_cells import last_line_end, last_row_end
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bytes, Ints

__all__ = ["is_native", "last_row_end_native", "library", "max_rows_native", "parse_block_native"]

_SOURCE: Final = os.path.join(os.path.dirname(__file__), "lines.c")
_SKIPPED, _STRING, _SIGNED, _UNSIGNED, _FLOAT = range(5)  # enum kind
_KINDS: Final = {"S": _STRING, "i": _SIGNED, "u": _UNSIGNED, "f": _FLOAT}
_SELDOM: Final = 4  # when more than one line in so many is odd, reading all of them the general way is quicker
_ASCII, _ANY_BYTE, _UTF_8 = range(3)  # enum encoding
_ENCODINGS: Final = {"utf-8": _UTF_8, "iso8859-1": _ANY_BYTE}
_NO_QUOTE: Final = -1
_UNDECIDED: Final = -1
_CELLS: Final = 4096  # that are read at once: their places, their text and their rows stay in a cache
_NEWLINE: Final = ord("\n")


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled lines.c, where it was compiled."""
    loaded = load_compiled(_SOURCE)
    if loaded is None:
        return None
    pointer, size, byte = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint8
    loaded.shmlease_read_lines.restype = size
    loaded.shmlease_read_lines.argtypes = [
        *(pointer, size, byte, size, size, size, pointer, pointer, size),
        *(pointer, size, size, pointer, size, pointer, size, pointer),
    ]
    loaded.shmlease_last_record_end.restype = size
    loaded.shmlease_last_record_end.argtypes = [pointer, size, byte, size, size, size, pointer, pointer, size]
    loaded.shmlease_count.restype = size
    loaded.shmlease_count.argtypes = [pointer, size, byte]
    return loaded


@lru_cache(maxsize=64)
def is_native(schema: Schema) -> bool:
    """Whether C can read tables of this schema; if not, `parse_block_native` is `parse_block`."""
    places = [place for _, _, place in schema.columns()]
    return (
        schema.delimiter is not None
        and not schema.widths
        and schema.row_width > 0
        and schema.line_end != "cr"
        and sys.byteorder == "little"
        and len(set(places)) == len(places)
        and not (schema.short == "missing" and any(each.fill and each.dtype.base.kind == "S" for each in schema.fields))
        and not any(
            is_number(mark) for each in schema.fields for mark in schema.missing_of(each) if each.dtype.base.kind != "S"
        )
        and not any(schema.missing_of(each) for each in schema.fields if each.dtype.base.kind == "S")
        and (schema.decimal, schema.thousands) == (".", "")
        and not schema.quote.isdigit()
        and all(
            each.is_plain
            and each.dtype.base.kind in _KINDS
            and each.dtype.base.isnative
            and each.dtype.base.str not in ("<f2", "<f16")
            for each in schema.fields
        )
    )


def max_rows_native(content: Bytes, schema: Schema) -> int:
    """The same as `max_rows`, at the speed of memory."""
    compiled = library()
    if compiled is None or not len(content) or not content.flags.c_contiguous:
        return max_rows(content, schema)
    ends = {schema.newline, _NEWLINE}
    counted = sum(compiled.shmlease_count(content.ctypes.data, len(content), end) for end in ends)
    return int(counted) + int(content[-1] not in ends)


def last_row_end_native(content: Bytes, schema: Schema) -> int:
    """The same as `last_row_end` at the speed of memory; behind a malformed record it may be less."""
    compiled = library()
    suits = schema.quote and schema.delimiter and schema.newline == _NEWLINE and content.flags.c_contiguous
    if compiled is None or not suits:
        return last_row_end(content, schema)
    size = last_line_end(content, _NEWLINE)
    ends = _room_for_ends(schema)
    end: int = compiled.shmlease_last_record_end(
        *(content.ctypes.data, size, *_marks(schema), schema.row_width, _begin_comments(schema).ctypes.data),
        *(ends.ctypes.data, len(ends)),
    )
    return last_row_end(content, schema) if end == _UNDECIDED else end


def parse_block_native(
    data: BytesLike,
    schema: Schema,
    *,
    out: npt.NDArray[Any] | None = None,
    first_line: int = 1,
    most_bad: int | None = None,
    with_starts: bool = False,
) -> ParsedBlock:
    """The same as `parse_block`, in a quarter of the time for rows of plain strings and numbers."""
    content = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    compiled = library()
    suits = (
        compiled is not None
        and not with_starts
        and len(content) > 0
        and content[-1] == _NEWLINE
        and content.flags.c_contiguous
        and is_native(schema)
    )
    if suits:
        rows = np.empty(max_rows_native(content, schema), schema.dtype) if out is None else out
        suits = rows.dtype == schema.dtype and rows.ndim == 1 and rows.flags.c_contiguous
    if not suits:
        return parse_block(content, schema, out=out, first_line=first_line, most_bad=most_bad, with_starts=with_starts)
    assert compiled is not None
    cells = _plan(schema)
    odd = np.empty((len(rows) // _SELDOM + 1, 4), np.int64)
    ends = _room_for_ends(schema)
    lines = ctypes.c_int64()
    count = compiled.shmlease_read_lines(
        *(content.ctypes.data, len(content), *_marks(schema), schema.row_width, cells.ctypes.data),
        *(_begin_comments(schema).ctypes.data, _ENCODINGS.get(codecs.lookup(schema.encoding).name, _ASCII)),
        *(rows.ctypes.data, rows.itemsize, len(rows), odd.ctypes.data, len(odd)),
        *(ends.ctypes.data, len(ends), ctypes.byref(lines)),
    )
    for name in _masks(schema):  # a value that is missing is on an odd line
        rows[name] = False
    if count == _UNDECIDED:
        return parse_block(content, schema, out=rows, first_line=first_line, most_bad=most_bad)
    if count == 0:
        return ParsedBlock(rows[: lines.value], [], Counter())
    return _with_odd_lines(content, schema, rows[: lines.value], odd[:count], first_line, most_bad)


@lru_cache(maxsize=64)
def _masks(schema: Schema) -> tuple[str, ...]:
    return tuple(each.mask_name for each in schema.fields if each.is_nullable)


def _room_for_ends(schema: Schema) -> npt.NDArray[np.uint32]:
    """Memory for the places where cells end, of some hundred lines, or of eight where lines are long."""
    return np.empty(max(_CELLS, 8 * (schema.row_width + 1)) + 128, np.uint32)


def _marks(schema: Schema) -> tuple[int, int, int]:
    """Delimiter, quote, and the length of a quoted cell at most."""
    quote = ord(schema.quote) if schema.quote else _NO_QUOTE
    return ord(schema.delimiter or ""), quote, records.LONGEST_QUOTED_BYTES


@lru_cache(maxsize=64)
def _begin_comments(schema: Schema) -> Bytes:
    """A flag for each byte that may begin a comment."""
    flags = np.zeros(256, np.uint8)
    flags[[prefix.encode(schema.encoding)[0] for prefix in schema.comments if prefix]] = 1
    return flags


@lru_cache(maxsize=64)
def _plan(schema: Schema) -> npt.NDArray[np.int64]:
    """Kind, size, offset and exactness of each cell of a line."""
    offsets = {name: offset for name, (_, offset, *_) in (schema.dtype.fields or {}).items()}
    cells = np.zeros((schema.row_width, 4), np.int64)
    for each, index, place in schema.columns():
        base = each.dtype.base
        cells[place] = _KINDS[base.kind], base.itemsize, offsets[each.name] + index * base.itemsize, schema.exact
    return cells


def _with_odd_lines(
    content: Bytes, schema: Schema, rows: npt.NDArray[Any], odd: Ints, first_line: int, most_bad: int | None
) -> ParsedBlock:
    """Read the lines that were left out, and close the gaps that malformed ones leave."""
    numbers, starts, ends, line_ends = odd.T
    text = np.concatenate([content[start:end] for start, end in odd[:, 1:3]])
    places = np.concatenate(([0], np.cumsum(ends - starts)[:-1]))  # where each line stands in `text`
    parsed = parse_block(text, schema, most_bad=most_bad, with_starts=True)
    assert parsed.starts is not None
    good = np.searchsorted(places, parsed.starts)
    rows[numbers[good]] = parsed.rows
    kept = np.ones(len(rows), np.bool_)
    kept[np.delete(numbers, good)] = False
    if not kept.all():
        remaining = rows[kept]
        rows = rows[: len(remaining)]
        rows[:] = remaining
    bad = []
    for each in parsed.bad:
        index = int(np.searchsorted(places, each.offset))
        bad.append(each.below(first_line + int(line_ends[index]) - each.line, int(starts[index] - places[index])))
    return ParsedBlock(rows, bad, parsed.notes)
