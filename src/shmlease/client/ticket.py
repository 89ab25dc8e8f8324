"""A ticket: the right to take one lease on one published segment, in a form that can be sent anywhere on this machine."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from typing import Final

import msgspec

from shmlease.errors import TicketError

__all__ = ["Ticket"]

_PREFIX: Final = "slt1-"
_CRC: Final = struct.Struct("<I")
_NUMBERS: Final = ("id", "segment", "generation", "size_bytes", "deadline_ns")
_MOST: Final = 2**63 - 1  # as in the messages that carry these numbers


class Ticket(msgspec.Struct, frozen=True, array_like=True):
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
    layout: bytes
    mutable: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot come from a registry, whether it was read from text, unpickled or constructed.

        Raises
        ------
        TicketError
            A field is of another type, or a number that no message can carry.
        """
        for number in (self.id, self.segment, self.generation, self.size_bytes, self.deadline_ns):
            if type(number) is not int or not 0 <= number <= _MOST:
                field = next(field for field in _NUMBERS if getattr(self, field) is number)
                raise TicketError(
                    f"a ticket whose {field} is {number!r} is not from a registry; ask its sender for a new one"
                )
        named = self.name is None or isinstance(self.name, str)
        typed = isinstance(self.registry, str) and isinstance(self.layout, bytes) and isinstance(self.mutable, bool)
        if not (named and typed):
            raise TicketError("a ticket with fields of the wrong type is not from a registry; ask its sender for a new one")

    def __repr__(self) -> str:
        named = "" if self.name is None else f" of {self.name!r}"
        return f"<Ticket {self.id:#x}{named} of registry {self.registry}, segment {self.segment}>"

    def __str__(self) -> str:
        body = _encoder.encode(self)
        return _PREFIX + base64.urlsafe_b64encode(_CRC.pack(zlib.crc32(body)) + body).decode().rstrip("=")

    @staticmethod
    def parse(text: str) -> Ticket:
        """The ticket that `str(ticket)` wrote.

        Raises
        ------
        TicketError
            The text is not a ticket.
        """
        try:
            coded = text.strip()
            if not coded.startswith(_PREFIX):
                raise ValueError(f"it does not begin with {_PREFIX!r}")
            coded = coded[len(_PREFIX) :]
            packed = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
            body = packed[_CRC.size :]
            if packed[: _CRC.size] != _CRC.pack(zlib.crc32(body)):
                raise ValueError("its checksum is wrong, it was damaged or cut on its way")
            ticket = _decoder.decode(body)
        except (ValueError, binascii.Error, msgspec.DecodeError) as error:
            shown = text if len(text) <= 40 else text[:40] + "..."
            raise TicketError(f"{shown!r} is not a ticket: {error}", ticket=text) from None
        return ticket


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Ticket)
