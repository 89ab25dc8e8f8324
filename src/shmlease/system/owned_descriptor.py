"""A file descriptor that is closed once, and only while it is still of the file that was opened.

A program may close every descriptor it finds, ours among them, and open files of its own under the same numbers.
"""

from __future__ import annotations

import os
from typing import Final

from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls

__all__ = ["OwnedDescriptor", "file_of"]

_FAR: Final = 1 << 40


def file_of(fd: int) -> tuple[int, int]:
    """Device and inode of what `fd` is open on."""
    status = syscalls.fstat(fd)
    return status.st_dev, status.st_ino


class OwnedDescriptor:
    """Starts without a descriptor: the code that opens one appends it to the list `fds`, then calls `mark`.

    Its file offset, which nobody uses and no other file has, shows that it is still ours: asking for the offset takes a
    quarter of the time of `fstat`.
    """

    __slots__ = ("_is_closed", "_mark", "fds")

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._mark = 0
        self._is_closed = False

    def mark(self, status: os.stat_result) -> None:
        """From here on it is known again: a regular file, of which `status` was asked."""
        # of that file, and no file system is too small for it
        self._mark = syscalls.lseek(self.fds[0], _FAR + hash((status.st_dev, status.st_ino)) % _FAR, os.SEEK_SET)

    def is_own(self) -> bool:
        """Whether it is open, and still what was opened."""
        try:
            return not self._is_closed and syscalls.lseek(self.fds[0], 0, os.SEEK_CUR) == self._mark
        except OSError as error:
            if is_from_handler(error):
                raise
            return False

    def close(self) -> None:
        """Close it, if that was not done; a number that is somebody else's by now stays as it is."""
        if not self.fds or self._is_closed:
            return
        is_own = not self._mark or self.is_own()
        self._is_closed = True  # no call between the two: it is never closed twice
        if is_own:
            syscalls.close(self.fds[0])
