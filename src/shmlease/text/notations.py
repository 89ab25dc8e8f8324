"""How numbers, truth values and labels are written in cells, where that is not the way of `numpy.loadtxt`.

A notation of numbers is a rewriting of a whole column: decimal comma, thousands separators and percent signs become the
plain form, and what is not written so becomes something that is no number, so that ``1.5`` under a decimal comma is an
error and not another value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from shmlease.text.text_buffer import Bytes, Ints, TextBuffer

__all__ = ["FALSE", "NUMBER_FORMATS", "TRUE", "find_words", "rewrite_numbers"]

TRUE: Final = (b"true", b"t", b"yes", b"y", b"1")
FALSE: Final = (b"false", b"f", b"no", b"n", b"0")
NUMBER_FORMATS: Final = {"f": ("percent", "fortran"), "i": ("hex",), "u": ("hex",)}
_NO_NUMBER = b"\x01"  # a byte that makes a cell no number
_NEWLINE, _RETURN, _BLANK = b"\n\r "


def rewrite_numbers(
    text: TextBuffer, starts: Ints, ends: Ints, *, decimal: str = ".", thousands: str = "", percent: bool = False
) -> tuple[TextBuffer, Ints, Ints]:
    """The cells of a column in the plain notation, in a text of their own, a line for each."""
    lengths = ends - starts
    places = np.concatenate(([0], np.cumsum(lengths + 1)))
    total = int(places[-1])
    index = np.arange(total) + np.repeat(starts - places[:-1], lengths + 1)
    column: Bytes = text.content[np.minimum(index, text.size_bytes - 1)]
    column[(column == _NEWLINE) | (column == _RETURN)] = _BLANK  # in quotes
    column[places[1:] - 1] = _NEWLINE
    plain = column.tobytes()
    if percent:
        plain = _PERCENT.sub(lambda match: match[1] if match[2] else match[1] + _NO_NUMBER, plain)
    if thousands:
        mark = re.escape(thousands.encode())
        grouped = _grouped(mark)
        plain = grouped.sub(lambda match: match[0].replace(thousands.encode(), b""), plain)
    if decimal != ".":
        plain = plain.replace(b".", _NO_NUMBER).replace(decimal.encode(), b".")
    rewritten = TextBuffer(len(plain) + 1)
    data = np.frombuffer(plain, np.uint8)
    rewritten.fill(data, _NEWLINE)
    line_ends = np.flatnonzero(data == _NEWLINE)
    return rewritten, np.concatenate(([0], line_ends[:-1] + 1)), line_ends


_PERCENT = re.compile(rb"(?m)^([^%\n]*?) *(%?) *$")


@lru_cache(maxsize=8)
def _grouped(mark: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?m)^ *[+-]?\d{1,3}(?:%b\d{3})+(?!%b|\d)" % (mark, mark))


def find_words(
    text: TextBuffer, starts: Ints, ends: Ints, words: Sequence[bytes], *, any_case: bool
) -> npt.NDArray[np.int64]:
    """The place of each cell among the words, or -1."""
    lengths = ends - starts
    found = np.full(len(starts), -1)
    for place, word in enumerate(words):
        rows = np.flatnonzero(lengths == len(word))
        for offset in range(0, len(word), 8):
            part = word[offset : offset + 8]
            cells = text.load8(starts[rows] + offset) & np.uint64((1 << 8 * len(part)) - 1)
            if any_case:
                fold = bytes(0x20 if chr(byte).isalpha() else 0 for byte in part)
                cells |= np.uint64(int.from_bytes(fold, "little"))
            rows = rows[cells == np.uint64(int.from_bytes(part, "little"))]
        found[rows] = place
    return found
