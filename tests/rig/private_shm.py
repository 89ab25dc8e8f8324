"""A /dev/shm of its own for a process and all that it starts: so that test workers do not find each other's segments."""

from __future__ import annotations

import ctypes
import os

__all__ = ["enter", "is_possible", "mount"]

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def is_possible() -> bool:
    """Whether this process may have one; finding out is left to a child."""
    if os.geteuid() != 0:
        return False
    child = os.fork()
    if child == 0:
        code = 1
        try:
            enter()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def enter() -> None:
    """Mount one over /dev/shm, in a mount namespace of its own.

    Raises
    ------
    OSError
        This system does not let us.
    """
    _check(_libc.unshare(_CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(_libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"mode=1777"))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    _check(_libc.mount(*(os.fsencode(word) for word in (source, target, kind)), flags, os.fsencode(options)))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
