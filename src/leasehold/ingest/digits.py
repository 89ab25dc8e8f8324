"""Decimal digits to numbers, for whole columns at once.

A cell of up to eight characters is one 64-bit word: shifted so that its last character is the highest byte, with zeros
below, it is turned into a number by three multiplications that join neighbouring digits to pairs, fours and eights. A cell
of up to sixteen is two such words. A decimal is an integer over a power of ten: with an integer below 2**53 and a power up to
10**22 both are exact in a float64, so that their quotient is correctly rounded (Clinger 1990), as `strtod` gives it.

What is not plainly `digits` or `digits.digits`, perhaps with a sign or blanks around it, is left to the caller: longer
cells, exponents, nan, garbage. Nothing here guesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leasehold.ingest.text import Bools, Ints, Text, Words

__all__ = ["Numbers", "read_numbers"]

_WORD, _LONGEST = 8, 16  # characters in one word, and in two
_BY_BYTE = 4  # integers of up to so many digits are read a byte at a time, at half the cost of a word
_EXACT = np.uint64(1 << 53)
_POWERS = 10.0 ** np.arange(23)
_U = np.uint64


def _in_every_byte(value: int) -> np.uint64:
    return _U(value * 0x0101010101010101)


_ONE = _U(1)
_ZERO = _in_every_byte(ord("0"))
_POINT_LESS_ZERO = ord(".") ^ ord("0")  # a point, as `_load` shows it
_POINT = _in_every_byte(_POINT_LESS_ZERO)
_TOP_BITS, _OTHER_BITS = _in_every_byte(0x80), _in_every_byte(0x7F)
_CARRY_ABOVE_9 = _in_every_byte(0x80 - 10)
_BYTE_NUMBERS = _U(0x0706050403020100)
_HEAD_WEIGHT = np.array([10**8, 10**7], np.uint64)  # without and with a point among the last eight characters
_JOINS = (
    (_U(10 * 2**8 + 1), _U(8), _U(0x00FF00FF00FF00FF)),
    (_U(100 * 2**16 + 1), _U(16), _U(0x0000FFFF0000FFFF)),
    (_U(10000 * 2**32 + 1), _U(32), _U(0x00000000FFFFFFFF)),
)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a column holds where it holds plain numbers.

    Attributes
    ----------
    values : ndarray
        Magnitudes: unsigned integers, or float64 when decimals were asked for.
    minus : ndarray of int
        Rows that have a minus sign.
    odd : ndarray of int
        Rows whose cell is something else; their values mean nothing.
    """

    values: npt.NDArray[Any]
    minus: Ints
    odd: Ints


def read_numbers(text: Text, starts: Ints, ends: Ints, *, decimal: bool) -> Numbers:
    """The numbers in the cells from `starts` to before `ends`; with `decimal`, as float64 and with a point allowed."""
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    by_word = _decimals if decimal else _integers
    values: npt.NDArray[Any]
    if longest <= _BY_BYTE and not decimal:
        values, bad = _short_integers(text, ends, lengths, longest)
    else:
        wide = longest > _WORD and bool(4 * np.count_nonzero(lengths > _WORD) > len(lengths))
        values, bad = by_word(text, starts, ends, lengths, wide=wide)
    odd = np.flatnonzero(bad) if bad is not None else np.empty(0, np.int64)
    minus = odd
    if len(odd):
        first, last, has_minus = _without_sign(text, starts[odd], ends[odd])
        values[odd], bad = by_word(text, first, last, last - first, wide=True)
        minus = odd[has_minus]
        odd = odd[bad] if bad is not None else odd[:0]
    return Numbers(values, minus, odd)


def _short_integers(text: Text, ends: Ints, lengths: Ints, longest: int) -> tuple[npt.NDArray[np.uint16], Bools | None]:
    shortest = int(lengths.min(initial=longest))
    short_lengths = lengths.astype(np.uint8)
    values = np.zeros(len(ends), np.uint16)
    highest = np.zeros(len(ends), np.uint8)
    for place in range(longest):
        digit = text.byte(ends, back=place + 1)
        digit -= ord("0")
        if place >= shortest:
            digit *= short_lengths > place
        np.maximum(highest, digit, out=highest)
        values += np.multiply(digit, np.uint16(10**place), dtype=np.uint16)
    return values, _any(highest > 9, lengths < 1 if shortest < 1 else None)


def _integers(text: Text, starts: Ints, ends: Ints, lengths: Ints, *, wide: bool) -> tuple[Words, Bools | None]:
    tail, head = _load(text, starts, ends, lengths, wide=wide)
    garbage = _above_9(tail)
    values = _join_digits(tail)
    if head is not None:
        garbage |= _above_9(head)
        values += _join_digits(head) * _U(10**_WORD)
    return values, _any(*_bad_cells(garbage, lengths, 0, wide=wide))


def _decimals(
    text: Text, starts: Ints, ends: Ints, lengths: Ints, *, wide: bool
) -> tuple[npt.NDArray[np.float64], Bools | None]:
    tail, head = _load(text, starts, ends, lengths, wide=wide)
    beyond_ascii = _U(0) if text.is_ascii else tail.copy() if head is None else tail | head
    points, after_point = _take_point(tail)
    garbage = _above_9(tail)
    garbage |= beyond_ascii
    mantissa = _join_digits(tail)
    too_long: Bools | None = None
    if head is not None:
        head_points, after_head_point = _take_point(head)
        garbage |= _above_9(head)
        mantissa += _join_digits(head) * _HEAD_WEIGHT.take(points)
        after_point += after_head_point
        after_point += head_points * _WORD
        points += head_points
        too_long = mantissa > _EXACT
        too_long |= points > 1
    values = mantissa.astype(np.float64)
    values /= _POWERS.take(after_point, mode="clip")
    return values, _any(too_long, *_bad_cells(garbage, lengths, points, wide=wide))


def _load(text: Text, starts: Ints, ends: Ints, lengths: Ints, *, wide: bool) -> tuple[Words, Words | None]:
    """The last eight characters of each cell as digits 0 to 9, last one highest; and the up to eight before them."""
    shift = lengths << 3
    np.subtract(64, shift, out=shift)
    tail = text.load8(np.maximum(starts, ends - _WORD) if wide else starts)
    tail ^= _ZERO
    tail <<= (np.maximum(shift, 0) if wide else shift).view(_U)
    if not wide:
        return tail, None
    head = text.load8(starts)
    head ^= _ZERO
    shift += 64  # numpy shifts by 64 and more to 0: a cell of eight characters has no head
    head <<= shift.view(_U)
    return tail, head


def _take_point(word: Words) -> tuple[Ints, Ints]:
    """Take the first point out of each word, in place; give how many there were (0 or 1) and the digits behind."""
    marker = word ^ _POINT
    marker += _OTHER_BITS
    marker &= _TOP_BITS
    marker ^= _TOP_BITS  # the top bit of each byte that is a point, provided all bytes are ASCII
    marker >>= _U(7)
    marker &= np.negative(marker)
    behind = marker * _BYTE_NUMBERS
    behind >>= _U(56)
    before = np.maximum(marker, _ONE)
    before -= _ONE
    before &= word  # what comes before the point moves up by one byte, into its place
    before *= _U(255)
    word += before
    np.multiply(marker, _U(_POINT_LESS_ZERO), out=before)
    word -= before
    return (marker != 0).astype(np.int64), behind.view(np.int64)


def _above_9(word: Words) -> Words:
    """A word whose bytes have the top bit set where `word` has no digit."""
    carried = word + _CARRY_ABOVE_9
    carried |= word
    return carried


def _join_digits(word: Words) -> Words:
    """The number that eight digits stand for, computed in place: each byte, then pair, then four takes its neighbour."""
    for factor, bits, lanes in _JOINS:
        word *= factor
        word >>= bits
        word &= lanes
    return word


def _without_sign(text: Text, starts: Ints, ends: Ints) -> tuple[Ints, Ints, Bools]:
    """The cells without the blanks around them and their sign, and where that is a minus."""
    for _ in range(_LONGEST):
        blank = (text.byte(starts) == ord(" ")) & (starts < ends)
        if not blank.any():
            break
        starts = starts + blank
    for _ in range(_LONGEST):
        blank = (text.byte(ends, back=1) == ord(" ")) & (starts < ends)
        if not blank.any():
            break
        ends = ends - blank
    first = text.byte(starts)
    minus = first == ord("-")
    return starts + (minus | (first == ord("+"))), ends, minus


def _bad_cells(garbage: Words, lengths: Ints, points: Ints | int, *, wide: bool) -> Iterator[Bools]:
    if np.bitwise_or.reduce(garbage) & _TOP_BITS:
        garbage &= _TOP_BITS
        yield garbage != 0
    longest = _LONGEST if wide else _WORD
    if lengths.max(initial=0) > longest:
        yield lengths > longest
    if lengths.min(initial=2) < 2:
        yield lengths - points < 1  # no digit


def _any(*masks: Bools | None) -> Bools | None:
    """Where any of the masks is true, or None where none is."""
    found: Bools | None = None
    for mask in masks:
        if mask is not None and mask.any():
            found = mask if found is None else found | mask
    return found
