"""A ticket: the right to take one lease on one published segment, in a form that can be sent anywhere on this machine."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import struct
import zlib
from typing import Final

import msgspec

from leasehold.errors import TicketError

__all__ = ["Ticket"]

_PREFIX: Final = "lht1-"
_CRC: Final = struct.Struct("<I")


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    registry: str
    id: int
    segment: int
    generation: int
    size_bytes: int
    deadline_ns: int
    name: str | None
    layout: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Wire)


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """A single-use ticket; `str(ticket)` and pickle carry all of it.

    It keeps its segment alive until it is redeemed or expires, whatever becomes of the process that made it. Whoever has it
    and runs as the same user may redeem it, once.
    """

    registry: str
    id: int
    segment: int
    generation: int
    size_bytes: int
    deadline_ns: int
    name: str | None
    layout: bytes = dataclasses.field(repr=False)

    def __str__(self) -> str:
        wire = _Wire(
            self.registry, self.id, self.segment, self.generation, self.size_bytes, self.deadline_ns, self.name, self.layout
        )
        body = _encoder.encode(wire)
        return _PREFIX + base64.urlsafe_b64encode(_CRC.pack(zlib.crc32(body)) + body).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """The ticket that `str(ticket)` wrote.

        Raises
        ------
        TicketError
            The text is no ticket.
        """
        try:
            if not text.startswith(_PREFIX):
                raise ValueError(f"it does not begin with {_PREFIX!r}")
            coded = text[len(_PREFIX) :].strip()
            packed = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
            body = packed[_CRC.size :]
            if packed[: _CRC.size] != _CRC.pack(zlib.crc32(body)):
                raise ValueError("its checksum is wrong, it was damaged or cut on its way")
            wire = _decoder.decode(body)
        except (ValueError, binascii.Error, msgspec.DecodeError) as error:
            shown = text if len(text) <= 40 else text[:40] + "..."
            raise TicketError(f"{shown!r} is not a ticket: {error}", ticket=text) from None
        return cls(*msgspec.structs.astuple(wire))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Ticket.parse, (str(self),)
