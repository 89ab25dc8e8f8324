"""A client's notice log: where it writes its notices, and the registry, or its successor, reads them.

One writer, the client. Entries are ``length, crc, sequence number, notice``; the notice log is a run of them from the start
of the file, and begins again at the start when the registry has confirmed all. What was there before ends the run: its
sequence numbers do not go on from the new ones.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import zlib
from typing import Final

from shmlease.core.messages import Notice
from shmlease.core.wire import decode_notice, encode_notice
from shmlease.errors import ProtocolError
from shmlease.system import syscalls
from shmlease.system.mapping import map_segment

__all__ = ["NOTICE_LOG_BYTES", "NoticeLog", "NoticeLogReader"]

# A notice takes about 40 bytes, a claim as much again as its layout: some hundred hand-overs between two confirmations.
NOTICE_LOG_BYTES: Final = 16 * 1024
_HEADER: Final = struct.Struct("<IIQ")
# A client begins another run after the registry has answered it: not twice while it is being read, unless it means harm.
_MOST_RUNS: Final = 4


class NoticeLog:
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
    """

    def __init__(self, descriptor: int) -> None:
        if syscalls.fstat(descriptor).st_size < NOTICE_LOG_BYTES:  # mapped beyond its end, it would be a SIGBUS to write
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._mapping = map_segment(descriptor, NOTICE_LOG_BYTES, writable=True)
        self._store = syscalls.stores_in(
            memoryview((ctypes.c_char * NOTICE_LOG_BYTES).from_address(self._mapping.address)).cast("B")
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
        place = slice(self._length, end)
        # from here to the store no signal handler can run: it is written and known to be, or neither
        self._length = end
        self.last = notice.seq
        self._store(place, entry)
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
        self._position = 0
        self._first = 0  # number of the notice that the run being read began with
        self._last = 0

    def read(self, applied: int) -> list[Notice]:
        """The notices after number `applied` that were not read before, in order."""
        for _ in range(_MOST_RUNS):
            content = syscalls.pread(self._fd, NOTICE_LOG_BYTES - self._position, self._position)
            # the header after the content: if the client began another run meanwhile, what was read may be the middle of it
            header = syscalls.pread(self._fd, _HEADER.size, 0)
            first = _HEADER.unpack(header)[2] if len(header) == _HEADER.size else 0
            if first == self._first:
                return self._parse(content, applied)
            self._first, self._position = first, 0
        return []

    def close(self) -> None:
        """Let go of the file."""
        syscalls.close(self._fd)

    def _parse(self, content: bytes, applied: int) -> list[Notice]:
        start = self._position
        notices: list[Notice] = []
        at = 0
        while at + _HEADER.size <= len(content):
            length, crc, seq = _HEADER.unpack_from(content, at)
            payload = content[at + _HEADER.size : at + _HEADER.size + length]
            if length == 0 or seq <= self._last or len(payload) < length or zlib.crc32(payload) != crc:
                break
            try:
                notice = decode_notice(payload)
            except ProtocolError:  # of the client's own making: it harms only itself
                break
            if notice.seq != seq:
                break
            at += _HEADER.size + length
            self._position, self._last = start + at, seq
            if seq > applied:
                notices.append(notice)
        return notices
