"""Which process is which: identities that survive the reuse of pids, and proof of death.

Source: proc(5), pidfd_open(2), unix(7) for SO_PEERCRED; SO_PEERPIDFD came with Linux 6.5.
"""

from __future__ import annotations

import _socket
import errno
import functools
import os
import select
import socket
import struct
from typing import Final

from shmlease.core.model import UNSEEN_NAMESPACE, Identity
from shmlease.errors import PermissionDeniedError, UnsupportedPlatformError
from shmlease.system import syscalls
from shmlease.system.safe_open import read_kernel_file

__all__ = [
    "boot_id",
    "identify",
    "is_dead",
    "own_identity",
    "own_pid_namespace",
    "own_time_namespace",
    "peer_of",
    "pidfd_of_peer",
    "require_proc",
    "require_same_user",
    "unseen_identity",
    "watch",
]

SO_PEERPIDFD: Final = 77
_COMMAND_BYTES: Final = 256  # of the command line: to be recognized by people
_UCRED: Final = struct.Struct("3i")


@functools.cache
def boot_id() -> str:
    """The id of this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def identify(pid: int) -> Identity:
    """The identity of the live process `pid`.

    Raises
    ------
    ProcessLookupError
        There is no such process, or it is a zombie: dead, and only not buried.
    """
    try:
        stat = read_kernel_file(f"/proc/{pid}/stat")
        owner = syscalls.stat(f"/proc/{pid}")
        # the command name in parentheses may hold blanks and parentheses itself; what follows the last one is clean
        fields = stat[stat.rindex(b")") + 2 :].split()
        is_leader_dead, threads = fields[0] in (b"Z", b"X"), int(fields[17])
        if is_leader_dead and threads <= 1:
            raise ProcessLookupError
        # a process lives until its last thread has ended; a leader that has gone before has no command line any more
        tasks = map(int, syscalls.listdir(f"/proc/{pid}/task")) if is_leader_dead else (pid,)
        alive = next(task for task in tasks if task != pid or not is_leader_dead)
        arguments = read_kernel_file(f"/proc/{pid}/task/{alive}/cmdline", _COMMAND_BYTES)
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}, or it has ended") from None
    command = arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return Identity(pid, int(fields[19]), boot_id(), own_pid_namespace(), owner.st_uid, command, own_time_namespace())


def require_proc(proc: str = "/proc") -> None:
    """Refuse a system without /proc, which tells who is alive.

    Raises
    ------
    UnsupportedPlatformError
        It is not mounted.
    """
    if not os.path.exists(f"{proc}/self/stat"):
        raise UnsupportedPlatformError(
            f"there is no {proc}, which tells who is alive and holds what; mount it (`mount -t proc proc {proc}`)"
        )


def own_pid_namespace() -> int:
    """The namespace in which this process counts pids: those of another mean nothing here."""
    return syscalls.stat("/proc/self/ns/pid").st_ino


def own_time_namespace() -> int:
    """The namespace in which this process reads start times; 0 before Linux 5.6, which has one clock for all."""
    try:
        return syscalls.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:
        return 0


def unseen_identity(uid: int) -> Identity:
    """What is known of a process outside this pid namespace, which the kernel shows with pid 0: its user."""
    return Identity(0, 0, boot_id(), UNSEEN_NAMESPACE, uid, "")


def own_identity() -> Identity:
    """The identity of this process."""
    return identify(syscalls.getpid())


def is_dead(identity: Identity) -> bool:
    """Whether the process is proved dead; one that cannot be seen from here counts as alive."""
    if identity.pid_namespace != own_pid_namespace():  # and a container may have a boot id of its own
        return False
    if identity.boot_id != boot_id():
        return True
    try:
        return not identify(identity.pid).may_be(identity)
    except ProcessLookupError:
        return True


def peer_of(connection: _socket.socket) -> tuple[int, int]:
    """Pid and uid of the process at the other end, as the kernel knows them."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def require_same_user(uid: int, subject: str) -> None:
    """Refuse another user.

    Raises
    ------
    PermissionDeniedError
        `uid` is not this process's.
    """
    if uid != os.geteuid():
        raise PermissionDeniedError(f"{subject} belongs to uid {uid}; this process runs as uid {os.geteuid()}", uid=uid)


def pidfd_of_peer(connection: socket.socket, pid: int) -> int:
    """A descriptor that becomes readable when the process at the other end has died; -1 if there is no way to see that.

    Raises
    ------
    ProcessLookupError
        It has died already.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:  # before Linux 6.5: by pid; the caller compares the start time it reads afterwards
        return syscalls.pidfd_open(pid) if pid else -1


def watch(identity: Identity) -> int | None:
    """A pidfd of exactly that process; None if it is dead; -1 if it cannot be seen from here, and so counts as alive.

    Raises
    ------
    PermissionError, OSError
        The process cannot be watched from here.
    """
    if identity.pid_namespace != own_pid_namespace():
        return -1
    try:
        pidfd = syscalls.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    try:
        death = syscalls.poll()  # select() knows no descriptor beyond 1023, and a registry watches all its clients
        death.register(pidfd, select.POLLIN)
        gone = is_dead(identity) or bool(death.poll(0))
    except BaseException:
        syscalls.close(pidfd)
        raise
    if gone:
        syscalls.close(pidfd)
        return None
    return pidfd
