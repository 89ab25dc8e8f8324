"""Arrays on mappings: whoever holds one holds the memory, and a read-only one cannot be talked into being written."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shmlease.client.arrays import Anchor, array_on, seal
from shmlease.client.layout import layout_of
from shmlease.system.mapping import map_segment

SIZE = 8 * 4096


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE, 0o600)
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


def anchor_on(fd: int, *, writable: bool) -> Anchor:
    return Anchor(map_segment(fd, SIZE, writable=writable))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((), "f8"),
        (0, "f8"),
        ((3, 0), "i2"),
        (5, ">i4"),
        ((2, 3, 4), "c16"),
        (3, [("a", "S3"), ("b", "<i8")]),
        ((4, 5), "M8[s]"),
        (7, "?"),
        (2, "V3"),
    ],
    ids=str,
)
def test_array_is_what_numpy_would_make(fd: int, shape: Any, dtype: Any, order: str) -> None:
    array = array_on(anchor_on(fd, writable=True), layout_of(shape, dtype, order))
    plain = np.empty(shape, dtype, order)  # type: ignore[call-overload]
    assert (array.shape, array.dtype) == (plain.shape, plain.dtype)
    assert array.strides == plain.strides or array.size == 0, "strides of nothing mean nothing, and numpy's versions differ"
    flags = ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED")
    assert [array.flags[flag] for flag in flags] == [plain.flags[flag] for flag in flags]


def test_array_lies_at_the_first_byte(fd: int) -> None:
    array = array_on(anchor_on(fd, writable=True), layout_of((2, 3), "<u2", "F"))
    array[...] = [[1, 2, 3], [4, 5, 6]]
    assert np.frombuffer(os.pread(fd, 12, 0), "<u2").tolist() == [1, 4, 2, 5, 3, 6]


@pytest.mark.parametrize(
    "view_of",
    [
        lambda array: array[1:3],
        lambda array: array.view("u1"),
        memoryview,
        lambda array: array.T,
        lambda array: np.asarray(memoryview(array)),
        lambda array: np.broadcast_to(array, (3, 10)),
        lambda array: array.flat,
        lambda array: np.lib.stride_tricks.sliding_window_view(array, 3),
        lambda array: array[None].squeeze(),
        lambda array: np.frombuffer(array, "f8"),
        lambda array: array.real,
        lambda array: array.view(np.recarray),
        lambda array: [array[5:]],
        lambda array: array.__array_interface__ and array[::-1],
    ],
)
def test_any_view_keeps_the_memory(fd: int, view_of: Any) -> None:
    anchor = anchor_on(fd, writable=True)
    watched = weakref.ref(anchor)
    array = array_on(anchor, layout_of(10, "f8"))
    array[:] = 7
    view = view_of(array)
    del anchor, array
    gc.collect()
    assert watched() is not None
    del view
    gc.collect()
    assert watched() is None


ATTEMPTS = [
    lambda array: array.__setitem__(0, 1),
    lambda array: array.setflags(write=True),
    lambda array: setattr(array.flags, "writeable", True),
    lambda array: setattr(array.base.flags, "writeable", True),
    lambda array: setattr(array[:].flags, "writeable", True),
    lambda array: setattr(array.view("u1").flags, "writeable", True),
    lambda array: setattr(array.T.flags, "writeable", True),
    lambda array: memoryview(array).__setitem__(0, 1.0),
    lambda array: np.frombuffer(array, "f8").__setitem__(0, 1),
    lambda array: setattr(np.asarray(memoryview(array)).flags, "writeable", True),
    lambda array: np.copyto(array, 1),
    lambda array: np.add(array, 1, out=array),
    lambda array: array.sort(),
    lambda array: array.fill(1),
    lambda array: array.byteswap(inplace=True),
    lambda array: np.put(array, [0], [1]),
    lambda array: array.__iadd__(1),
    lambda array: setattr(np.lib.stride_tricks.as_strided(array, (3,)).flags, "writeable", True),
    lambda array: setattr(np.array(array, copy=False).flags, "writeable", True),
]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=range(len(ATTEMPTS)))
@pytest.mark.parametrize("whose", ["reader", "writer after publish"])
def test_read_only_array_cannot_be_talked_into_being_written(fd: int, attempt: Any, whose: str) -> None:
    os.pwrite(fd, b"\x55" * SIZE, 0)
    array = array_on(anchor_on(fd, writable=whose != "reader"), layout_of(100, "f8"))
    seal(array)
    with pytest.raises((ValueError, TypeError, BufferError)):
        attempt(array)
    assert os.pread(fd, SIZE, 0) == b"\x55" * SIZE


def test_readers_array_is_read_only_from_the_start(fd: int) -> None:
    """A store into it would be a segmentation fault, not an error: numpy itself must know."""
    array = array_on(anchor_on(fd, writable=False), layout_of(100, "f8"))
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_view_taken_before_publishing_stays_writable(fd: int) -> None:
    """The docstring of Lease says so; the mapping must then be writable too, or the write would be a segmentation fault."""
    array = array_on(anchor_on(fd, writable=True), layout_of(100, "u1"))
    view = array[:5]
    seal(array)
    view[:] = 9
    assert os.pread(fd, 5, 0) == b"\x09" * 5
