"""The system calls of simulated processes on files: real ones, each a step, and no more of them once a process is dead.

The files lie in a directory of their own, so that locks, links, renames and holes are the kernel's and not an imitation.
What is simulated is whose a descriptor is, how much room there is, and a write that its writer did not live to finish.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable
from typing import Any, Final

from shmlease.system import syscalls
from simulation.processes import Content, Proc
from simulation.scheduler import Machine, Process

__all__ = ["Disk", "Files", "ignore"]

_PAGE: Final = 4096
_AMPLE: Final = 2**40
# Descriptors of simulated things are numbers that no real descriptor has.
FIRST_SIMULATED: Final = 1_000_000
_SEGMENT: Final = re.compile(r".*/s(\d+)")
_real_fallocate: Final = syscalls.fallocate


def ignore(*_: object) -> None:
    """Take no notice of an event."""


class Disk:
    """How much room the shared-memory file system has; others use it as well."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.size_bytes = _AMPLE
        self.others_bytes = 0

    @property
    def is_tight(self) -> bool:
        """Whether it can be full at all."""
        return self.size_bytes < _AMPLE

    def free_bytes(self) -> int:
        """What is left."""
        if not self.is_tight:
            return self.size_bytes
        used = sum(
            status.st_blocks * 512
            for directory, _, names in os.walk(self.root)
            for status in [os.lstat(f"{directory}/{name}") for name in names]
            if status.st_nlink
        )
        return max(self.size_bytes - self.others_bytes - used, 0)


class Files:
    """The calls of `shmlease.system.syscalls` on files and descriptors.

    Attributes
    ----------
    on_segment_made, on_segment_unlinked, on_renamed : callable
        Told of segment files (number, inode, size; number, inode) and of renamed files (from, to).
    """

    def __init__(self, machine: Machine, disk: Disk) -> None:
        self._machine = machine
        self.disk = disk
        self.proc = Proc(machine)
        self.simulated: dict[int, Any] = {}  # descriptors of sockets and the like
        self.on_segment_made: Callable[[int, int, int], None] = ignore
        self.on_segment_unlinked: Callable[[int, int], None] = ignore
        self.on_renamed: Callable[[str, str], None] = ignore
        self._next_simulated = FIRST_SIMULATED
        self._opened: dict[int, str] = {}
        self._directories: set[int] = set()

    # --- descriptors ---------------------------------------------------------------------------------------------------

    def adopt(self, process: Process, descriptor: int) -> int:
        """From now on `descriptor` is closed when `process` ends."""
        if not process.descriptors:
            process.at_death.append(lambda: self._close_all(process))
        process.descriptors.add(descriptor)
        return descriptor

    def register(self, thing: Any) -> int:
        """A descriptor of the running process for something simulated that has a `close`."""
        descriptor = self._next_simulated
        self._next_simulated += 1
        self.simulated[descriptor] = thing
        return self.adopt(self._machine.current.process, descriptor)

    def forget(self, descriptor: int) -> None:
        """Something simulated was closed."""
        self.simulated.pop(descriptor, None)
        self._machine.current.process.descriptors.discard(descriptor)

    def _close_all(self, process: Process) -> None:
        for descriptor in sorted(process.descriptors):
            thing = self.simulated.pop(descriptor, None)
            if thing is not None:
                thing.die()
            elif descriptor < FIRST_SIMULATED:
                os.close(descriptor)
        process.descriptors.clear()

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        machine = self._machine
        if not flags & os.O_DIRECTORY:  # which nobody else can tell
            machine.step()
        if self.proc.has(path):
            return self.register(Content(self.proc.content(path)))
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        self._opened[descriptor] = self._path(path, dir_fd)
        (self._directories.add if flags & os.O_DIRECTORY else self._directories.discard)(descriptor)
        return self.adopt(machine.current.process, descriptor)

    def _path(self, path: str, dir_fd: int | None) -> str:
        return path if dir_fd is None else f"{self._opened[dir_fd]}/{path}"

    def mknod(self, path: str, mode: int, *, dir_fd: int | None = None) -> None:
        self._machine.step()
        os.mknod(path, mode, dir_fd=dir_fd)

    def close(self, descriptor: int) -> None:
        machine = self._machine
        if descriptor not in self._directories or not machine.current.process.alive:
            machine.step()
        self._directories.discard(descriptor)
        if descriptor not in machine.current.process.descriptors:
            raise OSError(errno.EBADF, f"{machine.current.process} closes descriptor {descriptor}, which it does not have")
        machine.current.process.descriptors.discard(descriptor)
        thing = self.simulated.pop(descriptor, None)
        if thing is None:
            os.close(descriptor)
        else:
            thing.close()

    def pipe2(self, flags: int) -> tuple[int, int]:
        del flags
        return self.register(Content()), self.register(Content())

    def dup_for(self, process: Process, descriptor: int) -> int:
        """What `process` inherits of `descriptor`."""
        return self.adopt(process, os.dup(descriptor))

    def read(self, descriptor: int, length: int) -> bytes:
        thing = self.simulated.get(descriptor)
        return os.read(descriptor, length) if thing is None else thing.read(length)

    def stat(self, path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        if self.proc.has(path):
            return self.proc.stat(path)
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def fstat(self, descriptor: int) -> os.stat_result:
        if descriptor in self.simulated:
            return os.stat_result((0o140600, descriptor, 0, 1, 0, 0, 0, 0, 0, 0))
        return os.fstat(descriptor)

    def lseek(self, descriptor: int, position: int, whence: int) -> int:
        if descriptor in self.simulated:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        return os.lseek(descriptor, position, whence)

    # --- files ---------------------------------------------------------------------------------------------------------

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        self._machine.step()
        os.ftruncate(descriptor, size_bytes)
        match = _SEGMENT.fullmatch(self._opened[descriptor])
        if match:
            self.on_segment_made(int(match[1]), os.fstat(descriptor).st_ino, size_bytes)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        machine = self._machine
        if machine.current.process.life == 1 and machine.random.getrandbits(1):
            # it dies in this very call, when some of it is written
            os.pwrite(descriptor, data[: machine.random.randrange(len(data) + 1)], offset)
        machine.step()
        return os.pwrite(descriptor, data, offset)

    def stores_in(self, memory: memoryview) -> Callable[[slice, bytes], None]:
        """What writes into mapped memory, for the running process."""

        def store(place: slice, data: bytes) -> None:
            machine = self._machine
            if machine.current.process.life == 1 and machine.random.getrandbits(1):
                # it dies in the middle of copying
                some = machine.random.randrange(len(data) + 1)
                memory[place.start : place.start + some] = data[:some]
            machine.step()
            memory[place] = data

        return store

    def posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        self._machine.step()
        if self.disk.is_tight:
            has = os.fstat(descriptor).st_blocks * 512
            if offset + length - has > self.disk.free_bytes():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, offset, length)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._machine.step()
        match = _SEGMENT.fullmatch(self._path(path, dir_fd))
        inode = os.stat(path, dir_fd=dir_fd).st_ino if match else 0
        os.unlink(path, dir_fd=dir_fd)
        if match:
            self.on_segment_unlinked(int(match[1]), inode)

    def rename(self, source: str, target: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._machine.step()
        os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.on_renamed(self._path(source, src_dir_fd), self._path(target, dst_dir_fd))

    def listdir(self, path: str | int) -> list[str]:
        self._machine.step()
        return sorted(os.listdir(path))

    def statvfs(self, path: str) -> Any:
        self._machine.step()
        del path
        return _Room(self.disk.free_bytes() // _PAGE, _PAGE)

    def link(self, source: str, target: str, *, src_dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        self._machine.step()
        os.link(source, target, src_dir_fd=src_dir_fd, follow_symlinks=follow_symlinks)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        self._machine.step()
        return os.pread(descriptor, length, offset)

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._machine.step()
        os.rmdir(path, dir_fd=dir_fd)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._machine.step()
        os.mkdir(path, mode)

    def fallocate(self, descriptor: int, mode: int, offset: int, length: int) -> Any:
        self._machine.step()
        return _real_fallocate(descriptor, mode, offset, length)

    # --- processes ----------------------------------------------------------------------------------------------------

    def getpid(self) -> int:
        return self._machine.current.process.identity.pid

    def pidfd_open(self, pid: int) -> int:
        self._machine.step()
        return self.register(self.proc.pidfd(pid))

    # --- locks --------------------------------------------------------------------------------------------------------

    def fcntl(self, descriptor: int, command: int, argument: bytes = b"") -> Any:
        self._machine.step()
        return fcntl.fcntl(descriptor, command, argument)

    def flock(self, descriptor: int, operation: int) -> None:
        self._machine.step()
        fcntl.flock(descriptor, operation)


class _Room:
    """What `statvfs` tells."""

    def __init__(self, f_bavail: int, f_frsize: int) -> None:
        self.f_blocks = f_bavail + 1  # it has a size
        self.f_bavail = f_bavail
        self.f_frsize = f_frsize
