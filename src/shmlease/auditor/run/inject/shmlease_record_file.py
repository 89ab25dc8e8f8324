"""The file of records, as the programs of a run write it.

Lines are appended, each by one write. A program with more than a few to write claims a piece of the file, by one write that
appends the piece, empty, and puts further lines there through a mapping, which takes no system call:

    b"piece <bytes of it>\\n"  zeros, where lines are to stand  b"end of piece\\n"

A line has no zero byte, and what nobody has written yet is zeros. So a reader tells a line that is half-written from a
whole one, whatever the order of the stores, and one that a killed program left so stays so. Pages of the piece are there
before it is mapped, so that a full disk is an error of the write and no SIGBUS.

As the recorder, this runs in other people's programs: it keeps no descriptor, and imports nothing that they have not.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing would cost every program some milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap
    from types import ModuleType

PIECE = b"piece "
END_OF_PIECE = b"end of piece\n"
# Three times the open, the write and the close of a line are what a piece takes; few programs have more to say than that.
_FEW = 8
# Some 600 lines. It bounds what a process that has less to say takes of the file.
_PIECE_BYTES = 1 << 16
_LONGEST = _PIECE_BYTES // 8
# Mappings that cannot be freed (see `_map`): 16 MiB of address space.
_MOST_KEPT = 256
# never waits for a reader of a FIFO, never follows a link
_FLAGS = os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class RecordFile:
    """Where one process writes its lines; a forked child needs one of its own.

    `put` writes a line into the piece that is mapped. It raises ValueError if there is no room: then `append` writes it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.put: Callable[[bytes], object] = _no_piece
        self._until_claim = _FEW

    def append(self, line: bytes) -> None:
        """Write a line by itself, or into a new piece if there were some before; one that cannot be written is lost."""
        self._until_claim -= 1
        if self._until_claim < 0 and len(line) < _LONGEST and "mmap" in sys.modules:
            try:
                self.put = self._claim(sys.modules["mmap"]).write
                self.put(line)
            except Exception:  # the disk is full, the file system maps nothing, the process may not have more memory
                self.put = _no_piece
                self._until_claim = sys.maxsize
            else:
                return
        try:
            # opened each time: a descriptor kept could be closed and its number reused by the program
            descriptor = os.open(self.path, os.O_WRONLY | _FLAGS)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError:
            pass  # the program has another root, another user, or outlived the audit

    def _claim(self, module: ModuleType) -> mmap:
        """A new piece of the file, mapped, at the position of its first line."""
        header = b"%b%d\n" % (PIECE, _PIECE_BYTES)
        piece = header.ljust(_PIECE_BYTES - len(END_OF_PIECE), b"\0") + END_OF_PIECE
        descriptor = os.open(self.path, os.O_RDWR | _FLAGS)
        try:
            if os.write(descriptor, piece) < len(piece):
                raise OSError("no room for a piece")
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            begin = end - len(piece)
            offset = begin - begin % module.ALLOCATIONGRANULARITY
            mapping = _map(module, descriptor, end - len(END_OF_PIECE) - offset, offset)
        finally:
            os.close(descriptor)
        mapping.seek(begin + len(header) - offset)
        return mapping


def _no_piece(_: bytes) -> int:
    raise ValueError("no piece is mapped")


def _map(module: ModuleType, descriptor: int, length: int, offset: int) -> mmap:
    """A mapping that keeps no descriptor."""
    try:
        mapping: mmap = module.mmap(descriptor, length, offset=offset, trackfd=False)
    except TypeError:  # before Python 3.13, which duplicates the descriptor
        if len(_kept) > _MOST_KEPT:
            raise OSError("too many mappings are kept") from None
        likely = os.dup(descriptor)  # the lowest that is free, as the mapping's own will be
        os.close(likely)
        mapping = module.mmap(descriptor, length, offset=offset)
        try:
            if not _is_duplicate(likely, descriptor):
                raise OSError("another thread opened something meanwhile")
        except OSError:
            mapping.close()
            raise
        # From here on the mapping must never be closed or freed: it would close whatever has that number by then.
        _kept.append(mapping)
        os.close(likely)
    return mapping


def _is_duplicate(number: int, descriptor: int) -> bool:
    """Whether both are the same open file: nobody else has the position that it has after the piece was written."""
    if not os.path.samestat(os.fstat(number), os.fstat(descriptor)):
        return False
    return os.lseek(number, 0, os.SEEK_CUR) == os.lseek(descriptor, 0, os.SEEK_CUR)


def _never_freed() -> list[object]:
    """A list that refers to itself through a code object, where the garbage collector does not look, even at the end."""
    kept: list[object] = []
    kept.append(_no_piece.__code__.replace(co_consts=(kept,)))
    return kept


_kept = _never_freed()
