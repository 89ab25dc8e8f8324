"""Where rows came from and what they must be: kept as attributes, so that a reader can check both.

Each dataset carries these; those of the file are `VERSION` and `DATASETS`.

=======================  ==============================================================================
``shmlease_version``     the version of shmlease that wrote it
``shmlease_rows``        number of rows (1 for a scalar)
``shmlease_dtype``       dtype as in a .npy header
``shmlease_checksum``    ``crc32:`` and the CRC-32 of the elements' bytes in C order, padding as zeros
``shmlease_transposed``  1 where rows lie along the last axis; checksum and sources are of rows
``shmlease_sources``     JSON list, one object for each row range, see `Source`
=======================  ==============================================================================

``shmlease_datasets`` of the file is the JSON list of the datasets it must hold.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from shmlease.hdf5.checksum import crc32

__all__ = [
    "CHECKSUM",
    "DATASETS",
    "DTYPE",
    "PREFIX",
    "ROWS",
    "SOURCES",
    "TRANSPOSED",
    "VERSION",
    "Source",
    "checksum_of_file",
    "decode_sources",
    "digest_file",
    "encode_sources",
    "format_checksum",
    "parse_checksum",
]

PREFIX = "shmlease_"
VERSION = PREFIX + "version"
ROWS = PREFIX + "rows"
DTYPE = PREFIX + "dtype"
CHECKSUM = PREFIX + "checksum"
SOURCES = PREFIX + "sources"
TRANSPOSED = PREFIX + "transposed"
DATASETS = PREFIX + "datasets"
_READ_BYTES = 1 << 20


class Source(msgspec.Struct, frozen=True):
    """The source of rows [start, stop) of a dataset.

    Attributes
    ----------
    start, stop : int
        First row, and the row after the last.
    path : str or None
        As it was given.
    size_bytes : int or None
        Size of the file at `path`.
    digest : str or None
        Of the file at `path`: ``sha256:`` or ``crc32:`` and hexadecimal digits. The latter guards against accident only,
        and costs a reader of the file next to nothing.
    checksum : str or None
        ``crc32:`` and the CRC-32 of these rows. None where rows were handed over across `start` or `stop`: the
        checksum of the dataset covers them all the same.
    details : dict
        Whatever else is to be kept.
    """

    start: int
    stop: int
    path: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    checksum: str | None = None
    details: dict[str, Any] = msgspec.field(default_factory=dict)


def digest_file(path: str | os.PathLike[str], algorithm: str = "sha256") -> tuple[int, str]:
    """Size in bytes of the file at `path`, and its digest as a `Source` has it; `algorithm` is ``sha256`` or ``crc32``."""
    with open(path, "rb", buffering=0) as file:
        if algorithm != "sha256":
            return os.fstat(file.fileno()).st_size, format_checksum(checksum_of_file(path))
        import hashlib  # noqa: PLC0415 - loads OpenSSL, which takes as long as a third of an interpreter's start

        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), f"sha256:{digest}"


def checksum_of_file(path: str | os.PathLike[str], stop: int | None = None, *, start: int = 0) -> int:
    """CRC-32 of the bytes of a file from `start` to before `stop`, by default of all."""
    if stop == 0:
        return 0
    value, left = 0, (os.stat(path).st_size if stop is None else stop) - start
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left > 0 and (data := file.read(min(left, _READ_BYTES))):
            value = crc32(data, value)
            left -= len(data)
    return value


def format_checksum(value: int) -> str:
    """A CRC-32 as it stands in an attribute."""
    return f"crc32:{value:08x}"


def parse_checksum(text: str) -> int:
    """The CRC-32 that stands in an attribute."""
    return int(text.removeprefix("crc32:"), base=16)


def encode_sources(sources: list[Source]) -> str:
    """The text of ``shmlease_sources``. A text has no limit of length, an array in an attribute ends at 64 KiB."""
    return msgspec.json.encode(sources).decode()


def decode_sources(text: str | bytes) -> list[Source]:
    """The sources in the text of ``shmlease_sources``.

    Raises
    ------
    msgspec.DecodeError
        The text is not what `encode_sources` writes.
    """
    return msgspec.json.decode(text, type=list[Source])
