"""A /dev/shm, mount table and System V namespace of one's own, so that what is left there can only be the command's.

Unprivileged where the system allows user namespaces; root without them. The caller moves into the new namespaces itself, so
that it sees what the command sees, and keeps its pid, its /proc and its files. There is no pid namespace: /proc would have
to be mounted again, which containers refuse, and a subreaper knows its descendants without one.

Source: namespaces(7), user_namespaces(7), mount_namespaces(7), tmpfs(5).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from shmlease.errors import UnsupportedPlatformError

__all__ = ["enter_isolation"]

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_MS_NOSUID: Final = 0x2
_MS_NODEV: Final = 0x4
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def enter_isolation(shm: str = "/dev/shm") -> None:
    """Move this process, and so its children to come, into namespaces with an empty `shm` of the same size limit.

    It is tried in a child first: this process either enters, or stays as it was.

    Raises
    ------
    UnsupportedPlatformError
        The system does not allow it; the message says which step failed.
    """
    refusal = _refusal_in_a_child(shm)
    if refusal:
        raise UnsupportedPlatformError(refusal)
    _enter(shm)


def _refusal_in_a_child(shm: str) -> str:
    """Why a child could not enter; empty if it could."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _enter(shm)
        except OSError as error:
            os.write(write_end, f"{error.filename}: {error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        words = pipe.read()
    os.waitpid(pid, 0)
    return words.decode()


def _enter(shm: str) -> None:
    target = os.path.realpath(shm)
    limits = os.statvfs(target)
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWNS | _CLONE_NEWIPC)
    except PermissionError:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWIPC)
        _write("/proc/self/setgroups", "deny")  # without it an unprivileged gid_map is refused
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    # mounts made here stay here; those made outside still arrive
    _mount("none", "/", "", _MS_REC | _MS_SLAVE, "")
    size = f"size={limits.f_blocks * limits.f_frsize},nr_inodes={limits.f_files},mode=1777"
    _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, size)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        _fail("unshare")


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()) != 0:
        _fail(f"mount on {target}")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def _fail(subject: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), subject)
