"""Mapping segments into this process.

A segment is mapped over a region of addresses that `mmap.mmap` has set aside, and ends with that region. So nothing is left
of a call that was interrupted half-way, and no Python code runs when the last view of an array dies: a signal that is
handled in a finalizer is lost. `mmap.mmap` on the file itself would keep a descriptor for each mapping, and start where
huge pages cannot.

Source: mmap(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final

from shmlease.system import syscalls

__all__ = ["HUGE_PAGE_BYTES", "Mapping", "map_segment"]

HUGE_PAGE_BYTES: Final = 2 * 1024 * 1024
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_SET_ASIDE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


class _Buffer(ctypes.Structure):
    """Py_buffer, of which the address is looked at."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_byte * 96))


_get_buffer: Final = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int]
_release_buffer: Final = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_Buffer)]
_release_buffer.restype = None


class Mapping:
    """`size_bytes` of a file at `address`; unmapped by `close`, or with the last reference.

    What is written into a `private` one is seen by nobody else: the kernel copies each page that is written to first.
    `array_interface` describes it to numpy, as an array of bytes.
    """

    __slots__ = ("__weakref__", "_region", "address", "array_interface", "private", "size_bytes", "writable")

    def __init__(
        self, address: int, size_bytes: int, *, writable: bool, private: bool = False, region: mmap.mmap | None = None
    ) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.writable = writable
        self.private = private
        self.array_interface = {
            "version": 3,
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address, not writable),
        }
        self._region = region

    def close(self) -> None:
        """Unmap; the addresses must not be used from here on."""
        self.address = 0
        self._region = None


def map_segment(fd: int, size_bytes: int, *, writable: bool, private: bool = False) -> Mapping:
    """Map the whole of a file; from 2 MiB on at an address that huge pages can start at.

    Parameters
    ----------
    fd : int
        The file, open for reading, and for writing if `writable` and not `private`; it may be closed afterwards.
    size_bytes : int
        Its size, whole pages.
    writable : bool
        False: any write through the mapping faults.
    private : bool
        What is written stays in this process: copy-on-write.

    Raises
    ------
    OSError
        ENOMEM: no address space.
    """
    is_huge = size_bytes >= HUGE_PAGE_BYTES
    region = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES * is_huge, _SET_ASIDE, prot=0)
    address = _address_of(region)
    if is_huge:
        address = -(-address // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    sharing = mmap.MAP_PRIVATE | _MAP_NORESERVE if private else mmap.MAP_SHARED
    if syscalls.mmap(address, size_bytes, protection, sharing | _MAP_FIXED, fd, 0) != address:
        code = ctypes.get_errno() or errno.ENOMEM
        raise OSError(code, os.strerror(code))
    return Mapping(address, size_bytes, writable=writable, private=private, region=region)


def _address_of(region: mmap.mmap) -> int:
    buffer = _Buffer()
    try:
        _get_buffer(region, buffer, 0)
        return buffer.address or 0
    finally:
        _release_buffer(buffer)
