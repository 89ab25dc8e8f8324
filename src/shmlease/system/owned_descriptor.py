"""A file descriptor that is closed once, and only while it is still of the file that was opened.

A program may close every descriptor it finds, ours among them, and open files of its own under the same numbers.
"""

from __future__ import annotations

import os

from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls

__all__ = ["OwnedDescriptor", "file_of"]


def file_of(fd: int) -> tuple[int, int]:
    """Device and inode of what `fd` is open on."""
    status = syscalls.fstat(fd)
    return status.st_dev, status.st_ino


class OwnedDescriptor:
    """Made closed: a descriptor is put into the list `fds` by whoever opens one, and `stat` follows."""

    __slots__ = ("_file", "_is_closed", "fds")

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._file = (0, 0)
        self._is_closed = False

    def stat(self) -> os.stat_result:
        """What is open; from here on it is known which file that is."""
        status = syscalls.fstat(self.fds[0])
        self._file = (status.st_dev, status.st_ino)
        return status

    def is_own(self) -> bool:
        """Whether it is open, and still of the file that it was opened on."""
        try:
            return not self._is_closed and file_of(self.fds[0]) == self._file
        except OSError as error:
            if is_from_handler(error):
                raise
            return False

    def close(self) -> None:
        """Close it, if that was not done; a number that is somebody else's by now stays as it is."""
        if not self.fds or self._is_closed:
            return
        fd = self.fds[0]
        if self._file != (0, 0):
            try:
                status = syscalls.fstat(fd)
            except OSError as error:
                if is_from_handler(error):
                    raise
                self._is_closed = True
                return
            if (status.st_dev, status.st_ino) != self._file:
                self._is_closed = True
                return
        self._is_closed = True  # no call between the two: it is never closed twice
        syscalls.close(fd)
