"""A /dev/shm of the run's own, small enough to be filled: where the system allows namespaces.

Filling the common one would starve, or kill with SIGBUS, programs that have nothing to do with the run.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from shmlease.auditor.run.isolation import enter_isolation
from shmlease.errors import UnsupportedPlatformError

__all__ = ["enter_small_shm"]

_MS_REMOUNT: Final = 0x20
_MS_NOSUID: Final = 0x2
_MS_NODEV: Final = 0x4
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def enter_small_shm(size_bytes: int, shm: str = "/dev/shm") -> None:
    """Move this process, and so its children to come, into namespaces with an empty `shm` of `size_bytes`.

    Raises
    ------
    UnsupportedPlatformError
        The system does not allow it.
    """
    enter_isolation(shm)
    target = os.path.realpath(shm).encode()
    if _libc.mount(b"tmpfs", target, b"tmpfs", _MS_REMOUNT | _MS_NOSUID | _MS_NODEV, f"size={size_bytes}".encode()):
        number = ctypes.get_errno()
        raise UnsupportedPlatformError(f"{shm} cannot be made {size_bytes} bytes large: {os.strerror(number)}")
