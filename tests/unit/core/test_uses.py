"""What a client says in shared memory of the spare that it keeps: whole, half written, or nonsense."""

from __future__ import annotations

import pytest

from shmlease.core import messages as m
from shmlease.core.uses import DESCRIPTION_BYTES, RECORD_BYTES, Use, described, parse_use, record_of
from shmlease.core.wire import encode_notice

LEASE = 3 << 40 | 1 << 39 | 7
CLAIM = m.Claim(1, LEASE, 8, b"layout", "here.py:1 in make", 5, False)


def description_of(claim: m.Claim) -> bytes:
    description = described(claim)
    assert description is not None
    return description.ljust(DESCRIPTION_BYTES, b"\0")


@pytest.mark.parametrize("is_held", [True, False])
def test_what_was_said_is_read(is_held: bool) -> None:
    record = record_of(LEASE, 2**32 + 4, 3, is_held=is_held)
    assert len(record) == RECORD_BYTES
    assert parse_use(record, description_of(CLAIM)) == Use(is_held, 4, 3, CLAIM)


def test_description_of_another_spare_is_not_taken_for_this_ones() -> None:
    assert parse_use(record_of(LEASE + 1, 4, 3, is_held=True), description_of(CLAIM)).claim is None


def test_description_that_is_being_written_is_none() -> None:
    before, after = description_of(CLAIM), description_of(m.Claim(1, LEASE, 16, b"other", "there.py:20 in take", 0, False))
    record = record_of(LEASE, 1, 0, is_held=True)
    found = [parse_use(record, after[:at] + before[at:]).claim for at in range(1, 40)]
    assert found == [None] * 39


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", encode_notice(m.Release(1, LEASE)), b"\x00" * DESCRIPTION_BYTES, b"\xff" * 200, b"\x05"]
)
def test_nonsense_describes_nothing(payload: bytes) -> None:
    assert parse_use(record_of(LEASE, 1, 0, is_held=True), payload).claim is None


def test_what_is_too_long_cannot_be_said() -> None:
    longest = m.Claim(1, LEASE, 8, b"", "s" * 512, 5, False)
    assert described(longest) is not None
    assert described(m.Claim(1, LEASE, 8, b"l" * 1000, "", 5, False)) is None
