"""Opening what others can write: a directory of shared memory, and the files in it.

A path in /dev/shm may name anything that another user, or a program gone wrong, has put there: a link, a FIFO, a device, a
sparse file of 1 TB, a file under somebody's kernel lease. So, whatever is opened here

- is opened without following a link and without waiting (O_NOFOLLOW, O_NONBLOCK);
- is judged by its descriptor after it was opened, and reached through the descriptor of its directory, so that a swap in
  between changes nothing;
- is a directory, or a regular file, of the owner that was asked for; anything else is closed again and refused in words;
- is read no further than a bound.

The modes of what is made here do not depend on the umask, and what a start under a strange umask has left with too few bits
is repaired, if it is this user's and nobody else could enter it.

Source: open(2), fcntl(2) on leases (an opener waits for up to 45 s unless it said O_NONBLOCK), proc(5) on /proc/self/fd.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Iterator
from typing import Final

from shmlease.errors import PermissionDeniedError
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.units import format_bytes

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "create_regular",
    "directory_of",
    "ensure_mode",
    "open_directory",
    "open_into",
    "open_regular",
    "read_kernel_file",
    "read_named",
    "read_regular",
    "reason_of",
    "require_regular",
]

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_NO_SURPRISE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# O_PATH: needs no permission on the directory itself, does for all that is relative to it, and cannot be read by mistake.
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES: Final = 1 << 20
# A baseline of 100,000 leaks has some 20 MiB.
NAMED_LIMIT_BYTES: Final = 64 << 20
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a regular file",
}


def open_directory(path: str, *, directory: int | None = None) -> int:
    """A descriptor that stands for the directory at `path`, for use as `dir_fd`; it cannot itself be listed.

    Whose it is, and of what mode, is for the caller to see.

    Parameters
    ----------
    path : str
        Relative to the open `directory`, if given. Its last component is not followed.

    Raises
    ------
    FileNotFoundError
        There is nothing.
    PermissionDeniedError
        It is something else.
    """
    try:
        return _open(path, _DIRECTORY, directory)
    except NotADirectoryError as error:
        if is_from_handler(error):
            raise
        status = syscalls.stat(path, dir_fd=directory, follow_symlinks=False)
        raise _refused(path, status, stat.S_IFDIR, None, directory) from None


@contextlib.contextmanager
def directory_of(root: str, name: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory in which `name` lies, some way below `root`, and the last component of `name`.

    Other users may make directories below `root`, and put links in their place: none is followed.

    Raises
    ------
    FileNotFoundError
        A directory on the way is gone.
    PermissionDeniedError
        It is no directory any more.
    """
    directory = syscalls.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *parents, last = name.split("/")
        for parent in parents:
            below = open_directory(parent, directory=directory)
            syscalls.close(directory)
            directory = below
        yield directory, last
    finally:
        syscalls.close(directory)


def open_regular(
    path: str,
    flags: int = os.O_RDONLY,
    *,
    directory: int | None = None,
    owner: int | None = None,
    file: tuple[int, int] | None = None,
) -> int:
    """A descriptor of the regular file at `path`.

    Parameters
    ----------
    path : str
        Relative to the open `directory`, if given. Its last component is not followed.
    flags : int
        How to open it; nothing is made and nothing is cut short.
    owner : int, optional
        The user id that it must belong to. If that is this process's, and the file lacks the bits that let its owner in, it
        is given them.
    file : tuple of int, optional
        Device and inode that it must have.

    Raises
    ------
    FileNotFoundError
        There is nothing.
    PermissionDeniedError
        It is something else, or somebody else's.
    OSError
        The kernel refused: EACCES, or EAGAIN where somebody holds a lease on the file. Or ESTALE: it is another file.
    """
    try:
        descriptor = _open(path, flags, directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_from_handler(error):
            raise
        descriptor = _second_try(path, flags, directory, owner)
    try:
        status = syscalls.fstat(descriptor)
        require_regular(status, path, directory=directory, owner=owner)
        if file is not None and (status.st_dev, status.st_ino) != file:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    except BaseException:
        syscalls.close(descriptor)
        raise
    return descriptor


def require_regular(status: os.stat_result, path: str, *, directory: int | None = None, owner: int | None = None) -> None:
    """Refuse, with PermissionDeniedError, what was opened at `path` and by its `status` is no regular file of `owner`'s."""
    if not stat.S_ISREG(status.st_mode) or (owner is not None and status.st_uid != owner):
        raise _refused(path, status, stat.S_IFREG, owner, directory)


def create_regular(path: str, *, directory: int | None = None, owner: int | None = None) -> int:
    """A descriptor, for reading and writing, of a new file at `path`: mode 0600, whatever the umask.

    Parameters
    ----------
    owner : int, optional
        Whom to give it to.

    Raises
    ------
    FileExistsError
        There is something of that name.
    OSError
        ENOSPC and the like.
    """
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, directory)
    try:
        syscalls.fchmod(descriptor, FILE_MODE)
        if owner is not None and owner != os.geteuid():
            syscalls.fchown(descriptor, owner, -1)
    except BaseException:
        syscalls.close(descriptor)
        raise
    return descriptor


def read_regular(path: str, limit_bytes: int, *, directory: int | None = None, owner: int | None = None) -> bytes:
    """What the regular file at `path` holds.

    Raises
    ------
    FileNotFoundError
        There is nothing.
    PermissionDeniedError
        It is something else, somebody else's, or larger than `limit_bytes`.
    OSError
        The kernel refused.
    """
    descriptor = open_regular(path, directory=directory, owner=owner)
    try:
        size_bytes = syscalls.fstat(descriptor).st_size
        position = 0
        pieces: list[bytes] = []
        while position <= limit_bytes and size_bytes <= limit_bytes:
            piece = syscalls.pread(descriptor, min(_PIECE_BYTES, limit_bytes + 1 - position), position)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            position += len(piece)
    finally:
        syscalls.close(descriptor)
    path = _full(path, directory)
    raise PermissionDeniedError(
        f"{path} holds {format_bytes(max(size_bytes, position))}; not more than {format_bytes(limit_bytes)} is read",
        path=path,
    )


def read_kernel_file(path: str, limit_bytes: int = NAMED_LIMIT_BYTES) -> bytes:
    """What a file of /proc or /sys holds, up to a bound; an interrupt loses no descriptor.

    Raises
    ------
    OSError
        There is none, or it is not for this user to read.
    """
    opened: list[int] = []
    pieces: list[bytes] = [b" "]
    try:
        opened.extend(map(syscalls.open, (path,), (os.O_RDONLY | os.O_CLOEXEC,)))
        while pieces[-1] and limit_bytes > 0:
            pieces.append(syscalls.read(opened[0], min(_PIECE_BYTES, limit_bytes)))
            limit_bytes -= len(pieces[-1])
        return b"".join(pieces[1:])
    finally:
        if opened:
            syscalls.close(opened[0])


def read_named(path: str) -> bytes:
    """What the file holds that the user has named: a pipe will do, and one that does not end is read up to a bound.

    Raises
    ------
    OSError
        It cannot be read, or holds more.
    """
    with open(path, "rb") as file:
        content = file.read(NAMED_LIMIT_BYTES + 1)
    if len(content) > NAMED_LIMIT_BYTES:
        raise OSError(errno.EFBIG, f"it holds more than {format_bytes(NAMED_LIMIT_BYTES)}", path)
    return content


def ensure_mode(descriptor: int, wanted: int) -> None:
    """Give what `descriptor` stands for the bits of its owner that it lacks.

    A mode that lets others in is nothing that a umask has made: it stays, for its owner to look into.
    """
    mode = stat.S_IMODE(syscalls.fstat(descriptor).st_mode)
    if mode & wanted != wanted and not mode & 0o077:
        syscalls.chmod(f"/proc/self/fd/{descriptor}", wanted)  # fchmod(2) does not take an O_PATH descriptor


def reason_of(error: OSError) -> str:
    """Why `error` was raised, without the path."""
    return error.strerror or str(error)


def open_into(opened: list[int], path: str, flags: int, directory: int | None) -> None:
    """`os.open`, of which no descriptor is lost to an interrupt; what is opened is yet to be looked at.

    After a call of a function written in C a signal handler may run, and what it raises takes the place of what the call
    returned. So the descriptor is put into the list `opened` by the call that opens it.
    """
    how = functools.partial(syscalls.open, dir_fd=directory)
    opened.extend(map(how, (path,), (flags | _NO_SURPRISE,), (FILE_MODE,)))


def _open(path: str, flags: int, directory: int | None) -> int:
    opened: list[int] = []
    try:
        open_into(opened, path, flags, directory)
    except BaseException:
        if opened:
            syscalls.close(opened[0])
        raise
    return opened[0]


def _second_try(path: str, flags: int, directory: int | None, owner: int | None) -> int:
    """Open what could not be opened, if that can be repaired; else raise why not."""
    status = syscalls.stat(path, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):  # ELOOP, ENXIO, EISDIR, or EACCES
        raise _refused(path, status, stat.S_IFREG, owner, directory) from None
    if owner == os.geteuid():
        _repair(path, directory)
    return _open(path, flags, directory)


def _repair(path: str, directory: int | None) -> None:
    """Give a regular file of this user's the bits of its owner that it lacks."""
    descriptor = syscalls.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = syscalls.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            ensure_mode(descriptor, FILE_MODE)
    finally:
        syscalls.close(descriptor)


def _refused(
    path: str, status: os.stat_result, wanted: int, owner: int | None, directory: int | None
) -> PermissionDeniedError:
    """What stands in the way at `path`, in words."""
    path = _full(path, directory)
    kind = stat.S_IFMT(status.st_mode)
    faults = []
    if kind != wanted:
        faults.append(f"is {_KINDS.get(kind, 'something else')}, not {_KINDS[wanted]}")
    if owner is not None and status.st_uid != owner:
        expected = f"this process runs as uid {owner}" if owner == os.geteuid() else f"uid {owner} was expected"
        faults.append(f"belongs to uid {status.st_uid}; {expected}")
    return PermissionDeniedError(f"{path} {' and '.join(faults)}", path=path, uid=status.st_uid)


def _full(path: str, directory: int | None) -> str:
    """`path`, of which the directory is open, for a message."""
    with contextlib.suppress(OSError):
        if directory is not None:
            return f"{os.readlink(f'/proc/self/fd/{directory}')}/{path}"
    return path
