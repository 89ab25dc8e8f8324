"""A client's journal: where it writes its notices, and the registry, or its successor, reads them.

One writer, the client. Entries are ``length, crc, sequence number, notice``; the journal is a run of them from the start of
the file, and begins again at the start when the registry has confirmed all. What was there before ends the run: its
sequence numbers do not go on from the new ones.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from shmlease.core.messages import Notice
from shmlease.core.wire import decode_notice, encode_notice
from shmlease.errors import CapacityError, ProtocolError
from shmlease.system.exhaustion import explained

__all__ = ["JOURNAL_BYTES", "Journal", "JournalReader"]

# A notice takes about 40 bytes, a claim as much again as its layout: some hundred hand-overs between two confirmations.
JOURNAL_BYTES: Final = 16 * 1024
_HEADER: Final = struct.Struct("<IIQ")
# A client begins another run after the registry has answered it: not twice while it is being read, unless it means harm.
_MOST_RUNS: Final = 4


class Journal:
    """The writer's side, on the file that the registry made for this client; `descriptor` is closed with it."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._length = 0

    def append(self, notice: Notice) -> bool:
        """Write `notice`; False, and nothing written, if it does not fit before `restart`."""
        payload = encode_notice(notice)
        entry = _HEADER.pack(len(payload), zlib.crc32(payload), notice.seq) + payload
        if self._length + len(entry) > JOURNAL_BYTES:
            return False
        try:
            written = os.pwrite(self._fd, entry, self._length)
        except OSError as error:
            raise CapacityError(f"what was to be told to the registry cannot be written: {explained(error)}") from error
        if written != len(entry):  # part of an entry would be taken for the end of what was written
            raise CapacityError(
                f"{written} of {len(entry)} bytes for the registry could be written; a file size limit (RLIMIT_FSIZE) does so: "
                "raise `ulimit -f`"
            )
        self._length += len(entry)
        return True

    def restart(self) -> None:
        """Begin at the start again: everything written has been applied."""
        self._length = 0

    def close(self) -> None:
        """Let go of the file; the registry removes it."""
        os.close(self._fd)


class JournalReader:
    """The reader's side, which remembers how far it has read.

    The file is read, never mapped: a client that cuts its journal short harms only itself. `descriptor` is closed with it.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._position = 0
        self._first = 0  # number of the notice that the run being read began with
        self._last = 0

    def read(self, applied: int) -> list[Notice]:
        """The notices after number `applied` that were not read before, in order."""
        for _ in range(_MOST_RUNS):
            content = os.pread(self._fd, JOURNAL_BYTES - self._position, self._position)
            # the header after the content: if the client began another run meanwhile, what was read may be the middle of it
            header = os.pread(self._fd, _HEADER.size, 0)
            first = _HEADER.unpack(header)[2] if len(header) == _HEADER.size else 0
            if first == self._first:
                return self._parse(content, applied)
            self._first, self._position = first, 0
        return []

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

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
