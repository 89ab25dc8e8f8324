"""Contents that say who wrote them: every byte of an array follows from one stamp, so that a reader needs no copy to
compare with.

Word *k* of the memory is the stamp and *k* times an odd constant, combined by exclusive or. No two words of an array are
alike, so that a content at the wrong place is found as surely as another's. An array of any dtype, shape and order is
looked at as the bytes it lies on, padding included.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np

__all__ = ["array_of", "checksum", "checksum_of", "flaw", "stamp_of", "write"]

# Odd, so that no two words of an array are alike; from the golden ratio, so that neighbours differ in most bits.
_STEP: Final = 0x9E3779B97F4A7C15
_WORD_BYTES: Final = 8
Words = np.ndarray[Any, np.dtype[np.uint64]]
_pattern: Words = np.empty(0, np.uint64)


def array_of(stamp: int, words: int) -> Words:
    """The array of `words` words that `stamp` stands for."""
    return _base(words) ^ np.uint64(stamp)


def write(array: np.ndarray[Any, Any], stamp: int) -> None:
    """Write what `stamp` stands for into all memory of a contiguous `array`."""
    words, tail = _memory_of(array)
    np.bitwise_xor(_base(words.size), np.uint64(stamp), out=words)
    tail[...] = _tail(stamp, words.size, tail.size)


def stamp_of(array: np.ndarray[Any, Any]) -> int:
    """Who wrote the first word; 0 of an array that has no word."""
    words, _ = _memory_of(array)
    return int(words[0]) if words.size else 0


def flaw(array: np.ndarray[Any, Any], stamp: int) -> str:
    """What is wrong with a contiguous `array` if `stamp` wrote it, in words; empty if nothing is."""
    words, tail = _memory_of(array)
    wrong = np.flatnonzero(words ^ _base(words.size) != np.uint64(stamp))
    if wrong.size:
        first = int(wrong[0])
        found = int(words[first]) ^ int(_base(words.size)[first])
        return f"{wrong.size} of {words.size} words are not {stamp:#x}'s; word {first} is {found:#x}'s"
    if tail.tobytes() != _tail(stamp, words.size, tail.size).tobytes():
        return f"the last {tail.size} bytes are {tail.tobytes().hex()}, not {stamp:#x}'s"
    return ""


def checksum(stamp: int, size_bytes: int) -> int:
    """The CRC-32 of the first `size_bytes` bytes that `stamp` stands for."""
    return zlib.crc32(array_of(stamp, -(-size_bytes // _WORD_BYTES)).tobytes()[:size_bytes])


def checksum_of(array: np.ndarray[Any, Any]) -> int:
    """The CRC-32 of all memory of a contiguous `array`."""
    return zlib.crc32(_bytes_of(array).data)


def _base(words: int) -> Words:
    global _pattern  # noqa: PLW0603 - grown to the longest array so far
    if words > _pattern.size:
        _pattern = np.arange(words, dtype=np.uint64) * np.uint64(_STEP)
    return _pattern[:words]


def _tail(stamp: int, words: int, size_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes after so many words, which are fewer than a word."""
    return array_of(stamp, words + 1)[-1:].view(np.uint8)[:size_bytes]


def _memory_of(array: np.ndarray[Any, Any]) -> tuple[Words, np.ndarray[Any, np.dtype[np.uint8]]]:
    """The memory of `array` as whole words and the bytes that are left."""
    memory = _bytes_of(array)
    whole = memory.size // _WORD_BYTES * _WORD_BYTES
    return memory[:whole].view(np.uint64), memory[whole:]


def _bytes_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if not array.nbytes:
        return np.empty(0, np.uint8)
    return (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.uint8)
