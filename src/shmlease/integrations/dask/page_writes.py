"""Which pages of this process's memory were written to, as the kernel knows it: what was not need not be compared.

Two cases, both asked by the ioctl PAGEMAP_SCAN (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst):

* Memory that numpy allocated is write-protected by userfaultfd in its asynchronous mode. The kernel lifts the protection of
  a page at the first write to it, and nobody waits.
* A private mapping of a segment has the segment's pages, but for those that were written to, which are anonymous.

Where the kernel or the container allows neither, the answer is that something may have been written. What a device writes
to by itself (RDMA, pinned memory) is not noticed.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
from typing import Final

__all__ = ["PageWrites", "whole_pages"]

# <linux/userfaultfd.h>, <linux/fs.h>
_USERFAULTFD: Final = {"x86_64": 323, "aarch64": 282}.get(platform.machine())
_USER_MODE_ONLY: Final = 1  # needs no privilege; writes by system calls are resolved in the kernel all the same
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
_UFFD_API, _WP_UNPOPULATED, _WP_ASYNC, _MODE_WP, _WP = 0xAA, 1 << 13, 1 << 15, 1 << 1, 1 << 0
_PAGEMAP_SCAN: Final = 0xC0606610
_CHECK_WPASYNC: Final = 1 << 1
_WRITTEN, _FILE, _PRESENT, _SWAPPED = 1 << 1, 1 << 2, 1 << 3, 1 << 4


def whole_pages(address: int, nbytes: int) -> tuple[int, int]:
    """The whole pages in a range of memory: first byte, and the byte after the last."""
    size = mmap.PAGESIZE
    start = -(-address // size) * size
    return start, max((address + nbytes) // size * size, start)


class PageWrites:
    """What is asked of the kernel about whole pages, [start, stop) each."""

    def __init__(self) -> None:
        self._pid = 0
        self._pagemap = self._userfaultfd = -1
        self._found = bytearray(24)  # where a scan puts the first range that it finds
        self._found_at = ctypes.addressof(ctypes.c_char.from_buffer(self._found))

    def watch(self, start: int, stop: int) -> bool:
        """Have writes noticed from now on, of private memory; False if that is not possible."""
        self._open()
        try:
            fcntl.ioctl(self._userfaultfd, _UFFDIO_REGISTER, bytearray(struct.pack("4Q", start, stop - start, _MODE_WP, 0)))
            fcntl.ioctl(self._userfaultfd, _UFFDIO_WRITEPROTECT, bytearray(struct.pack("3Q", start, stop - start, _WP)))
        except (OSError, ValueError):
            return False
        return True

    def are_unwritten(self, start: int, stop: int) -> bool:
        """Whether it is certain that nothing was written since `watch`."""
        # what is not there now may have been dropped; what is of a file may be written by other processes
        return self._has_none(start, stop, inverted=_PRESENT, any_of=_WRITTEN | _FILE | _PRESENT, flags=_CHECK_WPASYNC)

    def are_of_file(self, start: int, stop: int) -> bool:
        """Whether it is certain that nothing was written to a private mapping of a file."""
        return self._has_none(start, stop, inverted=_FILE, all_of=_FILE, any_of=_PRESENT | _SWAPPED)

    def close(self) -> None:
        """Watch nothing any more: memory can be watched by one at a time."""
        for fd in (self._pagemap, self._userfaultfd):
            if fd >= 0:
                os.close(fd)
        self._pid, self._pagemap, self._userfaultfd = 0, -1, -1

    def _has_none(self, start: int, stop: int, *, inverted: int, any_of: int, all_of: int = 0, flags: int = 0) -> bool:
        """Whether there is no page of these categories."""
        self._open()
        size, limit, returned = 96, 1, 0
        found = self._found_at, 1, limit
        scan = struct.pack("12Q", size, flags, start, stop, 0, *found, inverted, all_of, any_of, returned)
        try:
            return fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, bytearray(scan)) == 0
        except (OSError, ValueError):
            return False

    def _open(self) -> None:
        """Both describe the process that has opened them, and a child that was forked is another."""
        if self._pid == os.getpid():
            return
        self.close()
        self._pid = os.getpid()
        self._pagemap, self._userfaultfd = _opened_pagemap(), _opened_userfaultfd()


def _opened_pagemap() -> int:
    try:
        return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _opened_userfaultfd() -> int:
    if _USERFAULTFD is None:
        return -1
    fd = int(ctypes.CDLL(None).syscall(_USERFAULTFD, os.O_CLOEXEC | _USER_MODE_ONLY))
    try:
        fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("3Q", _UFFD_API, _WP_UNPOPULATED | _WP_ASYNC, 0)))
    except (OSError, ValueError):
        if fd >= 0:
            os.close(fd)
        return -1
    return fd
