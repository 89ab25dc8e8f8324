"""A client's journal: the notices it sent, where a successor of the registry finds those that were never read.

One writer, the client. Entries are ``length, crc, sequence number, notice``; the journal is a run of them from the start of
the file, and begins again at the start when the registry has confirmed all. What was there before ends the run: its
sequence numbers do not go on from the new ones.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from leasehold.core.messages import Notice
from leasehold.core.wire import decode_notice, encode_notice
from leasehold.errors import ProtocolError

__all__ = ["JOURNAL_BYTES", "Journal", "read_journal"]

# A notice takes about 40 bytes, a claim as much again as its layout: some hundred hand-overs between two confirmations.
JOURNAL_BYTES: Final = 16 * 1024
_HEADER: Final = struct.Struct("<IIQ")


class Journal:
    """The writer's side, on the file that the registry made for this client."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._length = 0

    def append(self, notice: Notice) -> bool:
        """Write `notice`; False, and nothing written, if it does not fit before `restart`."""
        payload = encode_notice(notice)
        entry = _HEADER.pack(len(payload), zlib.crc32(payload), notice.seq) + payload
        if self._length + len(entry) > JOURNAL_BYTES:
            return False
        os.pwrite(self._fd, entry, self._length)
        self._length += len(entry)
        return True

    def restart(self) -> None:
        """Begin at the start again: everything written has been applied."""
        self._length = 0

    def close(self) -> None:
        """Let go of the file; the registry removes it."""
        os.close(self._fd)


def read_journal(path: str, applied: int) -> list[Notice]:
    """The notices after number `applied` in the journal at `path`, in order; none if there is no journal."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        content = os.pread(fd, JOURNAL_BYTES, 0)
    finally:
        os.close(fd)
    notices: list[Notice] = []
    position, last = 0, 0
    while position + _HEADER.size <= len(content):
        length, crc, seq = _HEADER.unpack_from(content, position)
        payload = content[position + _HEADER.size : position + _HEADER.size + length]
        if length == 0 or seq <= last or len(payload) < length or zlib.crc32(payload) != crc:
            break
        last = seq
        if seq > applied:
            try:
                notices.append(decode_notice(payload))
            except ProtocolError:  # of the client's own making: it harms only itself
                break
        position += _HEADER.size + length
    return notices
