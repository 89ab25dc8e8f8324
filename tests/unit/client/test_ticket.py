"""Tickets as text: what was written is read, what was damaged on its way is no ticket."""

from __future__ import annotations

import base64
import copy
import pickle
import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shmlease.client.layout import layout_of
from shmlease.client.ticket import Ticket
from shmlease.errors import TicketError

TICKET = Ticket("0a1b2c3d", 5 << 40 | 7, 3, 2, 4096, 10**15, "calls/chr1", layout_of((2, 3), "f8", "F").encoded)


def test_ticket_survives_text_pickle_and_copy() -> None:
    assert Ticket.parse(str(TICKET)) == TICKET
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(TICKET, protocol)) == TICKET
    assert copy.copy(TICKET) == copy.deepcopy(TICKET) == TICKET


def test_text_of_a_ticket_can_go_anywhere() -> None:
    text = str(TICKET)
    assert text.isascii()
    assert not set(text) & set(" \t\n\"'\\/+=&?%")
    assert Ticket.parse(f"{text}\n") == TICKET


@given(
    st.text(max_size=32),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.none() | st.text(max_size=255),
    st.binary(),
)
def test_any_ticket_survives_its_text(
    registry: str, number: int, deadline_ns: int, name: str | None, layout: bytes
) -> None:
    ticket = Ticket(registry, number, number // 2, 1, 4096, deadline_ns, name, layout)
    assert Ticket.parse(str(ticket)) == ticket


@pytest.mark.parametrize(
    "text", ["", "slt1-", "slt1-!!!!", "slt2-AAAA", "nonsense", "slt1-" + "A" * 80, "slt1-Zm9v", "é", "\0"]
)
def test_text_that_is_no_ticket_is_a_ticket_error(text: str) -> None:
    with pytest.raises(TicketError, match="is not a ticket") as refused:
        Ticket.parse(text)
    assert refused.value.ticket == text


def test_long_nonsense_is_not_repeated_at_length() -> None:
    with pytest.raises(TicketError) as refused:
        Ticket.parse("x" * 10_000)
    assert len(str(refused.value)) < 200


def test_ticket_damaged_in_any_one_character_is_no_ticket() -> None:
    """A size or layout that changed on its way would be mapped as it says."""
    text, rng = str(TICKET), random.Random(3)
    for index in range(5, len(text)):
        other = rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".replace(text[index], ""))
        with pytest.raises(TicketError):
            Ticket.parse(text[:index] + other + text[index + 1 :])


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 50])
def test_ticket_cut_short_is_no_ticket(cut: int) -> None:
    with pytest.raises(TicketError):
        Ticket.parse(str(TICKET)[:-cut])


def test_repr_shows_no_bytes() -> None:
    assert "layout" not in repr(TICKET)
    assert "calls/chr1" in repr(TICKET)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in ("id", "segment", "generation", "size_bytes", "deadline_ns")
            for value in (-1, 2**63, 2**64, "7", None, 1.0)
        ),
        ("registry", 5),
        ("name", b"a"),
        ("layout", "text"),
    ],
)
def test_ticket_with_a_field_out_of_range_cannot_be(field: str, value: object) -> None:
    with pytest.raises(TicketError, match="is not from a registry"):
        replace(TICKET, **{field: value})


def test_ticket_with_a_field_out_of_range_is_refused_as_text_and_pickled() -> None:
    body = msgspec.msgpack.encode(["r1", 2**63, 1, 1, 4096, 1, None, b""])
    text = "slt1-" + base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "little") + body).decode().rstrip("=")
    with pytest.raises(TicketError, match=r"is not a ticket: .*whose id is 9223372036854775808"):
        Ticket.parse(text)
    pickled = pickle.dumps(TICKET, 0).replace(str(TICKET.id).encode(), str(2**63 + TICKET.id).encode())
    with pytest.raises(TicketError, match="is not from a registry"):
        pickle.loads(pickled)
