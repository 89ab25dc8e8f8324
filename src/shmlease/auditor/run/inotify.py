"""What appears in and disappears from /dev/shm while a command runs; an audit at its end cannot see that.

Sub-directories are watched too, but not those of registries, whose lease tables say more. The kernel queues the changes
with no time of their own, so each has the time at which it was read.

Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from shmlease.system.names import DIRECTORY_NAME

__all__ = ["Change", "Watch"]

_IN_MOVED_FROM: Final = 0x40
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_Q_OVERFLOW: Final = 0x4000
_IN_IGNORED: Final = 0x8000
_IN_ONLYDIR: Final = 0x01000000
_IN_DONT_FOLLOW: Final = 0x02000000
_IN_ISDIR: Final = 0x40000000
_APPEARED: Final = _IN_CREATE | _IN_MOVED_TO
_DISAPPEARED: Final = _IN_DELETE | _IN_MOVED_FROM
_MASK: Final = _APPEARED | _DISAPPEARED | _IN_ONLYDIR | _IN_DONT_FOLLOW
_HEADER: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_MASK_AND_LENGTH: Final = struct.Struct("4xI4xI")
_BUFFER_BYTES: Final = 1 << 18
# Bounds the memory of the watch; of a program that causes more changes, the last ones are kept.
_MAX_CHANGES: Final = 200_000
_MAX_UNPARSED_BYTES: Final = 1 << 22
# Deeper than any program goes; a neighbour may go as deep as he likes.
_MOST_LEVELS: Final = 32
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Change:
    """A file that appeared or disappeared, by its path; `at_ns` counts from the epoch."""

    at_ns: int
    path: str
    appeared: bool


class Watch:
    """A watch on a directory of shared memory, to be drained whenever its descriptor is readable."""

    def __init__(self, root: str = "/dev/shm") -> None:
        self._lost = ""
        self._changes: list[Change] = []
        self._unparsed: list[tuple[int, bytes]] = []
        self._unparsed_bytes = 0
        self._root = root
        self._directories: dict[int, str] = {}
        self._fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            self._lost = f"inotify: {os.strerror(ctypes.get_errno())}"
        else:
            self._add(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The descriptor to poll; -1, which poll ignores, where there is no inotify."""
        return self._fd

    @property
    def changes(self) -> list[Change]:
        """What has been read so far, in order of time."""
        self._parse_all()
        return self._changes

    @property
    def lost(self) -> str:
        """Why changes went unseen, if any did."""
        self._parse_all()
        return self._lost

    def drain(self) -> None:
        """Read what has happened since the last time.

        Most of it is parsed when the command has ended, and needs no processor any more.
        """
        while self._fd >= 0:
            try:
                events = os.read(self._fd, _BUFFER_BYTES)
            except BlockingIOError:
                return
            self._unparsed.append((time.time_ns(), events))
            self._unparsed_bytes += len(events)
            if self._unparsed_bytes > _MAX_UNPARSED_BYTES or not _are_of_files(events):
                self._parse_all()

    def _parse_all(self) -> None:
        for at_ns, events in self._unparsed:
            for directory, mask, name in _parse(events):
                self._note(at_ns, directory, mask, name)
        self._unparsed.clear()
        self._unparsed_bytes = 0

    def _note(self, now_ns: int, directory: int, mask: int, name: str) -> None:
        if mask & _IN_Q_OVERFLOW:
            self._lost = "changes came faster than they could be read"
        elif mask & _IN_IGNORED:
            self._directories.pop(directory, None)
        elif directory in self._directories:
            path = f"{self._directories[directory]}/{name}"
            if not mask & _IN_ISDIR:
                self._append(Change(now_ns, path, bool(mask & _APPEARED)))
            elif mask & _APPEARED and not DIRECTORY_NAME.fullmatch(name):
                self._enter(path, now_ns)

    def _enter(self, path: str, now_ns: int) -> None:
        """Watch a new directory, and note what was put into it before it was watched."""
        pending = [path]
        while pending:
            path = pending.pop()
            if path.count("/") - self._root.count("/") > _MOST_LEVELS:
                self._lost = f"directories lie more than {_MOST_LEVELS} deep in {self._root}"
                continue
            self._add(path)
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        else:
                            self._append(Change(now_ns, entry.path, appeared=True))
            except OSError:
                continue  # it is gone again

    def _add(self, path: str) -> None:
        number = _libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK)
        if number >= 0:
            self._directories[number] = path
        elif os.path.isdir(path):
            self._lost = f"inotify on {path}: {os.strerror(ctypes.get_errno())}"

    def _append(self, change: Change) -> None:
        if len(self._changes) >= _MAX_CHANGES:
            del self._changes[: _MAX_CHANGES // 2]
            self._lost = f"there were more than {_MAX_CHANGES} changes, and the first of them are forgotten"
        self._changes.append(change)


def _are_of_files(events: bytes) -> bool:
    """Whether nothing of it concerns directories, which are to be watched at once, or the watch itself."""
    offset = 0
    while offset < len(events):
        mask, length = _MASK_AND_LENGTH.unpack_from(events, offset)
        if mask & (_IN_ISDIR | _IN_IGNORED | _IN_Q_OVERFLOW):
            return False
        offset += _HEADER.size + length
    return True


def _parse(events: bytes) -> Iterator[tuple[int, int, str]]:
    """Watch, mask and name of each event."""
    offset = 0
    while offset < len(events):
        directory, mask, _, length = _HEADER.unpack_from(events, offset)
        offset += _HEADER.size
        name = events[offset : offset + length].rstrip(b"\0")
        offset += length
        yield directory, mask, os.fsdecode(name)
