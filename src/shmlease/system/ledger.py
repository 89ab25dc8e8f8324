"""The lease table's form in shared memory: an append-only log of committed changes.

One writer, the registry; any number of readers, who ask nobody. Each record is ``length, crc, payload``; a payload is the
msgpack array of the changes of one commit. What a reader finds before the first record that is not whole is a consistent
table: a commit is one record, and a writer killed in the middle of it leaves a record whose crc does not match. A writer
that is stopped holds nothing that a reader waits for.

The log is written with write(), not through a mapping: a full /dev/shm is then an error, never a SIGBUS, and room for what
is to come is reserved first, so that a release can always be written. When most of the log is history, the live rows are
written to a new file that takes the old one's name: a reader has one or the other.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shmlease.core.model import Change, Row
from shmlease.core.snapshot import Snapshot, apply_changes
from shmlease.errors import ProtocolError
from shmlease.system import syscalls
from shmlease.system.safe_open import create_regular, open_directory, read_regular

__all__ = ["FOREIGN_LEDGER_LIMIT_BYTES", "LEDGER_LIMIT_BYTES", "Ledger", "parse_ledger", "read_ledger"]

MAGIC: Final = b"shmlease ledger 1\n"
_HEADER: Final = struct.Struct("<II")
# Reserved ahead of the end of the log. A commit takes some hundred bytes; 64 KiB is room for hundreds of releases.
RESERVE_BYTES: Final = 64 * 1024
# A log is compacted when it is this many times its live rows, and not below 256 KiB: rewriting 1,000 leases takes 1 ms.
COMPACT_FACTOR: Final = 3
# What a reader takes into memory at most: a million leases or so. The registry grants no more when its log is as long.
LEDGER_LIMIT_BYTES: Final = 256 * 1024 * 1024
COMPACT_FLOOR_BYTES: Final = 256 * 1024
# Of what another user wrote, which takes some ten times its size in memory, and may be written to take as much as it can.
FOREIGN_LEDGER_LIMIT_BYTES: Final = 16 * 1024 * 1024

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Change])


class Ledger:
    """The writer's side of the ledger at `path`; there is one, the holder of the registry's lock.

    It stays in the directory that it was begun in, though another takes its name.

    Raises
    ------
    OSError
        ENOSPC: /dev/shm has no room for the first records.
    """

    def __init__(self, path: str, rows: Iterable[Row]) -> None:
        parent, _, self._name = path.rpartition("/")
        self._directory = open_directory(parent)
        self._fd = -1
        self._length = self._reserved = self._live_length = 0
        try:
            self._rewrite(rows)
        except BaseException:
            syscalls.close(self._directory)
            raise

    def wants_compaction(self) -> bool:
        """Whether most of the log is history."""
        return self._length > COMPACT_FLOOR_BYTES + COMPACT_FACTOR * self._live_length

    def has_room(self) -> bool:
        """Reserve room for the commits to come; False if /dev/shm has none, or the log would be longer than is read."""
        if self._reserved - self._length >= RESERVE_BYTES // 2:
            return True
        if self._length + RESERVE_BYTES > LEDGER_LIMIT_BYTES:
            return False
        try:
            syscalls.posix_fallocate(self._fd, self._length, RESERVE_BYTES)
        except OSError:
            return False
        self._reserved = self._length + RESERVE_BYTES
        return True

    def commit(self, changes: Sequence[Change]) -> None:
        """Append `changes` as one record: from now on they happened.

        Raises
        ------
        OSError
            The record could not be written; the log is as it was.
        """
        record = _record(changes)
        written = syscalls.pwrite(self._fd, record, self._length)
        if written != len(record):
            raise OSError(f"{written} of {len(record)} bytes of a record were written")
        self._length += len(record)

    def compact(self, rows: Iterable[Row]) -> None:
        """Begin anew with `rows`, which are all there are; keep the old log if there is no room for a new one."""
        try:
            self._rewrite(rows)
        except OSError:
            self._live_length = self._length  # try again when it has grown by as much again

    def close(self) -> None:
        """Let go of the file; it stays."""
        syscalls.close(self._fd)
        syscalls.close(self._directory)

    def _rewrite(self, rows: Iterable[Row]) -> None:
        beside = f"{self._name}.new"
        content = MAGIC + _record(list(rows))
        with contextlib.suppress(FileNotFoundError):
            syscalls.unlink(beside, dir_fd=self._directory)  # of a predecessor that was killed here
        fd = create_regular(beside, directory=self._directory)
        try:
            syscalls.posix_fallocate(fd, 0, len(content) + RESERVE_BYTES)
            syscalls.pwrite(fd, content, 0)
            syscalls.rename(beside, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError:
            syscalls.close(fd)
            syscalls.unlink(beside, dir_fd=self._directory)
            raise
        if self._fd >= 0:
            syscalls.close(self._fd)
        self._fd = fd
        self._length = self._live_length = len(content)
        self._reserved = len(content) + RESERVE_BYTES


def read_ledger(
    path: str, *, directory: int | None = None, owner: int | None = None, limit_bytes: int = LEDGER_LIMIT_BYTES
) -> Snapshot:
    """The lease table at this moment, from its ledger at `path`, without asking its registry.

    Parameters
    ----------
    path : str
        Relative to the open `directory`, if given.
    owner : int, optional
        The user id that it must belong to.
    limit_bytes : int
        How large it may be.

    Raises
    ------
    FileNotFoundError, PermissionError
        There is no such ledger, or it is not for this user to read, or it is no regular file, or larger.
    ProtocolError
        The file is no ledger of this version.
    """
    return parse_ledger(read_regular(path, limit_bytes, directory=directory, owner=owner))


def parse_ledger(content: bytes) -> Snapshot:
    """The table that the log `content` amounts to: every whole record, up to the first that is not.

    Raises
    ------
    ProtocolError
        It is no ledger of this version.
    """
    if not content.startswith(MAGIC):
        raise ProtocolError(f"a ledger begins with {MAGIC!r}, this file with {content[: len(MAGIC)]!r}")
    rows: dict[tuple[str, int], Row] = {}
    view, position = memoryview(content), len(MAGIC)
    while position + _HEADER.size <= len(content):
        length, crc = _HEADER.unpack_from(content, position)
        payload = view[position + _HEADER.size : position + _HEADER.size + length]
        if length == 0 or len(payload) < length or zlib.crc32(payload) != crc:
            break
        try:
            apply_changes(rows, _decoder.decode(payload))
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the ledger record at byte {position} is of another version: {error}") from None
        position += _HEADER.size + length
    return Snapshot.of(rows)


def _record(changes: Sequence[Change]) -> bytes:
    payload = _encoder.encode(changes)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
