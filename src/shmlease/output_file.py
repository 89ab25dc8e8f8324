"""The files that a user names as outputs: every command and function that writes one writes it through here.

Rules:

- A regular file is made beside its place and moved there in one step, so a failure leaves what was there before, and
  nothing else. It keeps the mode, owner and group of the file that it replaces, as far as this process may set them.
- Anything else is never replaced. A FIFO, a terminal or another character device is written into; a directory, a block
  device and a socket are refused.
- Symbolic links are followed and stay: what they point to is replaced. An open file of this process that is named through
  /proc, as /dev/stdout names it, is appended to.
- In a directory that everybody may write to, such as /tmp, another user's link or FIFO is refused, as the kernel does under
  fs.protected_symlinks and fs.protected_fifos.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shmlease.errors import LeaseError

__all__ = ["append_output", "check_output", "move_into_place", "require_trusted", "resolve_regular", "write_output"]

_MOST_LINKS = 40  # as the kernel's limit
_WRITTEN_INTO = (stat.S_ISCHR, stat.S_ISFIFO)
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


def check_output(path: str) -> None:
    """Refuse now what `write_output` would refuse later; `path` stays as it is.

    Raises
    ------
    LeaseError
        The file could not be written.
    """
    with _explained(path):
        target, found = _resolve(path)
        if _is_replaced(target, found):
            _require_replaceable(target, found)
            fd, beside = _create_beside(target, found)
            os.close(fd)
            os.unlink(beside)
        elif not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_output(path: str, content: str | bytes) -> None:
    """Write all of `content` to `path`.

    Raises
    ------
    LeaseError
        The file cannot be written.
    """
    data = _encoded(content)
    with _explained(path):
        target, found = _resolve(path)
        if not _is_replaced(target, found):
            _append(target, data)
            return
        _require_replaceable(target, found)
        fd, beside = _create_beside(target, found)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                move_into_place(fd, beside, target)
        except BaseException:
            _unlink_if_there(beside)
            raise


def append_output(path: str, content: str) -> None:
    """Add `content` to the end of a file that others write to as well; it is made if it is not there.

    Raises
    ------
    LeaseError
        The file cannot be written.
    """
    with _explained(path):
        target, _ = _resolve(path)
        _append(target, _encoded(content))


def resolve_regular(path: str | os.PathLike[str]) -> tuple[str, bool]:
    """Where a file that must be a regular one is to be put: `path` with its links followed, and whether a file is there.

    Raises
    ------
    OSError
        Something else is there, or a file that must not be replaced; `strerror` says what.
    """
    target, found = _resolve(os.fsdecode(path))
    if _is_open_file(target):
        raise OSError(errno.EINVAL, "it is an open file of a process; give the name of a file")
    _require_replaceable(target, found)
    return target, found is not None


def move_into_place(fd: int, made: str, target: str) -> None:
    """Rename the finished file `made`, open as `fd`, to `target`, with the mode and owner of the file that it replaces.

    Raises
    ------
    OSError
        `target` is no regular file by now, or the system refuses.
    """
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        pass
    else:
        _require_replaceable(target, found)
        _take_over_owner_and_mode(fd, found)
    os.rename(made, target)


def require_trusted(path: str, found: os.stat_result) -> None:
    """Refuse what another user has put into a directory that everybody may write to.

    Raises
    ------
    OSError
        `found`, which is what lies at `path`, is such a thing.
    """
    parent = os.stat(os.path.dirname(path) or os.curdir)
    is_open_to_all = parent.st_mode & stat.S_ISVTX and parent.st_mode & stat.S_IWOTH
    if is_open_to_all and found.st_uid not in (os.geteuid(), parent.st_uid):
        raise PermissionError(
            errno.EACCES, f"{path} belongs to user {found.st_uid}, and everybody may write to its directory"
        )


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LeaseError(f"cannot write {path}: {error.strerror or error}", path=path) from error


def _resolve(path: str) -> tuple[str, os.stat_result | None]:
    """`path` with its links followed, and what is there, if anything is."""
    if "\0" in path:
        raise OSError(errno.EINVAL, "its name holds a NUL character")
    for _ in range(_MOST_LINKS):
        directory, name = os.path.split(path)
        if not path:
            raise OSError(errno.EINVAL, "its name is empty")
        if name in ("", os.curdir, os.pardir):
            raise IsADirectoryError(errno.EISDIR, "it names a directory; give the name of a file")
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            if not os.path.isdir(directory or os.curdir):
                raise FileNotFoundError(errno.ENOENT, f"there is no directory {directory}") from None
            return path, None
        if _is_open_file(path):
            return path, os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            require_trusted(path, found)
        if not stat.S_ISLNK(found.st_mode):
            return path, found
        path = os.path.join(directory, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_open_file(path: str) -> bool:
    """Whether `path` is a link of /proc to a file that a process has open, which can be opened but not followed by name."""
    directory = os.path.realpath(os.path.dirname(path) or os.curdir)
    return directory.startswith("/proc/") and directory.endswith("/fd")


def _is_replaced(target: str, found: os.stat_result | None) -> bool:
    """Whether the output is made beside `target` and moved there, and not written into what is there."""
    if found is None:
        return True
    return not (_is_open_file(target) or any(is_kind(found.st_mode) for is_kind in _WRITTEN_INTO))


def _require_replaceable(target: str, found: os.stat_result | None) -> None:
    if found is None:
        return
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no regular file")
        code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(code, f"it is {kind}; give the name of a file")
    if not os.access(target, os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, "the file that is there is write-protected")


def _create_beside(target: str, replaced: os.stat_result | None) -> tuple[int, str]:
    """A new file in the directory of `target`: as new files are, or private until it takes over the mode of `replaced`."""
    beside = os.path.join(os.path.dirname(target), f".shmlease-{os.urandom(6).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(beside, flags, 0o666 if replaced is None else 0o600), beside
    except OSError as error:
        directory = os.path.dirname(target) or os.curdir
        raise OSError(error.errno, f"no file can be made in {directory}: {error.strerror}") from error


def _take_over_owner_and_mode(fd: int, replaced: os.stat_result) -> None:
    mode = stat.S_IMODE(replaced.st_mode) & 0o777
    made = os.fstat(fd)
    if (made.st_uid, made.st_gid) != (replaced.st_uid, replaced.st_gid):
        try:
            os.fchown(fd, replaced.st_uid, replaced.st_gid)
        except OSError:  # only root gives files away
            try:
                os.fchown(fd, -1, replaced.st_gid)
            except OSError:
                mode = mode & 0o707 | (mode & 0o007) << 3  # its group is another one, and gets what all others get
    os.fchmod(fd, mode)


def _append(target: str, data: bytes) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _encoded(content: str | bytes) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # it has been moved into place
        pass
