"""Decimal digits to numbers, for whole columns at once.

A column is read a place at a time, from the last character of its cells to the first: the bytes at that place of all cells
are gathered (half a nanosecond each), checked and weighed as 8-bit integers, and four places joined as 16-bit ones. A
point makes the rest of its cell move down by one place. So a decimal is an integer over a power of ten: with an integer of
at most 2**53 and a power up to 10**22 both are exact in a float64, and their quotient is correctly rounded (Clinger 1990),
as `strtod` gives it.

What is not plainly digits, perhaps with a point, an exponent of two digits, a sign or blanks around it, is left to the
caller: more than 18 characters, 1e-300, nan, garbage. Nothing here guesses.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from shmlease.text.text_buffer import Bools, Ints, TextBuffer

__all__ = ["Numbers", "read_numbers"]

_LONGEST = 18  # characters of a cell: 10**18 is below 2**64; of decimals what exceeds 2**53 is seen
_EXACT, _SURELY_EXACT = 1 << 53, 15  # and the digits that are always below it
_EXACT_POWER = 22
_POWERS = 10.0 ** np.arange(_EXACT_POWER + 1)
_POINT = (ord(".") - ord("0")) % 256
_GROUP = 4  # places that fit 16 bits
_TOTALS = (np.uint16, np.uint32, np.uint64, np.uint64, np.uint64)  # the smallest type for so many groups


class Numbers(msgspec.Struct, frozen=True):
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


def read_numbers(text: TextBuffer, starts: Ints, ends: Ints, *, decimal: bool) -> Numbers:
    """The numbers in the cells from `starts` to before `ends`; with `decimal`, as float64, with point and exponent."""
    whole, scale, bad = _read_places(text, ends, ends - starts, decimal=decimal)
    values = _scaled(whole, scale) if decimal else whole
    if bad is None:
        return Numbers(values, _NONE, _NONE)
    odd = np.flatnonzero(bad)
    first, last = _without_blanks(text, starts[odd], ends[odd])
    first, has_minus = _without_sign(text, first, last)
    exponent = None
    if decimal:
        last, exponent = _without_exponent(text, first, last)
    whole, scale, bad = _read_places(text, last, last - first, decimal=decimal)
    if decimal:
        if exponent is not None:
            scale = exponent if scale is None else exponent + scale
            beyond = np.abs(scale) > _EXACT_POWER
            bad = beyond if bad is None else bad | beyond
            scale[beyond] = 0
        whole = _scaled(whole, scale)
    if whole.itemsize > values.itemsize:
        values = values.astype(whole.dtype)
    values[odd] = whole
    return Numbers(values, odd[has_minus], _NONE if bad is None else odd[bad])


_NONE: Ints = np.empty(0, np.int64)


def _scaled(whole: npt.NDArray[Any], scale: npt.NDArray[np.int8] | None) -> npt.NDArray[np.float64]:
    """`whole` times ten to the power of `scale`, rounded once."""
    values = whole.astype(np.float64)
    if scale is None:
        return values
    lowest, highest = int(scale.min()), int(scale.max())
    if lowest == highest < 0:
        values /= 10.0**-lowest
        return values
    if highest > 0:
        values *= _POWERS.take(np.maximum(scale, 0))
    if lowest < 0:
        values /= _POWERS.take(np.maximum(-scale, 0))
    return values


def _read_places(
    text: TextBuffer, ends: Ints, lengths: Ints, *, decimal: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int8] | None, Bools | None]:
    """The digits of each cell as a number, the power of ten to scale it with, and where there is none.

    The power is None where all are integers, and the last None where all cells are numbers. A sign is none.
    """
    longest = int(lengths.max(initial=0))
    wrong = [lengths > _LONGEST] if longest > _LONGEST else []
    longest = min(longest, _LONGEST)
    left = np.minimum(lengths, _LONGEST).astype(np.uint8) if wrong else lengths.astype(np.uint8)
    shortest = int(left.min(initial=longest))
    highest = np.zeros(len(ends), np.uint8)
    scale: npt.NDArray[np.int8] | None = None
    total: npt.NDArray[Any] = np.zeros(len(ends), np.uint16)
    for low in range(0, longest, _GROUP):
        group = np.zeros(len(ends), np.uint16) if low else total
        for place in range(low, min(low + _GROUP, longest)):
            digit = text.digit(ends, place)
            if place >= shortest:
                digit *= (left > place).view(np.uint8)
            if decimal and (point := digit == _POINT).any():
                if scale is None:
                    scale, pointed = np.zeros(len(ends), np.int8), np.zeros(len(ends), np.bool_)
                point &= ~pointed
                pointed |= point
                scale -= np.multiply(point, place, dtype=np.int8)
                ends = ends - point
                left -= point
                shortest -= 1
                digit = text.digit(ends, place)
                digit *= (left > place).view(np.uint8)
            np.maximum(highest, digit, out=highest)
            group += np.multiply(digit, 10 ** (place - low), dtype=np.uint16)
        if low:
            total = total.astype(_TOTALS[low // _GROUP], copy=False)
            total += np.multiply(group, 10**low, dtype=total.dtype)
    wrong.append(highest > 9)
    if shortest < 1:
        wrong.append(left < 1)
    if decimal and longest > _SURELY_EXACT:
        wrong.append(total > _EXACT)
    return total, scale, _any(wrong)


def _without_exponent(text: TextBuffer, starts: Ints, ends: Ints) -> tuple[Ints, npt.NDArray[np.int8] | None]:
    """Where the cells end without ``e`` and an exponent of one or two digits and perhaps a sign, and the exponents."""
    found: npt.NDArray[np.int8] | None = None
    for size in (1, 2, 3):
        has = ((text.byte(ends, ahead=-1 - size) | 0x20) == ord("e")) & (ends - size > starts)
        rows = np.flatnonzero(has)
        if not len(rows):
            continue
        last = ends[rows]
        first, minus = _without_sign(text, last - size, last)
        whole, _, bad = _read_places(text, last, last - first, decimal=False)
        good = whole < 100  # a third digit would leave int8
        if bad is not None:
            good &= ~bad
        exponents = whole.astype(np.int8)
        exponents[minus] *= -1
        rows, exponents = rows[good], exponents[good]
        if found is None:
            found, ends = np.zeros(len(ends), np.int8), ends.copy()
        found[rows] = exponents
        ends[rows] -= size + 1
    return ends, found


def _without_blanks(text: TextBuffer, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The cells without the blanks around them."""
    for _ in range(_LONGEST):
        blank = (text.byte(starts) == ord(" ")) & (starts < ends)
        if not blank.any():
            break
        starts = starts + blank
    for _ in range(_LONGEST):
        blank = (text.byte(ends, ahead=-1) == ord(" ")) & (starts < ends)
        if not blank.any():
            break
        ends = ends - blank
    return starts, ends


def _without_sign(text: TextBuffer, starts: Ints, ends: Ints) -> tuple[Ints, Bools]:
    """Where the cells begin without their sign, and where that is a minus."""
    first = text.byte(starts)
    first[starts >= ends] = 0  # an empty cell may be followed by the sign of the next one
    minus = first == ord("-")
    return starts + (minus | (first == ord("+"))), minus


def _any(masks: list[Bools]) -> Bools | None:
    """Where any of the masks is true, or None where none is."""
    found: Bools | None = None
    for mask in masks:
        if mask.any():
            found = mask if found is None else found | mask
    return found
