"""Encoding of chunks: rows in, the bytes that HDF5 will store out, in any process or thread.

The rows of a chunk may come in pieces, each from another block of memory: a chunk may span blocks of text that different
workers parsed. The result goes into a buffer of the caller's, and never takes more than `Codec.bound_bytes`: a chunk that
does not shrink is stored as it is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from shmlease.errors import SinkError
from shmlease.hdf5 import deflate
from shmlease.hdf5.checksum import crc32
from shmlease.hdf5.filters import COMPRESSIONS, filter_through_hdf5
from shmlease.hdf5.layout import Grid, is_all_float, padding_bytes
from shmlease.hdf5.shuffle import shuffle

__all__ = ["ChunkEncoder", "Codec", "EncodedChunk", "plain_bytes"]

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# A chunk encoded in every way costs 2 to 3 times one encoded in the way known to be best; done for one chunk in 32 that
# is 3 to 6 %. Samples of a chunk were tried instead and chose wrong: 64 KiB of planes do not behave like 1 MiB of them.
_TRY_ALL_EVERY = 32


class Codec(msgspec.Struct, frozen=True):
    """How the chunks of one dataset are encoded; picklable.

    Attributes
    ----------
    dtype : numpy.dtype
        Of one element.
    grid : Grid
        Its `chunk_shape` is what a whole chunk holds.
    compression : str
        A name in `filters.COMPRESSIONS`.
    transposed : bool
        Rows lie along the last axis in the file; `grid` has them along the first.
    """

    dtype: np.dtype[Any]
    grid: Grid
    compression: str
    transposed: bool = False

    def in_file(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """A shape, or a place, of rows first, as the file has it."""
        return shape[::-1] if self.transposed else shape

    @property
    def chunk_rows(self) -> int:
        """Rows a whole chunk spans."""
        return self.grid.chunk_rows

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return math.prod(self.grid.trailing) * self.dtype.itemsize

    @property
    def bound_bytes(self) -> int:
        """Size of a whole chunk, which no encoded chunk exceeds."""
        return self.grid.elements * self.dtype.itemsize


class EncodedChunk(msgspec.Struct, frozen=True):
    """What is known of an encoded chunk; the payload is the first `size_bytes` of the buffer it was written to.

    Attributes
    ----------
    size_bytes : int
        Of the payload.
    filter_mask : int
        Bit i set: filter i of the dataset was not applied.
    payload_crc32 : int
        Of the payload.
    pieces : tuple of (int, int)
        Size in bytes and CRC-32 of each piece of rows, decoded, in order.
    columns : tuple of EncodedChunk
        Of a chunk of a table whose columns are datasets: theirs, whose payloads lie one behind the other. The filter mask
        and the checksum of the whole mean nothing then.
    """

    size_bytes: int
    filter_mask: int
    payload_crc32: int
    pieces: tuple[tuple[int, int], ...]
    columns: tuple[EncodedChunk, ...] = ()

    @property
    def data_bytes(self) -> int:
        """Decoded size, without the padding of a chunk that is not full."""
        return sum(size for size, _ in self.pieces)


def plain_bytes(array: Array) -> Bytes:
    """The bytes of the elements in C order, with zeros in the bytes of no field: `array` itself where it lies so."""
    unused = padding_bytes(array.dtype)
    if not unused.size:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    clean = np.array(array, order="C", subok=False).reshape(-1).view(np.uint8)
    clean.reshape(-1, array.dtype.itemsize)[:, unused] = 0
    return clean


class _Scratch(threading.local):
    """Buffers that each thread keeps, since fresh memory costs a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def take(self, purpose: str, size_bytes: int) -> Bytes:
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.size < size_bytes:
            buffer = self._buffers[purpose] = np.empty(size_bytes, np.uint8)
        return buffer[:size_bytes]


_scratch = _Scratch()


class ChunkEncoder:
    """Encodes chunks of one dataset, remembering which recipe made the last ones smallest.

    It may be shared by threads. What it remembers affects sizes only, never what is read back.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._method = COMPRESSIONS[codec.compression]
        self._recipes = deflate.recipes_for(codec.dtype.itemsize, all_float=is_all_float(codec.dtype))
        self._best: deflate.Recipe | None = None
        self._encoded = 0

    def encode(self, pieces: Sequence[Array] | Array, out: Bytes) -> EncodedChunk:
        """Encode one chunk into `out`.

        Parameters
        ----------
        pieces : array or sequence of arrays
            The chunk's rows, in order, of the codec's dtype. Fewer than a whole chunk only at the edge of a dataset.
        out : uint8 array
            Receives the payload; at least `codec.bound_bytes` long, such as a leased segment.
        """
        parts = [self._bytes_of(piece) for piece in ([pieces] if isinstance(pieces, np.ndarray) else pieces)]
        filled = sum(part.size for part in parts)
        bound = self.codec.bound_bytes
        if not 0 < filled <= bound:
            raise SinkError(f"a chunk of {filled} bytes was given; this dataset's chunks hold 1 to {bound}")
        if out.nbytes < bound:
            raise SinkError(f"the buffer for an encoded chunk has {out.nbytes} bytes; it needs {bound}")
        laid_out = [self._transposed(parts)] if self.codec.transposed else parts
        payload, mask = self._filtered(laid_out)
        if mask == self._method.skip_all or len(payload) >= bound:
            payload, mask = _concatenated(laid_out, out[:bound]), self._method.skip_all
        else:
            out[: len(payload)] = np.frombuffer(payload, np.uint8)
        stored = out[: len(payload)]
        return EncodedChunk(len(payload), mask, crc32(stored), tuple((part.size, crc32(part)) for part in parts))

    def _bytes_of(self, piece: Array) -> Bytes:
        if piece.dtype != self.codec.dtype:
            raise SinkError(f"a piece of dtype {piece.dtype} was given for chunks of dtype {self.codec.dtype}")
        return plain_bytes(piece)

    def _transposed(self, parts: list[Bytes]) -> Bytes:
        """The whole chunk with rows along its last axis."""
        codec = self.codec
        rows = self._plain(parts).view(codec.dtype).reshape(codec.grid.chunk_shape)
        turned = _scratch.take("transposed", codec.bound_bytes)
        turned.view(codec.dtype).reshape(rows.shape[::-1])[...] = rows.T
        return turned

    def _filtered(self, parts: list[Bytes]) -> tuple[bytes | Bytes, int]:
        if self._method.encoded_by == "copy":
            return b"", self._method.skip_all
        if self._method.encoded_by == "hdf5":
            plain = self._plain(parts).view(self.codec.dtype)
            return filter_through_hdf5(plain, self.codec.grid.chunk_shape, self.codec.compression)
        return self._deflated(parts)

    def _plain(self, parts: list[Bytes]) -> Bytes:
        """The chunk as it lies in memory."""
        bound = self.codec.bound_bytes
        if len(parts) == 1 and parts[0].size == bound:
            return parts[0]
        return _concatenated(parts, _scratch.take("plain", bound))

    def _deflated(self, parts: list[Bytes]) -> tuple[bytes, int]:
        best = self._best
        candidates = self._recipes if best is None or self._encoded % _TRY_ALL_EVERY == 0 else (best,)
        self._encoded += 1
        plain: Bytes | None = None
        shuffled: Bytes | None = None
        results = []
        for recipe in candidates:
            if recipe.shuffle and shuffled is None:
                shuffled = _scratch.take("shuffled", self.codec.bound_bytes)
                shuffle(parts, self.codec.dtype.itemsize, shuffled)
            elif not recipe.shuffle and plain is None:
                plain = self._plain(parts)
            data = shuffled if recipe.shuffle else plain
            assert data is not None
            results.append((deflate.compress(data, recipe.window_bits), recipe))
        payload, chosen = min(results, key=lambda result: len(result[0]))
        if len(candidates) > 1:
            self._best = chosen
        return payload, 0 if chosen.shuffle else 0b01


def _concatenated(parts: list[Bytes], out: Bytes) -> Bytes:
    """`parts` end to end in `out`, which is filled up with zeros."""
    place = 0
    for part in parts:
        out[place : place + part.size] = part
        place += part.size
    out[place:] = 0
    return out
