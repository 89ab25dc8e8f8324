"""Pipes, FIFOs and standard input: they give their bytes once, and a table is looked at before it is read.

The first bytes of a pipe are kept, so that whoever opens it begins at its beginning. A reader that goes on behind them
gives them up: it is the last one.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from typing import TYPE_CHECKING

from shmlease.errors import IngestError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["STANDARD_INPUT", "Pipe", "forget_pipes", "is_pipe", "pipe_of"]

STANDARD_INPUT = "-"
_KEPT_BYTES = 4 << 20  # more than header and inference look at, also where they are compressed
_LEAST_BYTES = 16  # what the kind of a content is told by

_opened: dict[str, Pipe] = {}


def is_pipe(name: str) -> bool:
    """Whether a name stands for something that can be read once: ``-``, a FIFO, a pipe of the shell, a terminal."""
    if name == STANDARD_INPUT:
        return True
    mode = os.stat(name).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def pipe_of(name: str) -> Pipe:
    """The pipe of that name, opened at the first call and kept until `forget_pipes`.

    Raises
    ------
    OSError
        It cannot be opened.
    """
    pipe = _opened.get(name)
    if pipe is None:
        descriptor = os.dup(0) if name == STANDARD_INPUT else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        pipe = _opened[name] = Pipe(name, descriptor)
    return pipe


def forget_pipes(names: list[str]) -> None:
    """Close those of these names that were opened: whoever opens one next gets what comes next."""
    for name in names:
        pipe = _opened.pop(name, None)
        if pipe is not None:
            pipe.close()


class Pipe:
    """What came through a pipe so far, as far as it is kept.

    Attributes
    ----------
    size_bytes, crc32 : int
        Of all bytes that came.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        self._name, self._descriptor = name, descriptor
        self._kept = bytearray()
        self._is_given_up = False
        self.size_bytes = self.crc32 = 0
        while self.size_bytes < _LEAST_BYTES and self.receive(_LEAST_BYTES):
            pass

    def open(self) -> io.RawIOBase:
        """A stream from the first byte on.

        Raises
        ------
        IngestError
            It was read already, further than it is kept.
        """
        if self._is_given_up:
            raise IngestError(f"{self._name}: a pipe can be read once only; write what it gives to a file", path=self._name)
        return _PipeReader(self)

    def receive(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        data = os.read(self._descriptor, size)
        self.size_bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        if self.size_bytes <= _KEPT_BYTES:
            self._kept += data
        elif data:
            self._kept.clear()
            self._is_given_up = True
        return data

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on; none at the end."""
        if offset < self.size_bytes and not self._is_given_up:
            return bytes(self._kept[offset : offset + size])
        if offset != self.size_bytes:
            raise IngestError(f"{self._name}: two readers share a pipe; name it once", path=self._name)
        return self.receive(size)

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _PipeReader(io.RawIOBase):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._offset = pipe, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._pipe.read_at(self._offset, len(view))
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)
