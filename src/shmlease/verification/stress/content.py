"""Arrays that say who wrote them: every word follows from one stamp, so that a reader needs no copy to compare with."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

__all__ = ["array_of", "flaw", "stamp_of", "write"]

# Odd, so that no two words of an array are alike; from the golden ratio, so that neighbours differ in most bits.
_STEP: Final = 0x9E3779B97F4A7C15
Words = np.ndarray[Any, np.dtype[np.uint64]]
_pattern: Words = np.empty(0, np.uint64)


def _base(words: int) -> Words:
    global _pattern  # noqa: PLW0603 - grown to the longest array so far
    if words > _pattern.size:
        _pattern = np.arange(words, dtype=np.uint64) * np.uint64(_STEP)
    return _pattern[:words]


def array_of(stamp: int, words: int) -> Words:
    """The array that `stamp` stands for."""
    return _base(words) ^ np.uint64(stamp)


def write(array: Words, stamp: int) -> None:
    """Write what `stamp` stands for into `array`."""
    np.bitwise_xor(_base(array.size), np.uint64(stamp), out=array)


def stamp_of(array: Words) -> int:
    """Who wrote the first word."""
    return int(array[0])


def flaw(array: Words, stamp: int) -> str:
    """What is wrong with `array` if `stamp` wrote it, in words; empty if nothing is."""
    wrong = np.flatnonzero(array ^ _base(array.size) != np.uint64(stamp))
    if not wrong.size:
        return ""
    first = int(wrong[0])
    found = int(array[first]) ^ int(_base(array.size)[first])
    return f"{wrong.size} of {array.size} words are not {stamp:#x}'s; word {first} is {found:#x}'s"
