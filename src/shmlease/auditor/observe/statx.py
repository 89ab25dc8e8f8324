"""statx(2), for the one fact that os.stat lacks before Python 3.15: when a file was created.

Device, inode and birth time together name a file for good; device and inode alone are reused.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import Final

import msgspec

from shmlease.auditor.judge.findings import FileIdentity

__all__ = ["AT_EMPTY_PATH", "AT_SYMLINK_NOFOLLOW", "FileStatus", "statx"]

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EMPTY_PATH: Final = 0x1000
_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_SECOND_NS: Final = 1_000_000_000
_BLOCK_BYTES: Final = 512  # the unit of stx_blocks, whatever the filesystem's block size is

# struct statx of linux/stat.h, of which these: mask, nlink, uid, mode, ino, size, blocks, the four times as seconds and
# nanoseconds (access, birth, change, write), and the device as major and minor.
_LAYOUT: Final = struct.Struct("=I12xII4xH2xQQQ8xqI4xqI4xqI4xqI4x8xII")
_BUFFER_BYTES: Final = 256  # the size of struct statx, spare room included

_libc = ctypes.CDLL(None, use_errno=True)
_call = getattr(_libc, "statx", None)  # glibc 2.28, musl 1.2.3
if _call is not None:
    _call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    _call.restype = ctypes.c_int


class _Buffer(threading.local):
    """One buffer a thread: ctypes releases the GIL during the call."""

    def __init__(self) -> None:
        self.bytes = ctypes.create_string_buffer(_BUFFER_BYTES)
        self.address = ctypes.addressof(self.bytes)


_buffer = _Buffer()


class FileStatus(msgspec.Struct, frozen=True):
    """What the audit needs to know about a file; a struct because a scan creates ten thousand."""

    device: int
    inode: int
    born_ns: int | None
    mode: int
    links: int
    uid: int
    size_bytes: int
    resident_bytes: int
    used_ns: int  # the latest of birth, change, write and access

    @property
    def identity(self) -> FileIdentity:
        """What distinguishes the file from every other."""
        return FileIdentity(self.device, self.inode, self.born_ns)


def statx(path: str | bytes, *, directory: int | None = None, flags: int = AT_SYMLINK_NOFOLLOW) -> FileStatus:
    """The status of `path`, relative to the open `directory`; with `AT_EMPTY_PATH` and ``""``, of `directory` itself.

    Raises
    ------
    OSError
        As for os.stat.
    """
    if _call is None:
        return _stat(path, directory, flags)
    name = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    at = AT_FDCWD if directory is None else directory
    if _call(at, name, flags, _STATX_BASIC_STATS | _STATX_BTIME, _buffer.address) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    mask, links, uid, mode, inode, size, blocks, a, a_ns, b, b_ns, c, c_ns, m, m_ns, major, minor = _LAYOUT.unpack_from(
        _buffer.bytes
    )
    born_ns = b * _SECOND_NS + b_ns if mask & _STATX_BTIME else None
    used_ns = max(a * _SECOND_NS + a_ns, b * _SECOND_NS + b_ns, c * _SECOND_NS + c_ns, m * _SECOND_NS + m_ns)
    return FileStatus(
        device=os.makedev(major, minor),
        inode=inode,
        born_ns=born_ns,
        mode=mode,
        links=links,
        uid=uid,
        size_bytes=size,
        resident_bytes=blocks * _BLOCK_BYTES,
        used_ns=used_ns,
    )


def _stat(path: str | bytes, directory: int | None, flags: int) -> FileStatus:
    """The same without the birth time, for a C library that has no statx."""
    if flags & AT_EMPTY_PATH and directory is not None:
        found = os.fstat(directory)
    else:
        found = os.stat(path, dir_fd=directory, follow_symlinks=not flags & AT_SYMLINK_NOFOLLOW)
    return FileStatus(
        device=found.st_dev,
        inode=found.st_ino,
        born_ns=None,
        mode=found.st_mode,
        links=found.st_nlink,
        uid=found.st_uid,
        size_bytes=found.st_size,
        resident_bytes=found.st_blocks * _BLOCK_BYTES,
        used_ns=max(found.st_atime_ns, found.st_ctime_ns, found.st_mtime_ns),
    )
