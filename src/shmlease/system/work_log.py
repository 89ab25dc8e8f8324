"""What a registry has in hand, written down so that its successor knows what it died of.

One file of the registry's directory, mapped by the registry alone: the units of work in hand, each noted before it is
begun, and behind them the suspects, units that a predecessor died of. A store into the mapping survives the death of its
process at any instruction, and costs no system call. The file is made anew by each registry and takes the old one's name
when it is complete, so that a registry killed in between leaves one or the other.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from shmlease.core.work_units import KIND_BYTES, Unit
from shmlease.errors import PermissionDeniedError
from shmlease.system import syscalls
from shmlease.system.safe_open import create_regular, read_regular

__all__ = ["WORK_NAME", "Left", "WorkLog", "parse_work"]

WORK_NAME: Final = "work"
MAGIC: Final = b"shmlease work 1\n"
_HEADER: Final = struct.Struct("<16sIII4x")  # magic, units in hand, suspects, whether it failed of itself
_UNIT: Final = struct.Struct(f"<{KIND_BYTES}sIIQQ")  # kind, deaths, unused, key, number
_IN_HAND: Final = 128
_SUSPECTS: Final = 256
_IN_HAND_AT: Final = _HEADER.size
_UNIT_BYTES: Final = _UNIT.size
_SUSPECTS_AT: Final = _IN_HAND_AT + _IN_HAND * _UNIT_BYTES
_BYTES: Final = -(-(_SUSPECTS_AT + _SUSPECTS * _UNIT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
_COUNT: Final = struct.Struct("<I")
_COUNT_AT: Final = len(MAGIC)
_FAILED_AT: Final = len(MAGIC) + 2 * _COUNT.size


class Left(NamedTuple):
    """What a registry has left: the units in hand, whether it said that it failed of itself, and the suspects it had."""

    in_hand: tuple[Unit, ...] = ()
    has_failed: bool = False
    suspects: Mapping[Unit, int] = {}


class WorkLog:
    """The work of the registry whose directory is open as `directory`, which must hold its lock.

    Parameters
    ----------
    directory : int
        A descriptor of it.
    is_suspect : callable
        Whether a unit is to blame that was in hand when a registry ended; and whether that had failed of itself.
    has_crashed : bool
        Whether the predecessor is known to have failed of itself.

    Attributes
    ----------
    suspects : dict
        Units that registries have died of, and how many have.
    last : tuple of Unit
        Those that were in hand when the last one ended.
    """

    def __init__(
        self, directory: int, is_suspect: Callable[[Unit, bool], bool] = lambda *_: True, *, has_crashed: bool = False
    ) -> None:
        left = _left_by_predecessor(directory)
        self.last = left.in_hand
        suspects = dict(left.suspects)
        for unit in dict.fromkeys(left.in_hand):
            if is_suspect(unit, left.has_failed or has_crashed):
                suspects[unit] = suspects.pop(unit, 0) + 1
        self.suspects = dict(list(suspects.items())[-_SUSPECTS:])
        self._length = 0
        self._map: mmap.mmap | None = None
        with contextlib.suppress(OSError):  # no room in /dev/shm: it serves all the same, and its successor knows less
            self._map = _made(directory, self.suspects)

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be noted before `clear`."""
        return self._length == _IN_HAND

    def begin(self, unit: Unit) -> None:
        """`unit` is about to be worked on."""
        mapped, length = self._map, self._length
        if mapped is not None and length < _IN_HAND:
            _UNIT.pack_into(mapped, _IN_HAND_AT + length * _UNIT_BYTES, unit.kind.encode(), 0, 0, unit.key, unit.number)
            self._length = length + 1
            _COUNT.pack_into(mapped, _COUNT_AT, self._length)

    def failed(self) -> None:
        """This registry ends through a fault of its own."""
        if self._map is not None:
            _COUNT.pack_into(self._map, _FAILED_AT, 1)

    def clear(self) -> None:
        """All that was begun has been carried out."""
        if self._map is not None and self._length:
            self._length = 0
            _COUNT.pack_into(self._map, _COUNT_AT, 0)


def parse_work(content: bytes) -> Left:
    """What `content` says; nothing if it is no such file."""
    if len(content) < _BYTES or not content.startswith(MAGIC):
        return Left()
    _, in_hand, suspects, has_failed = _HEADER.unpack_from(content)
    read = [_unit_at(content, _IN_HAND_AT + n * _UNIT_BYTES) for n in range(min(in_hand, _IN_HAND))]
    known = [_unit_at(content, _SUSPECTS_AT + n * _UNIT_BYTES) for n in range(min(suspects, _SUSPECTS))]
    return Left(tuple(unit for unit, _ in read), bool(has_failed), dict(known))


def _left_by_predecessor(directory: int) -> Left:
    try:
        return parse_work(read_regular(WORK_NAME, _BYTES, directory=directory))
    except (FileNotFoundError, PermissionDeniedError):
        return Left()


def _made(directory: int, suspects: Mapping[Unit, int]) -> mmap.mmap:
    content = bytearray(_BYTES)
    _HEADER.pack_into(content, 0, MAGIC, 0, len(suspects), 0)
    for n, (unit, deaths) in enumerate(suspects.items()):
        _UNIT.pack_into(content, _SUSPECTS_AT + n * _UNIT_BYTES, unit.kind.encode(), deaths, 0, unit.key, unit.number)
    beside = f"{WORK_NAME}.new"
    with contextlib.suppress(FileNotFoundError):
        syscalls.unlink(beside, dir_fd=directory)  # of a predecessor that was killed here
    descriptor = create_regular(beside, directory=directory)
    try:
        syscalls.posix_fallocate(descriptor, 0, _BYTES)  # a store where no page is would be a bus error
        syscalls.pwrite(descriptor, content, 0)
        mapped = mmap.mmap(descriptor, _BYTES)
        syscalls.rename(beside, WORK_NAME, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        syscalls.unlink(beside, dir_fd=directory)
        raise
    finally:
        syscalls.close(descriptor)
    return mapped


def _unit_at(content: bytes, offset: int) -> tuple[Unit, int]:
    kind, deaths, _, key, number = _UNIT.unpack_from(content, offset)
    return Unit(kind.rstrip(b"\0").decode(errors="replace"), key, number), deaths
