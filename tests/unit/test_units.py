"""Bytes and durations: what is printed is parsed again, words mean what they say, nonsense is refused."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.units import format_bytes, format_count, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("512K", 512 * 1024),
        ("512k", 512 * 1024),
        ("1KiB", 1024),
        ("1 kib", 1024),
        ("1kB", 1000),
        ("64 MB", 64_000_000),
        ("64MiB", 64 << 20),
        (" 2GiB ", 2 << 30),
        ("1.5GiB", 3 << 29),
        (".5k", 512),
        ("1TiB", 1 << 40),
        ("1PB", 10**15),
        (0, 0),
        (4096, 4096),
    ],
)
def test_size_is_parsed(text: int | str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 2", "1GiBs", "1e9", "nan", "0x10", "1,5G", "one", "1..5G", "\x00"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="2GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("size", [-1, -0.5, math.nan])
def test_negative_size_and_not_a_number_are_refused(size: float) -> None:
    with pytest.raises(ValueError, match="negative or not a number"):
        parse_bytes(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [2**63, math.inf, "9999PiB"])
def test_size_beyond_any_file_is_refused(size: int | str) -> None:
    with pytest.raises(ValueError, match="larger than any memory"):
        parse_bytes(size)
    assert parse_bytes(2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize("nonsense", [None, b"1MiB", [], 1j], ids=repr)
def test_what_is_neither_number_nor_words_is_a_type_error_that_says_what_is(nonsense: object) -> None:
    with pytest.raises(TypeError, match='such as "2GiB", not'):
        parse_bytes(nonsense)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match='such as "500ms", not'):
        parse_duration(nonsense)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("5s", 5.0),
        ("500ms", 0.5),
        ("10us", 1e-5),
        ("7 ns", 7e-9),
        ("2min", 120.0),
        ("2m", 120.0),
        ("1.5 h", 5400.0),
        (0, 0.0),
        (0.25, 0.25),
    ],
)
def test_duration_is_parsed(text: float | str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 fortnight", "1s2", "nan", "inf"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="500ms"):
        parse_duration(text)


@pytest.mark.parametrize("duration", [-1, -0.001, math.nan])
def test_negative_duration_and_not_a_number_are_refused(duration: float) -> None:
    with pytest.raises(ValueError, match="negative or not a number"):
        parse_duration(duration)


def test_endless_duration_fits_the_nanoseconds_of_a_message() -> None:
    for endless in (math.inf, 1e300):
        assert 10**9 < parse_duration(endless) * 1e9 < 2**62


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1 MiB"),
        (1000 << 20, "1000 MiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_size_is_printed(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3e-9, "3 ns"),
        (2.5e-4, "250 us"),
        (0.0125, "12.5 ms"),
        (3.2, "3.2 s"),
        (125, "2 min 5 s"),
        (120, "2 min"),
        (3720, "1 h 2 min"),
        (7200, "2 h"),
    ],
)
def test_duration_is_printed(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_count_is_printed_with_its_plural() -> None:
    assert format_count(1, "leak") == "1 leak"
    assert format_count(0, "leak") == "0 leaks"
    assert format_count(1234, "registry", "registries") == "1,234 registries"


@given(st.integers(0, 2**62))
def test_printed_size_means_nearly_the_same(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=1e-2)


@given(st.text())
def test_text_is_a_size_or_a_value_error(text: str) -> None:
    size_bytes = 0
    with contextlib.suppress(ValueError):
        size_bytes = parse_bytes(text)
    assert size_bytes >= 0
