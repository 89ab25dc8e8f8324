"""Mapping segments into this process, and reserving their pages.

`mmap.mmap` is not used: it keeps a descriptor for each mapping, gives addresses that huge pages cannot start at, and closes
under live numpy arrays. A `Mapping` has an address and a size, and whoever holds it decides when it ends.

Sources: mmap(2), madvise(2); MADV_COLLAPSE came with Linux 6.1.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final

__all__ = ["HUGE_PAGE_BYTES", "Mapping", "map_segment", "reserve_pages"]

HUGE_PAGE_BYTES: Final = 2 * 1024 * 1024
_MADV_COLLAPSE: Final = 25
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_FAILED: Final = ctypes.c_void_p(-1).value
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Mapping:
    """`size_bytes` of a file at `address`, shared; unmapped by `close` or when collected."""

    __slots__ = ("__weakref__", "_munmap", "address", "size_bytes", "writable")

    def __init__(self, address: int, size_bytes: int, *, writable: bool) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.writable = writable
        self._munmap = _libc.munmap  # kept: modules may be torn down before the last mapping is

    def close(self) -> None:
        """Unmap; the addresses must not be used from here on."""
        address, self.address = self.address, 0
        if address:
            self._munmap(address, self.size_bytes)

    def __del__(self) -> None:
        self.close()


def map_segment(fd: int, size_bytes: int, *, writable: bool) -> Mapping:
    """Map the whole of a file; from 2 MiB on at an address that huge pages can start at.

    Parameters
    ----------
    fd : int
        The file, open for reading, and for writing if `writable`; it may be closed afterwards.
    size_bytes : int
        Its size, whole pages.
    writable : bool
        False: any write through the mapping faults.

    Raises
    ------
    OSError
        ENOMEM: no address space.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    if size_bytes < HUGE_PAGE_BYTES:
        return Mapping(_mmap(None, size_bytes, protection, mmap.MAP_SHARED, fd), size_bytes, writable=writable)
    room = size_bytes + HUGE_PAGE_BYTES
    start = _mmap(None, room, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
    address = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    try:
        _mmap(address, size_bytes, protection, mmap.MAP_SHARED | _MAP_FIXED, fd)
    except OSError:
        _libc.munmap(start, room)
        raise
    if address > start:
        _libc.munmap(start, address - start)
    end = start + room
    if end > address + size_bytes:
        _libc.munmap(address + size_bytes, end - address - size_bytes)
    return Mapping(address, size_bytes, writable=writable)


def reserve_pages(fd: int, mapping: Mapping, *, collapse: bool = True) -> None:
    """Give every page of a fresh segment memory, so that no write to it can fail later.

    From 2 MiB on in huge pages where the system grants them (a fresh 64 MiB segment then costs 2.4 memcpys to fill instead
    of 11-15); otherwise, and for the rest, page by page.

    Raises
    ------
    OSError
        ENOSPC: /dev/shm has not enough room; some pages may have been taken.
    """
    huge_bytes = mapping.size_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES if collapse else 0
    if huge_bytes:
        # one small page each, for MADV_COLLAPSE refuses empty ranges; by pwrite, since a store could be a SIGBUS
        for offset in range(0, huge_bytes, HUGE_PAGE_BYTES):
            os.pwrite(fd, b"\0", offset)
        _libc.madvise(mapping.address, huge_bytes, _MADV_COLLAPSE)  # a refusal leaves small pages, which will do
    os.posix_fallocate(fd, 0, mapping.size_bytes)


def _mmap(address: int | None, size_bytes: int, protection: int, flags: int, fd: int) -> int:
    result = _libc.mmap(address, size_bytes, protection, flags, fd, 0)
    if result is None or result == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code or errno.ENOMEM, os.strerror(code or errno.ENOMEM))
    return int(result)
