"""What the recorder wrote in the processes of a run: who created which segment, where in the code, and what a tracker
removed.

A file of shared memory is identified by device, inode and birth time; the recorder knows the inode, and its clock says
which of two files of one inode is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shmlease.auditor.judge.findings import Creator, FileIdentity, Place
from shmlease.auditor.observe.statx import statx

__all__ = ["Creations", "Record", "Records", "merged"]

# The kernel stamps a birth with a clock that ticks every 1 to 10 ms, so it may lie before the record that preceded it.
_TICK_NS: Final = 10_000_000
# An `open` is recorded before the file is there; a machine under load may stop the program in between.
_OPEN_WITHIN_NS: Final = 5_000_000_000
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
    """Everything that was recorded, in order of time; `commands` by pid; why some could not be read, if so."""

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
