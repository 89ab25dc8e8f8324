"""What the recorder wrote in the processes of a run: who created which segment, where in the code, and what a tracker
removed.

The lines come from programs that may be killed in the middle of one, so a line that does not parse is passed over. A file
is told by device, inode and birth time; the recorder knows the inode, and its clock says which of two files of one inode is
meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shmlease.auditor.judge.findings import Creator, FileIdentity, Place
from shmlease.auditor.observe.statx import statx
from shmlease.auditor.run.inject.shmlease_recorder import SEPARATOR
from shmlease.system.safe_open import open_regular, reason_of
from shmlease.units import format_bytes

__all__ = ["Creations", "Record", "RecordLog", "Records", "merged"]

_DELETED: Final = " (deleted)"
# The kernel stamps a birth with a clock that ticks every 1 to 10 ms, so it may lie before the record that preceded it.
_TICK_NS: Final = 10_000_000
# An `open` is recorded before the file is there; a machine under load may stop the program in between.
_OPEN_WITHIN_NS: Final = 5_000_000_000
# The programs write what they like. Of a recorder, a block holds some thousand lines, and the limit those of a million
# segments.
_BLOCK_BYTES: Final = 1 << 20
_LIMIT_BYTES: Final = 256 << 20
_LIBRARY: Final = re.compile(r"(?:^|/)(?:site|dist)-packages/")
_STANDARD: Final = re.compile(r"^<frozen |(?:^|/)lib(?:64)?/(?:python|pypy)\d\.\d+t?/(?!(?:site|dist)-packages/)")


@dataclass(frozen=True, slots=True)
class Record:
    """One thing a process did with a segment: `kind` is map, size, open or reap.

    `frames` are file, line and function of each frame, innermost first, as they were written: most are never looked at.
    """

    kind: str
    at_ns: int
    pid: int
    inode: int
    size_bytes: int
    path: str
    test: str = ""
    frames: Sequence[str] = ()
    base: str = ""

    @property
    def stack(self) -> tuple[Place, ...]:
        """The frames, innermost first; files beneath `base` are relative to it."""
        frames = self.frames
        rows = zip(frames[::3], frames[1::3], frames[2::3], strict=True)
        return tuple(Place(file.removeprefix(self.base), int(line), function) for file, line, function in rows)

    @property
    def place(self) -> Place | None:
        """The line to blame: the innermost one of the program itself, else of a library, else any."""
        stack = self.stack
        own = (place for place in stack if _is_own(place))
        library = (place for place in stack if not _STANDARD.search(place.file))
        return next(own, None) or next(library, None) or next(iter(stack), None)

    def place_outside(self, package: str) -> Place | None:
        """The innermost line that is neither beneath the directory `package` nor Python's own."""
        outside = (place for place in self.stack if not place.file.startswith(package))
        return next((place for place in outside if not _STANDARD.search(place.file)), None)


def _is_own(place: Place) -> bool:
    """Whether it is the program's own code: neither Python's nor a library's."""
    return not _STANDARD.search(place.file) and not _LIBRARY.search(place.file)


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that was recorded, in the order of the file; `commands` by pid; why some could not be read, if so."""

    records: tuple[Record, ...] = ()
    commands: Mapping[int, str] = field(default_factory=dict)
    lost: str = ""

    @property
    def reaped(self) -> Iterator[Record]:
        """What resource trackers removed."""
        return (record for record in self.records if record.kind == "reap")

    def creator(self, record: Record) -> Creator:
        """Who created the segment of `record`."""
        command = self.commands.get(record.pid, "")
        stack = record.stack
        # what called the program, such as a test runner, is of no interest
        outermost = max((depth for depth, place in enumerate(stack) if _is_own(place)), default=len(stack) - 1)
        return Creator(record.pid, None, command, record.place, stack[outermost::-1], record.test)

    def creations_by_path(self) -> dict[str, list[Record]]:
        """The records of the creation of files, by path, in order of time."""
        creations: dict[str, list[Record]] = {}
        known: set[int] = set()
        for record in self.records:
            # the first record of an inode is its creation; the others are of processes that map it later
            if record.kind != "reap" and (record.inode == 0 or record.inode not in known):
                creations.setdefault(record.path, []).append(record)
            known.add(record.inode)
        return creations

    def creations(self, device: int) -> Creations:
        """Who created which file of `device`."""
        return Creations(self, device)


def merged(logs: Iterable[Records]) -> Records:
    """What several processes recorded, each in a file of its own, in order of time."""
    every = tuple(logs)
    if len(every) == 1:
        return every[0]
    records = sorted((record for one in every for record in one.records), key=lambda record: record.at_ns)
    return Records(tuple(records), {pid: command for one in every for pid, command in one.commands.items()})


class Creations(Mapping[FileIdentity, Creator]):
    """The creators of the files of one device; a file is looked up by its identity, birth time included."""

    def __init__(self, records: Records, device: int) -> None:
        self._records = records
        self._device = device
        self._by_inode: dict[int, list[Record]] = {}
        for record in records.records:
            if record.inode:
                self._by_inode.setdefault(record.inode, []).append(record)
        self._opened = dict(_opened(records.records, device))
        for found in self._by_inode.values():
            found.sort(key=lambda record: record.at_ns)

    def __getitem__(self, identity: FileIdentity) -> Creator:
        record = self.record_of(identity)
        if record is None:
            raise KeyError(identity)
        return self._records.creator(record)

    def record_of(self, identity: FileIdentity) -> Record | None:
        """What was recorded when that file was created."""
        if identity.device != self._device:
            return None
        opened = self._opened.get(identity.inode)
        if opened is not None and identity.born_ns in (None, opened[1]):
            return opened[0]
        since_ns = (identity.born_ns or 0) - _TICK_NS
        return next((record for record in self._by_inode.get(identity.inode, ()) if record.at_ns >= since_ns), None)

    def __iter__(self) -> Iterator[FileIdentity]:
        return (FileIdentity(self._device, inode) for inode in self._by_inode.keys() | self._opened.keys())

    def __len__(self) -> int:
        return len(self._by_inode.keys() | self._opened.keys())


def _opened(records: Iterable[Record], device: int) -> Iterator[tuple[int, tuple[Record, int]]]:
    """The inodes of files that are still there, each with the record of the `open` that created it, and its birth."""
    latest: dict[str, list[Record]] = {}
    for record in records:
        if record.kind == "open":
            latest.setdefault(record.path, []).append(record)
    for path, opened in latest.items():
        try:
            status = statx(path)
        except OSError:
            continue
        born_ns = status.born_ns
        if status.device != device or born_ns is None:
            continue
        creators = [r for r in opened if r.at_ns <= born_ns + _TICK_NS and born_ns - r.at_ns < _OPEN_WITHIN_NS]
        if creators:
            yield status.inode, (creators[-1], born_ns)


class RecordLog:
    """The file that recorders append to, read as far as it goes, again and again; one that is not there has no records.

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
        while self._position < _LIMIT_BYTES:
            block = os.pread(descriptor, _BLOCK_BYTES, self._position)
            end = block.rfind(b"\n") + 1
            if not end and len(block) < _BLOCK_BYTES:
                return  # a line that is being written is left for the next time
            whole = block[:end] if end else block  # which is no line of a recorder, and has no second half
            self._position += len(whole)
            for line in whole.decode("utf-8", "surrogateescape").split("\n"):
                try:
                    self._take(line.split(SEPARATOR))
                except (ValueError, IndexError):
                    continue  # the program was killed while it wrote this
        self._lost = f"more than {format_bytes(_LIMIT_BYTES)} were recorded, and the rest is not read"

    def _take(self, fields: list[str]) -> None:
        if fields[0] == "process":
            self._commands[int(fields[1])] = fields[2]
        elif fields[0] == "stack":
            self._stacks[fields[1]] = _whole_frames(fields[2:])
        else:
            kind, at_ns, pid, inode, size, name, test, stack = fields
            # pytest names the phase as well: "tests/test_x.py::test_y (call)"
            test = test.rpartition(" (")[0] or test
            frames = self._stacks.get(stack, ())
            name = name.removesuffix(_DELETED)
            record = Record(kind, int(at_ns), int(pid), int(inode), int(size), name, test, frames, self._base)
            self._records.append(record)


def _whole_frames(fields: list[str]) -> list[str]:
    """The fields of file, line and function of each frame, without one that was cut short."""
    whole = fields[: len(fields) - len(fields) % 3]
    for line in whole[1::3]:
        int(line)
    return whole
