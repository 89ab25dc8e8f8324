"""How much memory the system and this process's control groups have left: a process that takes more is killed, not refused.

Pages of shared memory are charged to the group of the process that touches them first. Both versions of the hierarchy are
read (cgroups(7), Documentation/admin-guide/cgroup-v2.rst): a group is bounded by its own limit and by those of all above
it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from shmlease.errors import CapacityError
from shmlease.interrupts import is_from_handler
from shmlease.system.safe_open import read_kernel_file
from shmlease.units import format_bytes

__all__ = ["MemoryRoom", "free_memory_bytes", "memory_room", "require_memory"]

# The files of a group: its limit, what it uses. A limit of version 1 that nobody has set is a number near 2**63.
_VERSION_1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_VERSION_2: Final = ("memory.max", "memory.current", "")
_UNLIMITED: Final = 1 << 60


class MemoryRoom(NamedTuple):
    """What the tightest of the groups has left, of how much, which one it is, and the file with its limit."""

    free_bytes: int
    limit_bytes: int
    group: str
    source: str


def memory_room(proc: str = "/proc", root: str = "/sys/fs/cgroup") -> MemoryRoom | None:
    """What this process may still take; None if no group bounds it, or that cannot be seen."""
    rooms = list(_rooms(proc, root))
    return min(rooms) if rooms else None


def free_memory_bytes(proc: str = "/proc", root: str = "/sys/fs/cgroup") -> int:
    """What this process may still take, as far as can be seen: of the system's memory, and of its groups'."""
    room = memory_room(proc, root)
    available_bytes = _of_system("MemAvailable", proc)
    return available_bytes if room is None else min(available_bytes, room.free_bytes)


def require_memory(size_bytes: int, what: str) -> None:
    """Refuse to take `size_bytes` more for `what` if a control group has not so much left.

    Raises
    ------
    CapacityError
        It has not.
    """
    room = memory_room()
    if room is not None and size_bytes > room.free_bytes:
        raise CapacityError(
            f"{what} does not fit into the memory of this process's control group {room.group}: "
            f"{format_bytes(room.free_bytes)} of {format_bytes(room.limit_bytes)} are free ({room.source}); lease less, "
            "release what the processes in it hold, or raise that limit",
            requested_bytes=size_bytes,
            group_free_bytes=room.free_bytes,
            group_limit_bytes=room.limit_bytes,
        )


def _rooms(proc: str, root: str) -> Iterator[MemoryRoom]:
    found = _own_group(proc, root)
    if found is None:
        return
    top, group, (limit_name, usage_name, prefix) = found
    while True:
        path = f"{top}{group}".rstrip("/")
        limit, usage = _number(f"{path}/{limit_name}"), _number(f"{path}/{usage_name}")
        if limit is not None and usage is not None and limit < _UNLIMITED:
            free_bytes = limit - usage + _reclaimable(f"{path}/memory.stat", prefix) + _of_system("SwapFree", proc)
            yield MemoryRoom(max(free_bytes, 0), limit, group or "/", f"{path}/{limit_name}")
        if not group.strip("/"):
            return
        group = group.rpartition("/")[0]


def _own_group(proc: str, root: str) -> tuple[str, str, tuple[str, str, str]] | None:
    """Where the hierarchy with the memory is mounted, this process's group in it, and the names of its files."""
    for line in _lines(f"{proc}/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if "memory" in controllers.split(","):
            top, names = f"{root}/memory", _VERSION_1
        elif number == "0" and os.path.exists(f"{root}/cgroup.controllers"):
            top, names = root, _VERSION_2
        else:
            continue
        # in a container the group may be named as it is outside, where what is mounted is the group itself
        return top, group.rstrip("/") if os.path.isdir(f"{top}{group}") else "", names
    return None


def _reclaimable(path: str, prefix: str) -> int:
    """Bytes of files, which the kernel drops before it kills anybody."""
    counters = dict(line.split()[:2] for line in _lines(path) if " " in line)
    return sum(int(counters.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))


def _of_system(what: str, proc: str) -> int:
    """Bytes that the system has of this (proc_meminfo(5)); 0 if it does not say."""
    for line in _lines(f"{proc}/meminfo"):
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    return 0


def _number(path: str) -> int | None:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdigit() else None


def _lines(path: str) -> list[str]:
    try:
        return read_kernel_file(path).decode(errors="replace").splitlines()
    except OSError as error:
        if is_from_handler(error):
            raise
        return []  # there is none, or it is not for this user to read
