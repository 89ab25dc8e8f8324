"""CRC-32 joined from pieces."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from shmlease.hdf5.checksum import Checksum, combine, crc32, joined

pieces = st.lists(st.binary(max_size=300), max_size=8)


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_two_stretches_combine_to_the_crc_of_both_end_to_end(first: bytes, second: bytes) -> None:
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


values = st.integers(0, 2**32 - 1)
lengths = st.integers(0, 2**44)


@given(values, values, values, lengths, lengths)
def test_it_does_not_matter_which_of_three_long_stretches_are_joined_first(
    first: int, second: int, third: int, second_bytes: int, third_bytes: int
) -> None:
    left = combine(combine(first, second, second_bytes), third, third_bytes)
    assert left == combine(first, combine(second, third, third_bytes), second_bytes + third_bytes)


@given(pieces)
def test_pieces_join_to_the_crc_of_the_whole(parts: list[bytes]) -> None:
    sized = [(len(part), crc32(part)) for part in parts]
    checksum = Checksum()
    checksum.extend(sized)
    assert checksum.value == joined(sized) == zlib.crc32(b"".join(parts))
    assert checksum.size_bytes == sum(map(len, parts))


@given(pieces, st.data())
def test_the_crc_between_two_boundaries_is_that_of_the_bytes_there(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    checksum = Checksum()
    checksum.extend((len(part), crc32(part)) for part in parts)
    ends = [sum(map(len, parts[:count])) for count in range(len(parts) + 1)]
    start, stop = sorted([data.draw(st.sampled_from(ends)), data.draw(st.sampled_from(ends))])
    assert checksum.between(start, stop) == zlib.crc32(whole[start:stop])


def test_there_is_no_crc_between_places_that_are_no_boundaries() -> None:
    checksum = Checksum()
    checksum.extend([(10, 1), (10, 2)])
    assert checksum.between(0, 20) is not None
    assert checksum.between(0, 15) is None
    assert checksum.between(3, 20) is None
    assert checksum.between(0, 30) is None
    assert checksum.between(20, 10) is None
