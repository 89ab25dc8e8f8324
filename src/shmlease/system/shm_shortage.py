"""Why the system refuses something in /dev/shm: what it is full of, and by whom, or that it is read-only."""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from typing import Final

from shmlease import exhaustion
from shmlease.system import syscalls
from shmlease.units import format_bytes

__all__ = ["explained", "shortage_of_shm"]

_SHM: Final = "/dev/shm"
_LISTED: Final = 3
# Others may have made any number of files.
_LOOKED_AT: Final = 10_000


def explained(error: OSError, who: str = "this process") -> str:
    """As `shmlease.exhaustion.explained`, of a call that may have been on something in /dev/shm."""
    match error.errno:
        case errno.EROFS:
            return f"{_SHM} is mounted read-only; `mount -o remount,rw {_SHM}` makes it writable"
        case errno.ENOSPC | errno.EDQUOT:
            return shortage_of_shm()
        case _:
            return exhaustion.explained(error, who)


def shortage_of_shm(root: str = _SHM) -> str:
    """What /dev/shm is full of, and by whom; of bytes or of inodes."""
    status = syscalls.statvfs(root)
    free_bytes = status.f_bavail * status.f_frsize
    total = format_bytes(status.f_blocks * status.f_frsize)
    if status.f_files and status.f_favail < 16:
        return f"{root} has {status.f_favail} of {status.f_files} inodes free; `shmlease audit` says whose its files are"
    holders = ", ".join(_largest(root))
    of = f"; most is in {holders}" if holders else ""
    return (
        f"{root} is full: {format_bytes(free_bytes)} of {total} are free{of}; remove what is not needed, which "
        "`shmlease audit` tells, or enlarge the mount"
    )


def _largest(root: str) -> list[str]:
    """The entries of `root` with the most memory: name, size, user. A directory counts with the files right in it."""
    sizes: list[tuple[int, str, int]] = []
    with os.scandir(root) as entries:
        for entry in islice(entries, _LOOKED_AT):
            try:
                status = entry.stat(follow_symlinks=False)
                size_bytes = _bytes_below(entry.path) if stat.S_ISDIR(status.st_mode) else status.st_blocks * 512
                sizes.append((size_bytes, entry.name, status.st_uid))
            except OSError:  # it has gone, or is another user's directory
                continue
    largest = [one for one in sorted(sizes, reverse=True)[:_LISTED] if one[0]]
    return [f"{ascii(name)[1:-1]} ({format_bytes(size)}, uid {uid})" for size, name, uid in largest]


def _bytes_below(path: str) -> int:
    directory = syscalls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in islice(entries, _LOOKED_AT))
    finally:
        syscalls.close(directory)
