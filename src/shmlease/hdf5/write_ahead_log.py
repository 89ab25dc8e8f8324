"""The write-ahead log beside an unfinished file: one line for each thing done, in the order it was done.

Rules:

- A line is the CRC-32 of its text, the text as JSON, a newline. A kill can tear the last line; reading stops there.
- A line is written after the data it describes. It is believed only if they are there: chunks are read again and
  checked against their CRC-32 before a run is resumed.
- HDF5's own structures in an unfinished file are never read. They follow from the write-ahead log (see `recovery`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from shmlease.hdf5.checksum import crc32

__all__ = [
    "Attribute",
    "Checkpoint",
    "Chunk",
    "Closing",
    "Dataset",
    "Finish",
    "Record",
    "Remainder",
    "Resume",
    "SmallArray",
    "SourceRange",
    "Start",
    "WriteAheadLog",
]


class _Record(msgspec.Struct, frozen=True, tag_field="is", tag=str.lower):
    pass


class Start(_Record, frozen=True):
    """The first line: by whom, and with which HDF5, whose layout a resumed run must repeat."""

    format: int
    shmlease: str
    hdf5: str


class Dataset(_Record, frozen=True):
    """A dataset was begun. `rows` is None while it grows; `encoded` when its chunks come encoded.

    `labels` has those of its fields that are enumerations, in the order of their numbers. `transposed` says that the axes
    lie the other way round in the file: rows along the last one. `variable` names fields whose strings have variable length
    in the finished file, see `variable_strings`; an empty name is the dataset itself.
    """

    name: str
    dtype: str
    trailing: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    compression: str
    rows: int | None
    encoded: bool
    labels: dict[str, tuple[str, ...]] = {}
    transposed: bool = False
    variable: tuple[str, ...] = ()


class SmallArray(_Record, frozen=True):
    """A whole array too small for chunks was written, with its attributes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    attributes: dict[str, dict[str, Any]]


class Chunk(_Record, frozen=True):
    """A chunk lies in the file at `offset`."""

    name: str
    index: int
    offset: int
    size_bytes: int
    filter_mask: int
    payload_crc32: int
    pieces: tuple[tuple[int, int], ...]


class Remainder(_Record, frozen=True):
    """Rows that do not fill a chunk yet, from `start_byte` of the dataset on."""

    name: str
    start_byte: int
    data: bytes


class Checkpoint(_Record, frozen=True):
    """Everything up to these rows was handed over; `rows` names the datasets that moved since the last checkpoint."""

    rows: dict[str, int]
    position: Any


class SourceRange(_Record, frozen=True):
    """Rows [start, stop) of a dataset came from one source."""

    name: str
    start: int
    stop: int
    path: str | None
    size_bytes: int | None
    digest: str | None
    details: dict[str, Any]


class Attribute(_Record, frozen=True):
    """An attribute was set (of the file when `name` is None), or removed (`value` None)."""

    name: str | None
    key: str
    value: dict[str, Any] | None


class Finish(_Record, frozen=True):
    """A dataset takes no more rows; `chunk_shape` is the one it gets if no chunk of it is stored yet."""

    name: str
    chunk_shape: tuple[int, ...]


class Resume(_Record, frozen=True):
    """A run was resumed at the checkpoint of this number (0: none); what was handed over after it is to come again."""

    checkpoint: int


class Closing(_Record, frozen=True):
    """From here on the file is completed. A run resumed later does it again."""


Record = Start | Dataset | SmallArray | Chunk | Remainder | Checkpoint | SourceRange | Attribute | Finish | Resume | Closing
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class WriteAheadLog:
    """Appends records to an open file, and reads them again; it owns `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def append(self, record: Record) -> None:
        """Write one record; it outlives this process, not a loss of power."""
        text = msgspec.json.encode(record)
        line = b"%08x %b\n" % (crc32(text), text)
        while line:
            line = line[os.write(self._fd, line) :]

    def read(self) -> Iterator[tuple[Record, int]]:
        """Every record that is whole, each with the offset of the line after it."""
        offset = 0
        with os.fdopen(os.dup(self._fd), "rb") as lines:
            lines.seek(0)
            for line in lines:
                offset += len(line)
                text = line[9:-1]
                if not line.endswith(b"\n") or line[:9] != b"%08x " % crc32(text):
                    return
                try:
                    yield _decoder.decode(text), offset
                except msgspec.DecodeError:  # of a later version of shmlease
                    return

    def truncate(self, size_bytes: int) -> None:
        """Forget what lies beyond `size_bytes`."""
        os.ftruncate(self._fd, size_bytes)

    def close(self) -> None:
        """Close the file, and so drop the lock on it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
