"""CRC-32 of row bytes, computed by many workers in any order and joined into one.

The checksum of a dataset is the CRC-32 (zlib's) of its decoded bytes in row order, so anybody can check it without
shmlease: ``zlib.crc32(dataset[...].tobytes())``. CRC-32 is linear, which is why it was chosen: the value of two
stretches laid end to end follows from the two values and the second length, and the value of a stretch follows from the
values at its two ends. Workers checksum the pieces they encode; nobody reads the rows a second time. It guards against
accident, not against forgery.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache

try:  # ISA-L folds with carry-less multiplication: 88 GB/s where zlib made 5 GB/s
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["Checksum", "combine", "crc32", "joined"]

_POLYNOMIAL = 0xEDB88320  # CRC-32 (IEEE 802.3), bit-reflected: bit 31 is x^0
_ONE = 1 << 31


def _multiply(left: int, right: int) -> int:
    """The product of two polynomials over GF(2), modulo the polynomial of CRC-32."""
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = (left << 1) & 0xFFFFFFFF
        right = (right >> 1) ^ (_POLYNOMIAL if right & 1 else 0)
    return product


@lru_cache(maxsize=64)
def _square(power: int) -> int:
    """x^(2^power)."""
    if power == 0:
        return _ONE >> 1
    root = _square(power - 1)
    return _multiply(root, root)


@lru_cache(maxsize=4096)
def _shift(size_bytes: int) -> int:
    """x^(8 * size_bytes): what appending `size_bytes` bytes multiplies a CRC by."""
    operator, power, count = _ONE, 3, size_bytes
    while count:
        if count & 1:
            operator = _multiply(_square(power), operator)
        power, count = power + 1, count >> 1
    return operator


def combine(first: int, second: int, second_bytes: int) -> int:
    """CRC-32 of two stretches end to end, from the CRC-32 of each and the length of the second.

    Source: zlib's ``crc32_combine``, whose result this equals.
    """
    return _multiply(_shift(second_bytes), first) ^ second if first else second


class Checksum:
    """CRC-32 of a stream at every boundary between the pieces it came in.

    A boundary costs 12 bytes of memory, so a terabyte in pieces of 1 MiB keeps 12 MB.
    """

    def __init__(self) -> None:
        self._ends = array("Q", [0])
        self._values = array("I", [0])

    @property
    def size_bytes(self) -> int:
        """Bytes joined so far."""
        return self._ends[-1]

    @property
    def value(self) -> int:
        """CRC-32 of all bytes joined so far."""
        return self._values[-1]

    def extend(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Join the pieces that follow, each as (size in bytes, CRC-32)."""
        for size_bytes, value in pieces:
            if size_bytes:
                self._values.append(combine(self._values[-1], value, size_bytes))
                self._ends.append(self._ends[-1] + size_bytes)

    def between(self, start_byte: int, stop_byte: int) -> int | None:
        """CRC-32 of bytes [start, stop), or None where either is not a boundary of pieces."""
        values = []
        for position in (start_byte, stop_byte):
            place = bisect_left(self._ends, position)
            if place == len(self._ends) or self._ends[place] != position:
                return None
            values.append(self._values[place])
        return combine(values[0], values[1], stop_byte - start_byte) if start_byte <= stop_byte else None


def joined(pieces: Iterable[tuple[int, int]]) -> int:
    """CRC-32 of pieces end to end, each as (size in bytes, CRC-32)."""
    checksum = Checksum()
    checksum.extend(pieces)
    return checksum.value
