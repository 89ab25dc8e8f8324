"""The lock of a registry: flocked by its process for as long as it lives, whoever gets it may succeed.

The kernel drops it with its last descriptor. A child forked while one is open, to hold the lock or for the moment of an
election, must not keep it, or nobody could succeed while that child lives: it closes all that are listed here. So no fork
happens between the opening of one and its listing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import Final

from shmlease.system import syscalls
from shmlease.system.forks import after_fork_in_child
from shmlease.system.owned_descriptor import file_of
from shmlease.system.safe_open import open_regular

__all__ = ["file_of", "is_locked", "let_go", "take"]

# With the file that each is of: a descriptor closed behind this module's back may be of another file by now.
_held: Final[dict[int, tuple[int, int]]] = {}


def take(open_lock: Callable[[], int]) -> int | None:
    """A descriptor that holds the lock which `open_lock` opens; None if another process has it, or it is gone.

    Raises
    ------
    OSError
        What `open_lock` raises, but for FileNotFoundError.
    """
    with syscalls.fork_lock:  # reentrant: a signal handler may fork in that moment
        try:
            fd = open_lock()
        except FileNotFoundError:
            return None
        _held[fd] = file_of(fd)
    try:
        syscalls.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        let_go(fd)
        return None
    if syscalls.fstat(fd).st_nlink == 0:  # the registry ended between open and flock
        let_go(fd)
        return None
    return fd


def let_go(fd: int) -> None:
    """Close what `take` gave; a process that inherited the descriptor through exec still holds the lock.

    A number that is of another file by now, since the program has closed every descriptor, is left alone.
    """
    known = _held.get(fd)
    with syscalls.fork_lock, contextlib.suppress(OSError):
        if known is None or file_of(fd) == known:
            syscalls.close(fd)
    _held.pop(fd, None)


def is_locked(name: str, *, directory: int, owner: int) -> bool:
    """Whether anybody holds the lock `name`; nothing is made.

    A free one is held by us, shared, for some microseconds: a successor that is elected in that moment asks again.

    Raises
    ------
    PermissionDeniedError
        It is no lock of `owner`'s.
    OSError
        The kernel refused.
    """
    try:
        descriptor = open_regular(name, directory=directory, owner=owner)
    except FileNotFoundError:
        return False  # it had not been made, or was the last thing removed
    try:
        syscalls.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        syscalls.close(descriptor)
    return False


def _after_fork_in_child() -> None:
    for fd, file in _held.items():
        with contextlib.suppress(OSError):
            if file_of(fd) == file:
                syscalls.close(fd)
    _held.clear()


after_fork_in_child(_after_fork_in_child)
os.register_at_fork(
    before=syscalls.fork_lock.acquire,
    after_in_parent=syscalls.fork_lock.release,
    after_in_child=syscalls.fork_lock.release,
)
