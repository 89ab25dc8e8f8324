"""Where shared memory is mounted, and what is wrong with it where nothing can be made there."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final

from shmlease.errors import (
    CapacityError,
    LeaseError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnsupportedPlatformError,
)
from shmlease.system import syscalls
from shmlease.system.safe_open import reason_of
from shmlease.system.shm_shortage import explained, shortage_of_shm

__all__ = [
    "FULL",
    "SHM_ROOT",
    "cannot_be_made",
    "list_root",
    "no_shared_memory",
    "require_shared_memory",
]

SHM_ROOT: Final = "/dev/shm"
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# statfs(2). Files of other kinds lie on a disk: slow, and there after the next boot.
_SHARED_MEMORY: Final = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
# A ledger and a first notice log, with something to go on with.
_ROOM_TO_BEGIN_BYTES: Final = 256 * 1024
_STATFS_BYTES: Final = 256  # struct statfs has 120
_libc: Final = ctypes.CDLL(None, use_errno=True)


def list_root(root: str = SHM_ROOT) -> list[str]:
    """The names in `root`.

    Raises
    ------
    UnsupportedPlatformError
        There is no `root`.
    PermissionDeniedError
        It cannot be read.
    """
    try:
        return syscalls.listdir(root)
    except OSError as error:
        raise no_shared_memory(root, error) from None


def no_shared_memory(root: str, error: OSError) -> LeaseError:
    """The error for a `root` that cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnsupportedPlatformError(
            f"there is no {root}, where shmlease keeps its segments; mount it (`mount -t tmpfs -o mode=1777 tmpfs {root}`)"
        )
    if isinstance(error, PermissionError):
        return PermissionDeniedError(
            f"{root} cannot be read: {reason_of(error)}; it is to be a tmpfs of mode 1777", path=root
        )
    return RegistryUnavailableError(f"{root} cannot be read: {explained(error)}")


def require_shared_memory(root: str = SHM_ROOT) -> None:
    """Refuse a `root` in which no registry can begin, with what is wrong and what to do.

    Raises
    ------
    RegistryUnavailableError
        It is missing, no shared memory, or read-only.
    CapacityError
        It is full.
    """
    try:
        status = syscalls.statvfs(root)
    except OSError as error:
        raise _unavailable(no_shared_memory(root, error)) from None
    kind = _kind_of(root)
    if kind not in _SHARED_MEMORY:
        raise RegistryUnavailableError(
            f"{root} is no shared memory but a directory on a filesystem of type {kind:#x}; mount a tmpfs there "
            f"(`mount -t tmpfs -o mode=1777 tmpfs {root}`)"
        )
    if status.f_flag & os.ST_RDONLY:
        raise RegistryUnavailableError(f"{root} is mounted read-only; `mount -o remount,rw {root}` makes it writable")
    free_bytes = status.f_bavail * status.f_frsize
    if status.f_blocks and free_bytes < _ROOM_TO_BEGIN_BYTES:
        raise CapacityError(shortage_of_shm(root), shm_free_bytes=free_bytes)


def _unavailable(error: LeaseError) -> LeaseError:
    return error if isinstance(error, PermissionError) else RegistryUnavailableError(error.message)


def cannot_be_made(registry: str, root: str, error: OSError) -> LeaseError:
    """The error for a registry whose directory, or the lock in it, cannot be made in `root`."""
    subject = f"registry {registry} cannot be made in {root}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return no_shared_memory(root, error)
        case errno.EROFS:
            return RegistryUnavailableError(f"{subject}: it is mounted read-only; remount it for writing")
        case code if code in FULL:
            return CapacityError(f"registry {registry} cannot be made: {shortage_of_shm(root)}")
        case errno.EACCES | errno.EPERM:
            return PermissionDeniedError(
                f"{subject}: this process, uid {os.geteuid()}, may not write there; its mode is to be 1777", path=root
            )
        case _:
            return RegistryUnavailableError(f"{subject}: {explained(error)}")


def _kind_of(root: str) -> int:
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.statfs(os.fsencode(root), buffer) != 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF
