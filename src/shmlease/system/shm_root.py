"""Where shared memory is mounted, and what is wrong with it where nothing can be made there."""

from __future__ import annotations

import errno
import os
from typing import Final

from shmlease.errors import (
    CapacityError,
    LeaseError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnsupportedPlatformError,
)
from shmlease.system.safe_open import reason_of

__all__ = ["FULL", "SHM_ROOT", "cannot_be_made", "list_root", "no_shared_memory"]

SHM_ROOT: Final = "/dev/shm"
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


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
        return os.listdir(root)
    except OSError as error:
        raise no_shared_memory(root, error) from None


def no_shared_memory(root: str, error: OSError) -> LeaseError:
    """The error for a `root` that cannot be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnsupportedPlatformError(
            f"there is no {root}, where shmlease keeps its segments; mount it (`mount -t tmpfs -o mode=1777 tmpfs {root}`)"
        )
    return PermissionDeniedError(f"{root} cannot be read: {reason_of(error)}; it is to be a tmpfs of mode 1777", path=root)


def cannot_be_made(registry: str, root: str, error: OSError) -> LeaseError:
    """The error for a registry whose directory, or the lock in it, cannot be made in `root`."""
    subject = f"registry {registry} cannot be made in {root}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return no_shared_memory(root, error)
        case errno.EROFS:
            return RegistryUnavailableError(f"{subject}: it is mounted read-only; remount it for writing")
        case code if code in FULL:
            return CapacityError(f"{subject}: it is full; `shmlease audit` shows what is in it, and what is nobody's")
        case errno.EACCES | errno.EPERM:
            return PermissionDeniedError(
                f"{subject}: this process, uid {os.geteuid()}, may not write there; its mode is to be 1777", path=root
            )
        case _:
            return RegistryUnavailableError(f"{subject}: {reason_of(error)}")
