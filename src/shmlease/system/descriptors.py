"""How many descriptors a process has open, and how many it may have.

Source: proc(5): since Linux 6.2 the size of /proc/PID/fd is the number of its entries. prlimit(2).
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

__all__ = ["Descriptors", "descriptors_of"]


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
    in_use = os.stat(directory).st_size or len(os.listdir(directory))
    return Descriptors(in_use, resource.prlimit(pid or 0, resource.RLIMIT_NOFILE)[0])
