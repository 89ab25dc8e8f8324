"""The system calls of the lease product, each under one name: what tests and the simulation put their own in place of.

Rules:

* Registry, client and system make these calls through this module, ``syscalls.open(...)``, and import none of them by name.
  So what replaces an attribute here is met by all of them.
* An attribute is the function of the library itself: it costs what ``os.open`` costs, and there is no frame of ours in
  between, in which a signal handler could run.
* What decides nothing of the life of a segment is not here: constants, paths, limits, and how processes are started.
"""

from __future__ import annotations

import _socket  # not socket, where gevent puts its own
import ctypes
import fcntl as _fcntl
import os
from collections.abc import Callable
from socket import socket as server_socket
from typing import Final

from shmlease.system import primitives
from shmlease.system.primitives import RLock

__all__ = [
    "chmod",
    "close",
    "epoll",
    "fallocate",
    "fchmod",
    "fchown",
    "fcntl",
    "flock",
    "fork_lock",
    "fstat",
    "ftruncate",
    "getpid",
    "link",
    "listdir",
    "lseek",
    "madvise",
    "mkdir",
    "mknod",
    "mmap",
    "open",
    "pidfd_open",
    "pipe2",
    "poll",
    "posix_fallocate",
    "pread",
    "pwrite",
    "read",
    "rename",
    "rmdir",
    "server_socket",
    "socket",
    "stat",
    "statvfs",
    "stores_in",
    "unlink",
]

# files
open = os.open
close = os.close
read = os.read
pread = os.pread
pwrite = os.pwrite
lseek = os.lseek
stat = os.stat
fstat = os.fstat
chmod = os.chmod
fchmod = os.fchmod
fchown = os.fchown
ftruncate = os.ftruncate
posix_fallocate = os.posix_fallocate
link = os.link
rename = os.rename
unlink = os.unlink
mknod = os.mknod
mkdir = os.mkdir
rmdir = os.rmdir
listdir = os.listdir
pipe2 = os.pipe2
statvfs = os.statvfs

# locks: `fork_lock` is held while a descriptor is opened that a forked child must close
fcntl = _fcntl.fcntl
flock = _fcntl.flock
fork_lock: Final = RLock()

# processes
getpid = os.getpid
pidfd_open = os.pidfd_open

# sockets, and what waits for them; only the registry needs the class that accepts
socket = _socket.socket
epoll = primitives.epoll
poll = primitives.poll

# memory: these return -1, or an address, and leave their error to ctypes.get_errno()
_libc: Final = ctypes.CDLL(None, use_errno=True)
mmap = _libc.mmap
mmap.restype = ctypes.c_void_p
mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
madvise = _libc.madvise
madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
fallocate = _libc.fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def stores_in(memory: memoryview) -> Callable[[slice, bytes], None]:
    """What writes into mapped `memory`: no system call, but a process can die in the middle of it."""
    return memory.__setitem__
