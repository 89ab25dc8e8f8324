"""Bytes <-> messages: one packet is a msgpack array of up to `MAX_MESSAGES` messages, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

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

_encoder: Final = msgspec.msgpack.Encoder()
# One notice, as the notice log keeps it.
encode_notice: Final[Callable[[Notice], bytes]] = _encoder.encode
_client: Final[msgspec.msgpack.Decoder[list[ClientMessage]]] = msgspec.msgpack.Decoder(
    Annotated[list[ClientMessage], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
)
_registry: Final = msgspec.msgpack.Decoder(list[RegistryMessage])
_notice: Final[msgspec.msgpack.Decoder[Notice]] = msgspec.msgpack.Decoder(Notice)
# What a decoder raises.
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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
    try:
        return _client.decode(packet)
    except _MALFORMED as error:
        raise _malformed("client packet", packet, error) from None


def decode_registry_packet(packet: bytes) -> list[RegistryMessage]:
    """The messages of a packet of the registry.

    Raises
    ------
    ProtocolError
        It is not one.
    """
    try:
        return _registry.decode(packet)
    except _MALFORMED as error:
        raise _malformed("registry packet", packet, error) from None


def decode_notice(entry: bytes) -> Notice:
    """The notice in a notice log entry.

    Raises
    ------
    ProtocolError
        It is not one.
    """
    try:
        return _notice.decode(entry)
    except _MALFORMED as error:
        raise _malformed("notice log entry", entry, error) from None


def _malformed(what: str, data: bytes, error: Exception) -> ProtocolError:
    return ProtocolError(f"{what} of {len(data)} bytes is malformed: {error}", size_bytes=len(data))
