"""The directory in which a file is made, beside where it will be: ``out.h5.partial/`` for ``out.h5``.

It holds ``data``, the HDF5 file under way, ``write_ahead_log``, and ``rewritten``, if the finished data get another form. A
directory passes for no result; the file moves to the output's name in one rename, complete and durable. The lock on the
write-ahead log says that somebody is at work; the kernel drops it with its holder, and a forked child gives it up.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shmlease.errors import SinkError
from shmlease.output_file import move_into_place, require_trusted, resolve_regular
from shmlease.units import format_bytes

__all__ = ["StagingDirectory", "explained", "output_path"]

_log = logging.getLogger(__name__)


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Raise what the system refuses as an error that names the output `path` and the `action`."""
    try:
        yield
    except SinkError:
        raise
    except OSError as error:
        raise SinkError(f"{path}: cannot {action}: {error.strerror or error}", path=str(path), errno=error.errno) from error


def output_path(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Where an HDF5 file named `path` goes: its symbolic links are followed.

    Raises
    ------
    SinkError
        There is a file already and it is not to be overwritten, or no regular file can be put there.
    """
    with explained("write there", Path(path)):
        place, is_there = resolve_regular(path)
    if is_there and not overwrite:
        raise SinkError(
            f"{os.fspath(path)}: the file is there already; choose another name, or have it replaced (--overwrite, "
            "overwrite=True)",
            path=os.fspath(path),
            errno=errno.EEXIST,
        )
    return Path(place).absolute()


class StagingDirectory:
    """The partial file of one output, locked; open from construction on.

    Attributes
    ----------
    output : Path
        Where the file goes in the end; a symbolic link was followed.
    data_fd, log_fd : int
        The caller owns them.
    """

    def __init__(self, output: str | os.PathLike[str], *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self.output = output_path(output, overwrite=overwrite)
        self.directory = self.output.with_name(self.output.name + ".partial")
        with explained("write there", self.output):
            self.log_fd = self._lock()
            try:
                self.data_fd = os.open(self.data_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except OSError:
                os.close(self.log_fd)
                raise

    @property
    def data_path(self) -> Path:
        """The HDF5 file under way."""
        return self.directory / "data"

    @property
    def _rewritten(self) -> Path:
        return self.directory / "rewritten"

    @property
    def _log_path(self) -> Path:
        return self.directory / "write_ahead_log"

    def _lock(self) -> int:
        while True:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            try:
                require_trusted(str(self.directory), os.lstat(self.directory))
                fd = os.open(self._log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            except FileNotFoundError:
                if not self.output.parent.is_dir():
                    raise
                continue  # another sink finished just now and took the directory away
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(self._log_path)):
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(fd)
                raise SinkError(
                    f"{self.output}: another sink is writing it; wait for it to end, or choose another name",
                    path=str(self.output),
                    errno=errno.EWOULDBLOCK,
                ) from None
            os.close(fd)

    def is_empty(self) -> bool:
        """Whether there is nothing of an interrupted run."""
        return os.fstat(self.log_fd).st_size == 0

    def clear(self) -> None:
        """Drop what an interrupted run left."""
        if not self.is_empty():
            size_bytes = os.fstat(self.data_fd).st_size
            _log.warning("%s: dropped %s of an interrupted run", self.output, format_bytes(size_bytes))
        with explained("drop the partial file", self.output):
            os.ftruncate(self.log_fd, 0)
            os.ftruncate(self.data_fd, 0)

    def require_place(self) -> None:
        """Raise if the output's name has been taken since this partial file was begun.

        Raises
        ------
        SinkError
            It has.
        """
        output_path(self.output, overwrite=self._overwrite)

    def open_rewritten(self) -> int:
        """A descriptor of an empty file for the data in another form; the caller owns it."""
        with explained("write there", self.output):
            return os.open(self._rewritten, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)

    def publish(self, rewritten_fd: int | None = None) -> None:
        """Give the data its name, in its other form if there is one, durably, and take the directory away."""
        with explained("put the finished file there", self.output):
            if rewritten_fd is None:
                move_into_place(self.data_fd, str(self.data_path), str(self.output))
            else:
                move_into_place(rewritten_fd, str(self._rewritten), str(self.output))
            _sync_directory(self.output.parent)
            self.remove()

    def remove(self) -> None:
        """Take the directory away, with all that a sink puts there."""
        with explained("remove the partial file", self.output):
            for path in (self.data_path, self._rewritten, self._log_path):
                path.unlink(missing_ok=True)
            try:
                self.directory.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # another sink moved in, or a file in it is not ours
                    raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
