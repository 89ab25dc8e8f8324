"""The file that recorders write, read while they do.

The lines come from programs that may be killed in the middle of one, so a line that does not parse is passed over; how they
lie in the file is said in `inject/shmlease_record_file.py`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from shmlease.auditor.run.inject.shmlease_record_file import END_OF_PIECE, PIECE
from shmlease.auditor.run.inject.shmlease_recorder import SEPARATOR
from shmlease.auditor.run.records import Record, Records
from shmlease.system.safe_open import open_regular, reason_of
from shmlease.units import format_bytes

__all__ = ["RecordLog"]

_DELETED: Final = " (deleted)"
# The programs write what they like. Of a recorder, a block holds some thousand lines, and the limit those of a million
# segments.
_BLOCK_BYTES: Final = 1 << 20
_LEAST_PIECE_BYTES: Final = 4096
_LIMIT_BYTES: Final = 256 << 20


@dataclass(slots=True)
class _Piece:
    """What has not been read of a piece of the file, which one process fills."""

    position: int
    end: int


class RecordLog:
    """The file that recorders write, read as far as it goes, again and again; one that is not there has no records.

    Parameters
    ----------
    path : str
        The file.
    directory : str, optional
        Places beneath it become relative to it; the working directory if not given.
    """

    def __init__(self, path: str, directory: str | None = None) -> None:
        self._path = path
        self._base = os.path.join(os.getcwd() if directory is None else directory, "")
        self._position = 0
        self._pieces: list[_Piece] = []
        self._records: list[Record] = []
        self._commands: dict[int, str] = {}
        self._stacks: dict[str, list[str]] = {}
        self._lost = ""

    def read(self) -> Records:
        """Everything that has been recorded so far."""
        try:
            descriptor = open_regular(self._path, owner=os.geteuid())
        except FileNotFoundError:
            pass
        except OSError as error:
            self._lost = reason_of(error)
        else:
            try:
                self._read(descriptor)
            finally:
                os.close(descriptor)
        return Records(tuple(self._records), self._commands, self._lost)

    def _read(self, descriptor: int) -> None:
        known = len(self._records)
        unresolved: list[tuple[int, str]] = []  # records whose stack stands in a piece that is read after them
        for line in itertools.chain(self._appended(descriptor), self._in_pieces(descriptor)):
            try:
                stack = self._take(line.decode("utf-8", "surrogateescape").split(SEPARATOR))
            except (ValueError, IndexError):
                continue  # the program was killed while it wrote this
            if stack:
                unresolved.append((len(self._records) - 1, stack))
        for index, stack in unresolved:
            self._records[index] = replace(self._records[index], frames=self._stacks.get(stack, ()))
        if len(self._records) > known:
            self._records.sort(key=lambda record: record.at_ns)

    def _appended(self, descriptor: int) -> Iterator[bytes]:
        """The lines outside of pieces; a piece that is met is noted, and passed over."""
        while self._position < _LIMIT_BYTES:
            block = os.pread(descriptor, _BLOCK_BYTES, self._position)
            end = block.rfind(b"\n") + 1
            if not end:
                if len(block) < _BLOCK_BYTES:
                    return  # a line that is being written is left for the next time
                end = len(block)  # which is no line of a recorder, and has no second half
            begin, at = self._position, 0
            while at < end:
                newline = block.find(b"\n", at, end)
                at, line = (end if newline < 0 else newline + 1), block[at:newline].lstrip(b"\0")
                if line.startswith(PIECE):
                    start = begin + at - len(line) - 1
                    length = _piece_length(descriptor, start, line)
                    if length is None:
                        self._position = start
                        return
                    if length:
                        self._pieces.append(_Piece(begin + at, start + length - len(END_OF_PIECE)))
                        at = start + length - begin
                        continue
                yield line
            self._position = begin + at
        self._lost = f"more than {format_bytes(_LIMIT_BYTES)} were recorded, and the rest is not read"

    def _in_pieces(self, descriptor: int) -> Iterator[bytes]:
        """The lines in pieces that nobody has read, of each as far as it is written."""
        for piece in self._pieces:
            block = os.pread(descriptor, piece.end - piece.position, piece.position)
            written = block.find(b"\0")
            end = block.rfind(b"\n", 0, None if written < 0 else written) + 1
            if end:
                piece.position += end
                yield from block[: end - 1].split(b"\n")
        self._pieces = [piece for piece in self._pieces if piece.position < piece.end]

    def _take(self, fields: list[str]) -> str:
        """Keep what a line says; the id of its stack, if that is not known yet."""
        if fields[0] == "process":
            self._commands[int(fields[1])] = fields[2]
        elif fields[0] == "stack":
            self._stacks[fields[1]] = _whole_frames(fields[2:])
        else:
            kind, at_ns, pid, inode, size, name, test, stack = fields
            # pytest names the phase as well: "tests/test_x.py::test_y (call)"
            test = test.rpartition(" (")[0] or test
            frames = self._stacks.get(stack)
            name = name.removesuffix(_DELETED)
            record = Record(kind, int(at_ns), int(pid), int(inode), int(size), name, test, frames or (), self._base)
            self._records.append(record)
            return stack if frames is None else ""
        return ""


def _piece_length(descriptor: int, start: int, header: bytes) -> int | None:
    """The bytes of the piece that begins at `start`; 0 if that is none after all, None if it is still being written."""
    try:
        length = int(header[len(PIECE) :])
    except ValueError:
        return 0
    if not _LEAST_PIECE_BYTES <= length <= _BLOCK_BYTES:
        return 0
    if os.pread(descriptor, len(END_OF_PIECE), start + length - len(END_OF_PIECE)) == END_OF_PIECE:
        return length
    # Cut short, it ends with zeros until somebody appends a line.
    last = os.fstat(descriptor).st_size - 1
    return None if last < start + length and os.pread(descriptor, 1, last) == b"\0" else 0


def _whole_frames(fields: list[str]) -> list[str]:
    """The fields of file, line and function of each frame, without one that was cut short."""
    whole = fields[: len(fields) - len(fields) % 3]
    for line in whole[1::3]:
        int(line)
    return whole
