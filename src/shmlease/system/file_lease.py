"""Whether anyone at all has a file open or mapped: the kernel grants a write lease (F_SETLEASE) only while nobody has.

That counts every process in any namespace, and descriptors in flight in a message; it says whether, not who. The file's
owner needs no privilege.

What it does not cover:

- a descriptor opened with O_PATH does not count as open (and cannot map the file either);
- an open(2) that has found the file, and has not yet come to count as having it open, which takes it a microsecond;
- what the kernel itself was given to send of it, by sendfile(2) or splice(2), and has not sent yet;
- on a memfd it is granted although the file is open, so it is asked only about files with a name;
- a kernel with fs.leases-enable = 0, and filesystems without leases, answer EINVAL: unknown, never free.

While a lease is held, an opener waits, and the kernel notifies the holder by a signal. The default signal, SIGIO, kills a
process that does not expect it; SIGURG is ignored by default and tolerated by programs that handle it.

Source: fcntl(2).
"""

from __future__ import annotations

import fcntl
import signal
from typing import Final

from shmlease.system import syscalls

__all__ = ["give_back_lease", "is_open_nowhere_else", "take_lease"]

_F_SETSIG: Final = 10  # linux/fcntl.h; the fcntl module does not name it


def take_lease(fd: int) -> None:
    """Take a write lease on the open file.

    Raises
    ------
    OSError
        EAGAIN: somebody else has it open; otherwise it cannot be known.
    """
    syscalls.fcntl(fd, _F_SETSIG, signal.SIGURG)
    syscalls.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def give_back_lease(fd: int) -> None:
    """End the lease: closing alone would not do if another thread has forked, for the child has the descriptor too."""
    syscalls.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def is_open_nowhere_else(fd: int) -> bool:
    """Whether the kernel says that nobody has the file open or mapped, but through this very descriptor."""
    try:
        take_lease(fd)
    except OSError:
        return False
    give_back_lease(fd)
    return True
