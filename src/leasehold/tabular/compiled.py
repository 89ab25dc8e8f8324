"""`parse_block` with its common case compiled: two to three times as fast, where numba is installed.

The compiled loop reads lines whose cells are all plain: strings that fit, integers, decimals with or without an exponent. It
writes the bytes of the rows in place. Every line with anything else in it is left out and read by `leasehold.tabular.parse`
afterwards, so that both give the same rows and the same reports.

Importing this module compiles the loop (about a second, once), or loads it from numba's cache (a tenth of one): better before
workers are forked than in each of them. The loop runs without the interpreter lock.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, TypeAlias

import numba  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt

from leasehold.tabular.columns import is_number
from leasehold.tabular.parse import BytesLike, ParsedBlock, max_rows, parse_block
from leasehold.tabular.schema import Schema
from leasehold.tabular.text import Bools, Bytes, Ints

__all__ = ["is_compilable", "parse_block_compiled"]

_Plan: TypeAlias = npt.NDArray[np.int64]

_SKIPPED, _STRING, _SIGNED, _UNSIGNED, _FLOAT = range(5)
_KINDS = {"S": _STRING, "i": _SIGNED, "u": _UNSIGNED, "f": _FLOAT}
_SELDOM = 4  # when more than one line in so many is odd, reading all of them the general way is quicker


def is_compilable(schema: Schema) -> bool:
    """Whether the compiled loop can read tables of this schema; if not, `parse_block_compiled` is `parse_block`."""
    places = [place + index for each, place in schema.places() for index in range(each.width)]
    return (
        schema.delimiter is not None
        and schema.line_end != "cr"
        and sys.byteorder == "little"
        and len(set(places)) == len(places)
        and not any(is_number(mark) for mark in schema.missing)
        and all(
            each.dtype.base.kind in _KINDS and each.dtype.base.isnative and each.dtype.base.str not in ("<f2", "<f16")
            for each in schema.fields
        )
    )


def parse_block_compiled(
    data: BytesLike,
    schema: Schema,
    *,
    out: npt.NDArray[Any] | None = None,
    first_line: int = 1,
    most_bad: int | None = None,
    with_starts: bool = False,
) -> ParsedBlock:
    """The same as `parse_block`, in a half to a third of the time for rows of plain strings and numbers."""
    content = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    lines = max_rows(content, schema)
    whole_lines = len(content) > 0 and content[-1] == _NEWLINE
    if (
        with_starts
        or not whole_lines
        or not is_compilable(schema)
        or (schema.quote and (content == ord(schema.quote)).any())
    ):
        return parse_block(content, schema, out=out, first_line=first_line, most_bad=most_bad, with_starts=with_starts)
    rows = np.empty(lines, schema.dtype) if out is None else out
    if rows.dtype != schema.dtype or rows.ndim != 1 or len(rows) < lines or not rows.flags.c_contiguous:
        return parse_block(content, schema, out=out, first_line=first_line, most_bad=most_bad, with_starts=with_starts)
    odd = np.empty((lines // _SELDOM + 1, 3), np.int64)
    first_bytes = np.zeros(256, np.bool_)
    first_bytes[[prefix.encode(schema.encoding)[0] for prefix in schema.comments]] = True
    any_byte = schema.encoding in ("latin-1", "iso8859-1")
    target = rows.view(np.uint8).reshape(len(rows), -1)
    target[:lines] = 0
    count = _read_lines(
        content, ord(schema.delimiter or ""), schema.row_width, _plan(schema), first_bytes, any_byte, target, odd
    )
    if count < 0:
        return parse_block(content, schema, out=rows, first_line=first_line, most_bad=most_bad, with_starts=with_starts)
    if count == 0:
        return ParsedBlock(rows[:lines], [], Counter())
    return _read_odd_lines(content, schema, rows, lines, odd[:count], first_line)


def _plan(schema: Schema) -> _Plan:
    """Column, kind, size in bytes and offset in the row of everything to read, in the order of the columns."""
    offsets = {name: offset for name, (_, offset, *_) in (schema.dtype.fields or {}).items()}
    plan = [
        (place + index, _KINDS[base.kind], base.itemsize, offsets[each.name] + index * base.itemsize)
        for each, place in schema.places()
        for base in [each.dtype.base]
        for index in range(each.width)
    ]
    return np.array(sorted(plan), np.int64).reshape(-1, 4)


def _read_odd_lines(
    content: Bytes, schema: Schema, rows: npt.NDArray[Any], lines: int, odd: Ints, first_line: int
) -> ParsedBlock:
    """Read the lines that were left out, and close the gaps that those which are no rows leave."""
    numbers, starts, ends = odd.T
    text = np.concatenate([content[start:end] for start, end in odd[:, 1:]])
    places = np.concatenate(([0], np.cumsum(ends - starts)[:-1]))  # where each line stands in `text`
    parsed = parse_block(text, schema, with_starts=True)
    assert parsed.starts is not None
    good = np.searchsorted(places, parsed.starts)
    rows[numbers[good]] = parsed.rows
    kept = np.ones(lines, np.bool_)
    kept[np.delete(numbers, good)] = False
    if not kept.all():
        remaining = rows[:lines][kept]
        lines = len(remaining)
        rows[:lines] = remaining
    bad = []
    for each in parsed.bad:
        index = each.line - 1
        bad.append(each.below(first_line + int(numbers[index]) - each.line, int(starts[index] - places[index])))
    return ParsedBlock(rows[:lines], bad, parsed.notes)


_NEWLINE, _RETURN, _SPACE, _PLUS, _MINUS, _POINT, _LETTER_E = b"\n\r +-.e"
_ZERO = np.uint8(ord("0"))
_EXACT, _EXACT_POWER, _MOST_DIGITS = 2**53, 22, 18  # 18 digits fit int64
_POWERS = 10.0 ** np.arange(_EXACT_POWER + 1)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _bits(value: float, size: int) -> Any:
    if size == 4:
        return np.uint64(np.float32(value).view(np.uint32))
    return np.float64(value).view(np.uint64)


_TEXT = numba.types.Array(numba.uint8, 1, "C", readonly=True)
_TABLE, _FLAGS, _ROWS = numba.int64[:, ::1], numba.boolean[::1], numba.uint8[:, ::1]


# One function: numba counts the references to an array in every call that it is handed to, which costs more than a cell. A
# byte less "0" is compared as uint8, where all that is no digit comes out above 9.
@numba.njit(  # type: ignore[untyped-decorator]
    numba.int64(_TEXT, numba.uint8, numba.int64, _TABLE, _FLAGS, numba.boolean, _ROWS, _TABLE),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _read_lines(  # noqa: PLR0915 - see above
    text: Bytes, delimiter: np.uint8, width: int, plan: _Plan, comments: Bools, any_byte: bool, rows: Bytes, odd: Ints
) -> int:
    """Read every plain line into the row of its number and list the others; how many those are, or -1 if too many."""
    at = row = count = 0
    while at < len(text):
        start = at
        plain = not comments[text[at]]
        seen = np.uint8(0)  # all bytes of strings, joined
        step = 0
        for column in range(width):
            if not plain:
                break
            kind, size, offset = _SKIPPED, 0, 0
            if step < len(plan) and plan[step, 0] == column:
                kind, size, offset = plan[step, 1], plan[step, 2], plan[step, 3]
                step += 1
            last = column == width - 1
            if kind <= _STRING:
                cell = at
                byte = text[at]
                while byte != delimiter and byte != _NEWLINE:  # noqa: PLR1714 - a tuple would be made for each byte
                    seen |= byte
                    at += 1
                    byte = text[at]
                length = at - cell
                if last and length > 0 and text[at - 1] == _RETURN:
                    length -= 1
                if (kind == _STRING and length > size) or (length == 0 and width == 1):
                    plain = False
                    break
                if kind == _STRING:
                    for index in range(length):
                        rows[row, offset + index] = text[cell + index]
            else:
                while text[at] == _SPACE:
                    at += 1
                negative = text[at] == _MINUS
                if negative or text[at] == _PLUS:
                    at += 1
                whole = np.int64(0)
                begin = at
                digit = text[at] - _ZERO
                while digit <= 9:
                    whole = whole * 10 + np.int64(digit)
                    at += 1
                    digit = text[at] - _ZERO
                digits = at - begin
                if kind == _FLOAT:
                    scale = np.int64(0)
                    if text[at] == _POINT:
                        at += 1
                        begin = at
                        digit = text[at] - _ZERO
                        while digit <= 9:
                            whole = whole * 10 + np.int64(digit)
                            at += 1
                            digit = text[at] - _ZERO
                        scale = np.int64(begin - at)
                        digits += at - begin
                    if text[at] | 32 == _LETTER_E:
                        at += 1
                        down = text[at] == _MINUS
                        if down or text[at] == _PLUS:
                            at += 1
                        exponent = np.int64(0)
                        begin = at
                        digit = text[at] - _ZERO
                        while digit <= 9:
                            exponent = exponent * 10 + np.int64(digit)
                            at += 1
                            digit = text[at] - _ZERO
                        if not 0 < at - begin < 4:
                            plain = False
                            break
                        scale += -exponent if down else exponent
                    if whole > _EXACT or scale < -_EXACT_POWER or scale > _EXACT_POWER:
                        plain = False
                        break
                    value = whole / _POWERS[-scale] if scale < 0 else whole * _POWERS[scale]
                    bits = _bits(-value if negative else value, size)
                else:
                    if negative:
                        whole = -whole
                    if kind == _UNSIGNED:
                        fits = not negative and (size == 8 or whole >> 8 * size == 0)
                    else:
                        fits = size == 8 or -1 <= whole >> 8 * size - 1 <= 0
                    if not fits:
                        plain = False
                        break
                    bits = np.uint64(whole)
                if not 0 < digits <= _MOST_DIGITS:
                    plain = False
                    break
                rows[row, offset] = bits & 255  # spelled out, so that the compiler makes one store of them
                if size > 1:
                    rows[row, offset + 1] = (bits >> 8) & 255
                if size > 2:
                    rows[row, offset + 2] = (bits >> 16) & 255
                    rows[row, offset + 3] = (bits >> 24) & 255
                if size > 4:
                    rows[row, offset + 4] = (bits >> 32) & 255
                    rows[row, offset + 5] = (bits >> 40) & 255
                    rows[row, offset + 6] = (bits >> 48) & 255
                    rows[row, offset + 7] = (bits >> 56) & 255
                while text[at] == _SPACE:
                    at += 1
                if last and text[at] == _RETURN:
                    at += 1
            if text[at] != (_NEWLINE if last else delimiter):
                plain = False
                break
            at += 1
        if plain and seen >= 128 and not any_byte:
            plain = False
            at -= 1  # back to the line end
        if not plain:
            while text[at] != _NEWLINE:
                at += 1
            at += 1
            if count == len(odd):
                return -1
            odd[count, 0], odd[count, 1], odd[count, 2] = row, start, at
            count += 1
        row += 1
    return count
