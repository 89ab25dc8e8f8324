"""Chunks of a table whose columns are datasets: a chunk of each column, of the same rows, one behind the other.

Code that plans, encodes and hands over chunks of rows therefore works for columns as well. What is encoded here is stored
by `shmlease.hdf5.columnar_sink`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from shmlease.hdf5.chunk_encoding import ChunkEncoder, Codec, EncodedChunk

__all__ = ["AnyCodec", "AnyEncoder", "ColumnarCodec", "ColumnarEncoder", "encoder_of"]

Array = np.ndarray[Any, Any]


class ColumnarCodec(msgspec.Struct, frozen=True):
    """How the chunks of a table are encoded, column by column; picklable.

    Attributes
    ----------
    columns : tuple of (str, Codec)
        Name and codec of each, with the same number of rows in a chunk.
    """

    columns: tuple[tuple[str, Codec], ...]

    @property
    def chunk_rows(self) -> int:
        """Rows a whole chunk spans."""
        return self.columns[0][1].chunk_rows

    @property
    def bound_bytes(self) -> int:
        """Size of a whole chunk of all columns, which no encoded one exceeds."""
        return sum(codec.bound_bytes for _, codec in self.columns)

    @property
    def compression(self) -> str:
        """``none`` if no column is compressed, else the compression of the first that is."""
        return next((codec.compression for _, codec in self.columns if codec.compression != "none"), "none")


class ColumnarEncoder:
    """Encodes chunks of one table."""

    def __init__(self, codec: ColumnarCodec) -> None:
        self.codec = codec
        self._encoders = {name: ChunkEncoder(column) for name, column in codec.columns}

    def encode(self, pieces: Sequence[Array], out: np.ndarray[Any, np.dtype[np.uint8]]) -> EncodedChunk:
        """Encode one chunk of structured rows into `out`; see `ChunkEncoder.encode`."""
        place = 0
        columns = []
        for name, encoder in self._encoders.items():
            columns.append(encoder.encode([piece[name] for piece in pieces], out[place:]))
            place += columns[-1].size_bytes
        return EncodedChunk(place, 0, 0, tuple(piece for each in columns for piece in each.pieces), tuple(columns))


AnyCodec = Codec | ColumnarCodec
AnyEncoder = ChunkEncoder | ColumnarEncoder


def encoder_of(codec: AnyCodec) -> AnyEncoder:
    """An encoder for chunks of rows, or of a table."""
    return ColumnarEncoder(codec) if isinstance(codec, ColumnarCodec) else ChunkEncoder(codec)
