"""Records from places all over a file, for those who want to know what it holds without reading all of it.

A sample has the beginning of the text and lines from places all over it, its end among them. In a file with quoted cells a
place in the middle does not show whether it is inside one, so it is read through, and records of some blocks are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from shmlease.text.blocks import Piece, read_piece
from shmlease.text.first_lines import line_end_of
from shmlease.text.header import open_table
from shmlease.text.records import read_record
from shmlease.text.schema import Schema
from shmlease.text.sources import PathLike, compression_of, is_read_once, open_source

__all__ = ["Sample", "records_of", "take_sample", "take_sample_of_quoted"]

_HEAD_BYTES = 256 << 10
_PLACES, _PART_BYTES = 32, 32 << 10


@dataclass(frozen=True, slots=True)
class Sample:
    """Text from all over a file; line ends are LF.

    Attributes
    ----------
    head : str
        The beginning, as far as whole lines go.
    later : list of str
        Lines from the rest.
    is_all : bool
        The head is the whole file.
    encoding : str
        ``utf-8``, or ``latin-1`` where that does not fit.
    is_ascii : bool
        Whether all of it is ASCII.
    has_cr : bool
        Lines end with CR alone.
    """

    head: str
    later: list[str]
    is_all: bool
    encoding: str
    is_ascii: bool
    has_cr: bool


def take_sample(path: PathLike) -> Sample:
    """A look at a file. A compressed one is read to its end: its middle cannot be reached otherwise.

    Raises
    ------
    IngestError
        The file cannot be read.
    """
    head, parts = _read_parts(path)
    has_cr = line_end_of(head) == "cr"
    newline = b"\r" if has_cr else b"\n"
    beginning = head.removeprefix(b"\xef\xbb\xbf").split(newline)
    if parts:
        beginning.pop()
    later = [line for part in parts for line in part.split(newline)[1:-1]]  # a part begins and ends inside a line
    later += [line for part in parts[-1:] for line in part.split(newline)[-1:]]
    text, rest = b"\n".join(beginning), b"\n".join(later)
    encoding = "utf-8"
    try:
        _ = text.decode(encoding), rest.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
    lines = [line.removesuffix("\r") for line in rest.decode(encoding).split("\n")] if later else []
    head_text = text.decode(encoding).replace("\r\n", "\n")
    return Sample(head_text, lines, not parts, encoding, text.isascii() and rest.isascii(), has_cr)


def records_of(text: str, schema: Schema) -> Iterator[tuple[int, str]]:
    """The records of a text, each with the number of its first line, from 0; of a malformed one, its first line."""
    if not schema.quote:
        yield from enumerate(text.split("\n"))
        return
    data = text.encode()
    at = line = 0
    while at <= len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        if schema.quote.encode() in data[at:end] and not data.startswith(tuple(map(str.encode, schema.comments)), at):
            end = read_record(data, at, schema, is_whole=True).end
        yield line, data[at:end].decode().removesuffix("\r")
        line += 1 + data.count(b"\n", at, end)
        at = end + 1


def take_sample_of_quoted(path: PathLike, schema: Schema, width: int) -> list[str]:
    """Records from all over a file with quoted cells, which is read to its end.

    Raises
    ------
    IngestError
        The file cannot be read.
    """
    table = open_table(path, replace(schema, width=width))
    last = b""

    def beginnings_of_blocks() -> Iterator[bytes]:
        nonlocal last
        for block in read_piece(table, Piece(0, table.data_offset, None), _HEAD_BYTES):
            last = bytes(block.data)
            yield last[:_PART_BYTES]

    parts = [_decoded(part, table.schema)[:-1] for part in _spread(beginnings_of_blocks())]
    return [record for part in parts for record in part] + _decoded(last, table.schema)


def _decoded(data: bytes, schema: Schema) -> list[str]:
    text = data.decode(schema.encoding, "replace")
    text = text.replace("\r", "\n") if schema.line_end == "cr" else text
    return [record for _, record in records_of(text, schema)]


def _read_parts(path: PathLike) -> tuple[bytes, list[bytes]]:
    """The beginning of the text, and parts of the rest, the last of which ends it."""
    with open_source(path) as stream:
        head = stream.read(_HEAD_BYTES)
        if is_read_once(path):
            return head, [] if len(head) < _HEAD_BYTES else [b""]
        if compression_of(path) == "plain":
            size = os.stat(path).st_size
            apart = max((size - len(head)) // _PLACES, _PART_BYTES)
            places = list(range(size - _PART_BYTES, len(head) - _PART_BYTES, -apart))[::-1]
            return head, [_read_at(path, max(place, len(head))) for place in places]
        tail = b""

        def beginnings_of_chunks() -> Iterator[bytes]:
            nonlocal tail
            while chunk := stream.read(_HEAD_BYTES):
                tail = (tail + chunk)[-_PART_BYTES:]
                yield chunk[:_PART_BYTES]

        parts = _spread(beginnings_of_chunks())
        return head, [*parts, tail] if tail else []


def _spread(parts: Iterable[bytes]) -> list[bytes]:
    """At most twice `_PLACES` of `parts`, at equal distances; of more, every second one, and from then on half as many."""
    kept: list[bytes] = []
    step = 1
    for index, part in enumerate(parts):
        if index % step == 0:
            kept.append(part)
        if len(kept) > 2 * _PLACES:
            kept, step = kept[::2], 2 * step
    return kept


def _read_at(path: PathLike, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(_PART_BYTES)
