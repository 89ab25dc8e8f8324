"""What an interrupted run has left beside an output, looked at without taking it over."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shmlease.hdf5.write_ahead_log import Checkpoint, Chunk, SmallArray, WriteAheadLog
from shmlease.output_file import require_trusted

__all__ = ["InterruptedRun", "interrupted_run"]


class InterruptedRun(msgspec.Struct, frozen=True):
    """A partial file in which something is stored.

    Attributes
    ----------
    directory : Path
    position : object
        Of its first checkpoint; None if it came to none.
    stored_bytes : int
        Of the data so far.
    """

    directory: Path
    position: Any
    stored_bytes: int


def interrupted_run(output: Path) -> InterruptedRun | None:
    """The run that was interrupted while it wrote to `output`; None if there is none, it stored nothing, or it goes on."""
    directory = output.with_name(output.name + ".partial")
    with contextlib.suppress(OSError), _opened(directory) as fd:
        position, has_stored = None, False
        for record, _ in WriteAheadLog(fd).read():
            if isinstance(record, Checkpoint) and position is None:
                position = record.position
            has_stored |= isinstance(record, Chunk | SmallArray)
            if has_stored and position is not None:
                break
        if has_stored:
            return InterruptedRun(directory, position, os.stat(directory / "data").st_size)
    return None


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """The write-ahead log in it, of which nobody has the lock."""
    require_trusted(str(directory), os.lstat(directory))
    fd = os.open(directory / "write_ahead_log", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)
