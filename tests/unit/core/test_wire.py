"""Bytes and messages: every message survives the wire, every field is bounded, and anything else is a ProtocolError."""

from __future__ import annotations

import contextlib
import random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.core import messages as m
from shmlease.core.model import Identity
from shmlease.core.wire import decode_client_packet, decode_notice, decode_registry_packet, encode, encode_notice
from shmlease.errors import ProtocolError

TOP = 2**63 - 1
FROM_CLIENTS: list[Any] = [
    m.Hello(1, 1, b"s" * 16, 0),
    m.Lease(2, 3, "name", 4096, 5, b"layout", "site", 6, 7),
    m.Lease(2, 3, None, 0, 0, b"", "", 0, 0),
    m.Attach(1, 2, "é" * 255, "s", 3, 4),
    m.Attach(1, 2, "a", "s", 3, 4, m.AttachMode.COPY_ON_WRITE, True),
    m.AttachSegment(1, 2, 3, 4, "s", 5, m.AttachMode.READ_WRITE),
    m.Withdraw(1, "a", 2),
    m.Inherit(1, 2, 3, "s"),
    m.Redeem(1, 2),
    m.Decline(1, 2, 3),
    m.Expose(1, 2),
    m.Statistics(1),
    m.Trim(1),
    m.Ping(TOP),
    m.Close(1),
    m.Ring(1),
]
NOTICES: list[Any] = [
    m.Claim(1, 2, 3, b"l", "s", 4, True),
    m.Publish(1, 2, 3, 4),
    m.Mint(1, 2, 3, 4, "s"),
    m.Mint(1, 2, 3, 4, "s", Identity(1, 2, "b", 3, 4, "c")),
    m.Redeemed(1, 2, 3, "s", 4),
    m.Revoked(1, 2),
    m.Link(1, 2, ((3, None), (4, Identity(5, 6, "boot", 7, 8, "python")))),
    m.Unlink(1, 2, 3),
    m.Detach(1, 2),
    m.Linger(1, 2),
    m.Release(1, TOP),
    m.Share(1, 2),
    m.Bye(1),
]
FROM_REGISTRY: list[Any] = [
    m.Welcome(1, 2, 3, "r", 4, 5, 6),
    m.Granted(1, 2, 3, 4, 5, True),
    m.Attached(1, 2, 3, 4, 5, 6, b"l", None, False),
    m.Exposed(1, "a"),
    m.Done(1),
    m.Closed(1, ["pid 1"]),
    m.Refused(1, m.RefusalCode.CAPACITY, "no", {"a": 1, "b": None, "c": "d"}),
    m.Spare(1, 2, 3, 4, 5, False),
    m.Forget(5),
    m.Figures(1, 2, 3, 4, 5, 6, 7, 8, {"warm": 1}, {}, {}, {}, {}, 9, 10),
]


def test_every_message_is_tried_here() -> None:
    assert {type(message) for message in FROM_CLIENTS} == set(get_args(m.ClientMessage))
    assert {type(message) for message in NOTICES} == set(get_args(m.Notice)) == set(m.NOTICES)
    assert {type(message) for message in FROM_REGISTRY} == set(get_args(m.RegistryMessage))


def test_messages_survive_the_wire_in_order() -> None:
    assert decode_client_packet(encode(FROM_CLIENTS)) == FROM_CLIENTS
    assert decode_registry_packet(encode(FROM_REGISTRY)) == FROM_REGISTRY
    for notice in NOTICES:
        assert decode_notice(encode_notice(notice)) == notice


@pytest.mark.parametrize("notice", NOTICES, ids=lambda notice: type(notice).__name__)
def test_notice_is_not_accepted_on_the_socket(notice: Any) -> None:
    """Notices go through the notice log: one that came both ways could be applied out of order."""
    with pytest.raises(ProtocolError):
        decode_client_packet(msgspec.msgpack.encode([notice]))


@pytest.mark.parametrize("message", FROM_REGISTRY, ids=lambda message: type(message).__name__)
def test_what_a_registry_says_is_not_accepted_from_a_client(message: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_client_packet(encode([message]))


def variants(message: Any) -> list[list[Any]]:
    """The message with one field out of bounds, of another type, missing, or one too many."""
    fields = list(msgspec.to_builtins(message, enc_hook=lambda value: value, builtin_types=(bytes,)))
    out: list[list[Any]] = [fields[:-1], []]
    for index in range(1, len(fields)):
        for wrong in (-1, 2**63, 1.5, {}, [], b"\0" * 40_000, "x" * 100_000, None, True):
            out.append([*fields[:index], wrong, *fields[index + 1 :]])
    return out


@pytest.mark.parametrize("message", FROM_CLIENTS, ids=lambda message: type(message).__name__)
def test_message_with_a_field_that_cannot_be_is_refused_or_in_bounds(message: Any) -> None:
    refused = 0
    for fields in variants(message):
        try:
            (decoded,) = decode_client_packet(msgspec.msgpack.encode([fields]))
        except ProtocolError:
            refused += 1
            continue
        for value in msgspec.structs.astuple(decoded):
            if isinstance(value, int):
                assert 0 <= value <= TOP
            elif isinstance(value, bytes):
                assert len(value) <= 32 * 1024
            elif isinstance(value, str):
                assert len(value) <= 512
    assert refused > 5


@pytest.mark.parametrize("name", ["", "a" * 256, "a\nb", "a\0b", "\x7f", "tab\t"])
def test_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        decode_client_packet(encode([m.Attach(1, 2, name, "", 0, 0)]))


@pytest.mark.parametrize("name", ["a", "calls/chr1", "a:b", "/abc", "ä ö", "a" * 255, "日本語", "~", " "])
def test_any_other_name_is_fine(name: str) -> None:
    assert decode_client_packet(encode([m.Attach(1, 2, name, "", 0, 0)]))[0].name == name  # type: ignore[union-attr]


def test_number_zero_is_nobodys_message() -> None:
    with pytest.raises(ProtocolError):
        decode_client_packet(encode([m.Ping(0)]))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x90",
        b"\xc1",
        b"\x91",
        b"\x91\x92\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x91" * 60_000,
        b"\0" * 65537,
        encode([m.Ping(1)]) + b"\0",
        encode([m.Ping(n) for n in range(1, 66)]),
        b"null",
        b"\x80",
    ],
    ids=[str(number) for number in range(13)],
)
def test_packet_that_is_none_is_a_protocol_error(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_client_packet(packet)


def test_packet_longer_than_allowed_is_refused_unread() -> None:
    layouts = [m.Lease(n, 1, None, 1, 1, b"\0" * 32_000, "", 0, 0) for n in (1, 2, 3)]
    assert decode_client_packet(encode(layouts[:2])) == layouts[:2]
    with pytest.raises(ProtocolError, match="at most 65536 are allowed"):
        decode_client_packet(encode(layouts))


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    for decode in (decode_client_packet, decode_registry_packet, decode_notice):
        with contextlib.suppress(ProtocolError):
            decode(data)


def test_damaged_packets_are_messages_or_a_protocol_error() -> None:
    rng = random.Random(20251122)
    whole = [encode([message]) for message in FROM_CLIENTS] + [encode(FROM_CLIENTS)]
    for _ in range(5000):
        packet = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 4)):
            packet[rng.randrange(len(packet))] = rng.randrange(256)
        del packet[rng.randrange(1, len(packet) + 1) :]
        with contextlib.suppress(ProtocolError):
            decode_client_packet(bytes(packet))
