"""Records of parts of a file that were read apart, and how they become the record of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from shmlease.errors import SinkError
from shmlease.hdf5.checksum import combine
from shmlease.hdf5.provenance import Source, format_checksum, parse_checksum

__all__ = ["FilePart", "joined_parts", "part_of"]

_PART: Final = "part"  # among the details of a source


class FilePart(msgspec.Struct, frozen=True):
    """Which bytes of a file rows came from: what a source has in its details instead of the file's size and digest.

    Attributes
    ----------
    start, stop : int
        First byte, and the byte after the last.
    lines : int
        That begin in them, those before the first row among them.
    crc32 : int
        Of these bytes.
    file_bytes : int
        Size of the file.
    """

    start: int
    stop: int
    lines: int
    crc32: int
    file_bytes: int


def part_of(source: Source) -> FilePart | None:
    """The part of a file that a source is; None if it is all of it."""
    found = source.details.get(_PART)
    return None if found is None else msgspec.convert(found, FilePart)


def joined_parts(sources: Iterable[Source], row_bytes: int) -> list[Source]:
    """The sources of a dataset in order, parts of one file as one source with its size and digest.

    Raises
    ------
    SinkError
        A part of a file is missing.
    """
    joined: list[Source] = []
    for path, group in groupby(sources, key=lambda source: source.path if part_of(source) else id(source)):
        parts = list(group)
        joined += parts if part_of(parts[0]) is None else [_joined(str(path), parts, row_bytes)]
    return joined


def _joined(path: str, sources: Sequence[Source], row_bytes: int) -> Source:
    digest = at = 0
    checksum: int | None = 0
    notes: Counter[str] = Counter()
    for source in sources:
        part = part_of(source)
        if part is None or part.start != at:
            raise SinkError(f"{path}: what was read of it goes on after byte {at}, and no shard has that", path=path)
        digest, at = combine(digest, part.crc32, part.stop - part.start), part.stop
        if checksum is not None and source.checksum is not None:
            checksum = combine(checksum, parse_checksum(source.checksum), (source.stop - source.start) * row_bytes)
        else:
            checksum = None
        notes += Counter(source.details["notes"])
        size_bytes = part.file_bytes
    if at != size_bytes:
        raise SinkError(f"{path}: has {size_bytes} bytes, and {at} of them were read", path=path)
    details: dict[str, Any] = {key: sum(each.details[key] for each in sources) for key in ("lines", "rejected")}
    return Source(
        sources[0].start,
        sources[-1].stop,
        path,
        size_bytes,
        format_checksum(digest),
        None if checksum is None else format_checksum(checksum),
        {**details, "notes": dict(notes)},
    )
