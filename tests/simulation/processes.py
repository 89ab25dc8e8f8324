"""What simulated processes find out about each other: pids, process descriptors, and the files of /proc that tell who is
who.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from simulation.scheduler import Machine, Process

__all__ = ["Content", "Pidfd", "Proc"]

_OF_PROCESS: Final = re.compile(r"/proc/(\d+)(?:/(.*))?")


class Pidfd:
    """A descriptor that becomes readable when its process has died."""

    writable = False

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def readable(self) -> bool:
        return not self._process.alive

    def close(self) -> None:
        """Nothing to do."""

    def die(self) -> None:
        """Nothing to do."""


class Content:
    """An open file that only tells something; none if it tells nothing, like a pipe that nobody writes to."""

    writable = False

    def __init__(self, content: bytes = b"") -> None:
        self._left = content

    @property
    def readable(self) -> bool:
        return bool(self._left)

    def read(self, length: int) -> bytes:
        piece, self._left = self._left[:length], self._left[length:]
        return piece

    def close(self) -> None:
        """Nothing to do."""

    def die(self) -> None:
        """Nothing to do."""


class Proc:
    """The /proc of a simulated machine, see proc(5)."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def has(self, path: object) -> bool:
        """Whether `path` is of a process."""
        return isinstance(path, str) and _OF_PROCESS.fullmatch(path) is not None

    def content(self, path: str) -> bytes:
        """What a file there holds."""
        process, name = self._find(path)
        identity = process.identity
        if name == "stat":
            # state first, then 16 fields, the number of threads, another field, the start time
            return f"{identity.pid} ({identity.command}) S{' 0' * 16} 1 0 {identity.start_ticks}\n".encode()
        if name == f"task/{identity.pid}/cmdline":
            return identity.command.encode() + b"\0"
        raise self._missing(path)

    def stat(self, path: str) -> os.stat_result:
        """Of the directory of a process: whose it is."""
        process, _ = self._find(path)
        return os.stat_result((0o040555, process.identity.pid, 0, 2, process.identity.uid, 0, 0, 0, 0, 0))

    def pidfd(self, pid: int) -> Pidfd:
        """What pidfd_open(2) opens."""
        process = self._machine.find(pid)
        if process is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return Pidfd(process)

    def _find(self, path: str) -> tuple[Process, str]:
        match = _OF_PROCESS.fullmatch(path)
        process = self._machine.find(int(match[1])) if match else None
        if match is None or process is None:
            raise self._missing(path)
        return process, match[2] or ""

    def _missing(self, path: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
