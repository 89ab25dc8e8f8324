"""A client's notice log: where it writes its notices, and the registry, or its successor, reads them.

One writer, the client. Entries are ``length, crc, sequence number, notice``; the notice log is a run of them from the start
of the file, and begins again at the start when the registry has confirmed all. What was there before ends the run: its
sequence numbers do not go on from the new ones.

Before that run lies what the client says of the spare that it uses without notices: see `shmlease.core.uses`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import zlib
from typing import Final

from shmlease.core.messages import Notice
from shmlease.core.uses import DESCRIPTION_BYTES, RECORD_BYTES, Use, UseWriter, parse_use
from shmlease.core.wire import decode_notice, encode_notice
from shmlease.errors import ProtocolError
from shmlease.system import syscalls
from shmlease.system.mapping import map_segment

__all__ = ["FILE_BYTES", "NOTICE_LOG_BYTES", "NoticeLog", "NoticeLogReader"]

# A hand-over takes some 250 bytes, most of them places in the code. Who hands over without a pause fills it now and then,
# and waits until the registry has caught up, for some milliseconds: every 250 hand-overs; 15 KiB made it every 55.
NOTICE_LOG_BYTES: Final = 63 * 1024
_START: Final = DESCRIPTION_BYTES + RECORD_BYTES  # what is said of a spare comes before
FILE_BYTES: Final = _START + NOTICE_LOG_BYTES
_HEADER: Final = struct.Struct("<IIQ")
_HEADER_BYTES: Final = _HEADER.size
# A client begins another run after the registry has answered it: not twice while it is being read, unless it means harm.
_MOST_RUNS: Final = 4
# Read at a time: what is written between two looks is seldom longer, and reading the whole log takes several times as long.
_PIECE_BYTES: Final = 8 * 1024


class NoticeLog(UseWriter):
    """The writer's side, on the file that the registry made for this client.

    The file is mapped: a program that closes every descriptor, and opens files of its own, does not find our notices in
    them. Its pages are reserved, so that a store cannot fail.

    Parameters
    ----------
    descriptor : int
        Of the file, open for reading and writing; it may be closed afterwards.

    Attributes
    ----------
    last : int
        Number of the last notice written: after an interrupt, the truth about whether one was.
    store : callable
        Writes bytes at a place, in one call of a function written in C.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        if syscalls.fstat(descriptor).st_size < FILE_BYTES:  # mapped beyond its end, it would be a SIGBUS to write
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._mapping = map_segment(descriptor, FILE_BYTES, writable=True)
        self.store = syscalls.stores_in(
            memoryview((ctypes.c_char * FILE_BYTES).from_address(self._mapping.address)).cast("B")
        )
        self._length = 0
        self.last = 0

    def append(self, notice: Notice) -> bool:
        """Write `notice`; False, and nothing written, if it does not fit before `restart`."""
        payload = encode_notice(notice)
        entry = _HEADER.pack(len(payload), zlib.crc32(payload), notice.seq) + payload
        end = self._length + len(entry)
        if end > NOTICE_LOG_BYTES:
            return False
        place = slice(_START + self._length, _START + end)
        # from here to the store no signal handler can run: it is written and known to be, or neither
        self._length = end
        self.last = notice.seq
        self.store(place, entry)
        return True

    def restart(self) -> None:
        """Begin at the start again: everything written has been applied."""
        self._length = 0


class NoticeLogReader:
    """The reader's side, which remembers how far it has read.

    The file is read, never mapped: a client that cuts its notice log short harms only itself. `descriptor` is closed with
    it.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._position = _START
        self._record = self._told = bytes(RECORD_BYTES)
        self._first = 0  # number of the notice that the run being read began with
        self._last = 0

    def read(self, applied: int) -> list[Notice]:
        """The notices after number `applied` that were not read before, in order."""
        notices: list[Notice] = []
        size, runs = _PIECE_BYTES, 0
        while runs < _MOST_RUNS:
            content = syscalls.pread(self._fd, min(size, FILE_BYTES - self._position), self._position)
            # the header after the content: if the client began another run meanwhile, what was read may be the middle of it
            behind = syscalls.pread(self._fd, RECORD_BYTES + _HEADER_BYTES, DESCRIPTION_BYTES)
            is_whole = len(behind) == RECORD_BYTES + _HEADER_BYTES
            first = _HEADER.unpack_from(behind, RECORD_BYTES)[2] if is_whole else 0
            self._record = behind[:RECORD_BYTES] if is_whole else self._told
            if first != self._first:
                self._first, self._position = first, _START
                runs += 1
            elif self._parse(content, applied, notices) or len(content) < size:
                break
            else:
                size = FILE_BYTES  # the piece ends within an entry: all the rest, in case that is a long one
        return notices

    def use(self) -> Use | None:
        """What the client did with the spare that it keeps, later than all that `read` has just found; None if that is
        known.
        """
        if self._record == self._told:
            return None
        use = parse_use(self._record, syscalls.pread(self._fd, DESCRIPTION_BYTES, 0))
        if use.claim is not None or not use.is_held:  # else its client is writing: it is looked at again
            self._told = self._record
        return use

    def close(self) -> None:
        """Let go of the file."""
        syscalls.close(self._fd)

    def _parse(self, content: bytes, applied: int, notices: list[Notice]) -> bool:
        """Add the notices in `content` to `notices`; whether they end within it, and not with it."""
        start, last = self._position, self._last
        at, end = 0, len(content)
        while at + _HEADER_BYTES <= end:
            length, crc, seq = _HEADER.unpack_from(content, at)
            if length == 0 or seq <= last:
                return True
            after = at + _HEADER_BYTES + length
            if after > end:
                return False
            payload = content[at + _HEADER_BYTES : after]
            if zlib.crc32(payload) != crc:
                return True
            try:
                notice = decode_notice(payload)
            except ProtocolError:  # of the client's own making: it harms only itself
                return True
            if notice.seq != seq:
                return True
            at = after
            last = self._last = seq
            self._position = start + at
            if seq > applied:
                notices.append(notice)
        return False
