"""Bytes <-> messages: one packet is a msgpack array of up to `MAX_MESSAGES` messages, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec

from shmlease.core.messages import (
    MAX_MESSAGES,
    MAX_PACKET_BYTES,
    ClientMessage,
    Notice,
    RegistryMessage,
)
from shmlease.errors import ProtocolError

__all__ = ["decode_client_packet", "decode_notice", "decode_registry_packet", "encode", "encode_notice"]

T = TypeVar("T")

_encoder: Final = msgspec.msgpack.Encoder()
# One notice, as the notice log keeps it.
encode_notice: Final[Callable[[Notice], bytes]] = _encoder.encode
_client: Final = msgspec.msgpack.Decoder(
    Annotated[list[ClientMessage], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
)
_registry: Final = msgspec.msgpack.Decoder(list[RegistryMessage])
_notice: Final[msgspec.msgpack.Decoder[Notice]] = msgspec.msgpack.Decoder(Notice)


def encode(messages: Sequence[ClientMessage | RegistryMessage]) -> bytes:
    """One packet that carries `messages`."""
    return _encoder.encode(messages)


def decode_client_packet(packet: bytes) -> list[ClientMessage]:
    """The messages of a client's packet.

    Raises
    ------
    ProtocolError
        It is too long, not msgpack, or a message has a field that is missing, of another type or out of bounds.
    """
    if len(packet) > MAX_PACKET_BYTES:
        raise ProtocolError(f"a packet of {len(packet)} bytes; at most {MAX_PACKET_BYTES} are allowed")
    return _decode(_client, packet, "client packet")


def decode_registry_packet(packet: bytes) -> list[RegistryMessage]:
    """The messages of a packet of the registry.

    Raises
    ------
    ProtocolError
        It is not one.
    """
    return _decode(_registry, packet, "registry packet")


def decode_notice(entry: bytes) -> Notice:
    """The notice in a notice log entry.

    Raises
    ------
    ProtocolError
        It is not one.
    """
    return _decode(_notice, entry, "notice log entry")


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"{what} of {len(data)} bytes is malformed: {error}", size_bytes=len(data)) from None
