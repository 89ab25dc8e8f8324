"""The use of a spare that no notice tells of: one record in shared memory, which its client writes and the registry reads.

A client that gives back a spare of which nobody else had a part keeps it, and takes it again for its next lease. Two
notices each time would cost both sides more than all the rest. Instead the client describes the use, once for as long as
that stays the same, and then only says, with one store, that it has begun or ended.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

import msgspec

from shmlease.core import messages as m
from shmlease.core.wire import decode_notice, encode_notice
from shmlease.errors import ProtocolError

__all__ = ["DESCRIPTION_BYTES", "RECORD_BYTES", "Use", "UseWriter", "described", "parse_use", "record_of"]

# Lower half of the lease's number, whether it is in use, how often a use has begun so far, and how often one has ended.
_RECORD: Final = struct.Struct("<IIII")
_NUMBER: Final = (1 << 32) - 1
_HEADER: Final = struct.Struct("<II")  # length and crc of a claim
RECORD_BYTES: Final = _RECORD.size
DESCRIPTION_BYTES: Final = 1024 - RECORD_BYTES


class Use(msgspec.Struct, frozen=True):
    """What a client does with the spare that it keeps.

    `begun` and `ended` count, modulo 2**32, the uses that no notice told of; `claim` describes the one of now, if there is
    one and its client was not in the middle of writing that down.
    """

    is_held: bool
    begun: int
    ended: int
    claim: m.Claim | None


def record_of(lease: int, begun: int, ended: int, *, is_held: bool) -> bytes:
    """The record of a client whose spare `lease` is in use, or is not any more."""
    return _RECORD.pack(lease & _NUMBER, is_held, begun & _NUMBER, ended & _NUMBER)


def described(claim: m.Claim) -> bytes | None:
    """What describes a use as `claim` would; None if that is too long."""
    payload = encode_notice(claim)
    if _HEADER.size + len(payload) > DESCRIPTION_BYTES:
        return None
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


class UseWriter:
    """The client's side of the record: counts the uses; made with none.

    Attributes
    ----------
    store : callable
        Writes bytes at a place: the description at the start, what `use_begun` and `use_ended` give at `record_place`.
    """

    record_place: Final = slice(DESCRIPTION_BYTES, DESCRIPTION_BYTES + RECORD_BYTES)
    store: Callable[[slice, bytes], None]

    def __init__(self) -> None:
        self._begun = self._ended = 0

    def describe(self, claim: m.Claim) -> bool:
        """Write down what the spare is used for from now on, as `claim` would say it; False if that is too long."""
        description = described(claim)
        if description is None:
            return False
        self.store(slice(0, len(description)), description)
        return True

    def use_begun(self, lease: int) -> bytes:
        """What to store at `record_place` when the use of that spare begins."""
        self._begun += 1
        return record_of(lease, self._begun, self._ended, is_held=True)

    def use_ended(self, lease: int) -> bytes:
        """What to store at `record_place` when it has ended."""
        self._ended += 1
        return record_of(lease, self._begun, self._ended, is_held=False)


def parse_use(record: bytes, description: bytes) -> Use:
    """What a client has written, who may have died, or go on, in the middle of that."""
    number, is_held, begun, ended = _RECORD.unpack(record)
    return Use(bool(is_held), begun, ended, _claim_in(description, number))


def _claim_in(description: bytes, number: int) -> m.Claim | None:
    if len(description) < _HEADER.size:
        return None
    length, crc = _HEADER.unpack_from(description)
    payload = description[_HEADER.size : _HEADER.size + length]
    if not length or len(payload) < length or zlib.crc32(payload) != crc:
        return None
    try:
        claim = decode_notice(payload)
    except ProtocolError:  # of the client's own making: it harms only itself
        return None
    return claim if isinstance(claim, m.Claim) and claim.lease & _NUMBER == number else None
