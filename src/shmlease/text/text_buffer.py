"""A stretch of text in memory that numpy can read eight bytes at a time, from any position.

`numpy.take` reads aligned 64-bit words at half a nanosecond each, and an unaligned view ten times slower, so eight bytes
from any position are put together from the two aligned words that hold them. Room on both sides keeps every such read
inside the array.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Bools", "Bytes", "Ints", "TextBuffer", "Words"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_MARGIN = 32  # bytes kept free before and after the text: more than the widest read, and whole words
# Searching a text for delimiters makes eleven bytes of working memory for each byte searched; so much of it at once leaves
# a second-level cache of 1 to 2 MiB to the rest.
_WINDOW = 128 * 1024
_LINE_FEED = 10
_ZERO = np.uint8(ord("0"))
_THREE = np.uint64(3)
_WORD_BITS = np.uint64(64)


class TextBuffer:
    """Bytes of a table, with room for `capacity` of them; positions count from the first byte of the text."""

    __slots__ = ("_buffer", "_masks", "_positions", "_words", "is_ascii", "size_bytes")

    def __init__(self, capacity: int) -> None:
        self._buffer: Bytes = np.zeros(-(-capacity // 8) * 8 + 2 * _MARGIN, np.uint8)
        self._masks: Bools = np.empty((2, min(self.capacity, _WINDOW)), np.bool_)
        self._positions: Ints = np.empty(self.capacity, np.int64)
        self._words: npt.NDArray[Any] = self._buffer[_MARGIN:].view("<u8")
        self.size_bytes = 0
        self.is_ascii = True

    @property
    def capacity(self) -> int:
        """How many bytes of text fit."""
        return len(self._buffer) - 2 * _MARGIN

    @property
    def content(self) -> Bytes:
        """The text itself."""
        return self._buffer[_MARGIN : _MARGIN + self.size_bytes]

    @property
    def masks(self) -> Bools:
        """Two arrays of bools to work with, as long as the part of a text that is searched at once."""
        return self._masks

    def positions(self, columns: int) -> Ints:
        """Room for a position for each cell, column by column; it is used again for the next text."""
        return self._positions[: self.size_bytes // columns * columns].reshape(columns, -1)

    def fill(self, data: Bytes, newline: int) -> None:
        """Take whole lines that end with the byte `newline` as the text, in which they end with LF, the last one too."""
        self.size_bytes = len(data)
        self.content[:] = data
        if newline != _LINE_FEED:
            self.content[data == newline] = _LINE_FEED
        if self.content[-1] != _LINE_FEED:
            self.size_bytes += 1
            self.content[-1] = _LINE_FEED
        self._buffer[_MARGIN + self.size_bytes :][:_MARGIN] = 0
        self.is_ascii = bool(data.max() < 0x80)

    def load8(self, at: Ints) -> Words:
        """The eight bytes from each position on, as integers whose lowest byte is the first of them."""
        word = at >> 3
        shift: Words = (at & 7).view(np.uint64)
        shift <<= _THREE
        loaded: Words = self._words.take(word, mode="clip")
        loaded >>= shift
        rest: Words = self._words[1:].take(word, mode="clip")
        rest <<= np.subtract(_WORD_BITS, shift, out=shift)
        loaded |= rest
        return loaded

    def byte(self, at: Ints, ahead: int = 0) -> Bytes:
        """The byte `ahead` bytes after each position, or before it; not further than the margin."""
        return self._buffer[_MARGIN + ahead :].take(at, mode="clip")

    def digit(self, ends: Ints, place: int) -> Bytes:
        """The character `place` places before the last of the cells with these ends, less "0"; at most 31 places."""
        digit: Bytes = self._buffer[_MARGIN - 1 - place :].take(ends, mode="clip")
        digit -= _ZERO
        return digit

    def cell(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`."""
        return self._buffer[_MARGIN + start : _MARGIN + end].tobytes()
