"""How many descriptors a process has open, and how many it may have.

Source: proc(5): since Linux 6.2 the size of /proc/PID/fd is the number of its entries. prlimit(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import resource
from typing import Final, NamedTuple

from shmlease.system import syscalls

__all__ = ["Descriptors", "descriptors_of"]


_MOST_TRIED: Final = 1 << 16


class Descriptors(NamedTuple):
    """The descriptors of one process: how many it has open, and its limit."""

    in_use: int
    limit: int


def descriptors_of(pid: int | None = None) -> Descriptors:
    """The descriptors of a process of this user; of this process if no `pid` is given.

    Raises
    ------
    OSError
        There is no such process, or it is another user's.
    """
    directory = f"/proc/{'self' if pid is None else pid}/fd"
    limit = resource.prlimit(pid or 0, resource.RLIMIT_NOFILE)[0]
    try:
        in_use = syscalls.stat(directory).st_size or len(syscalls.listdir(directory))
    except FileNotFoundError:
        if pid is not None:
            raise
        in_use = _count_own(limit)  # somebody has unmounted /proc
    return Descriptors(in_use, limit)


def _count_own(limit: int) -> int:
    in_use = 0
    for descriptor in range(min(limit, _MOST_TRIED)):
        with contextlib.suppress(OSError):
            syscalls.fcntl(descriptor, fcntl.F_GETFD)
            in_use += 1
    return in_use
