"""What the kernel says of pages that were written to; skipped where it says nothing."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from rig.repeated import for_each
from shmlease.integrations.dask.page_writes import PageWrites, whole_pages

PAGES = 300
Array = np.ndarray[Any, Any]


def pages_of(array: Array) -> tuple[int, int]:
    return whole_pages(array.ctypes.data, array.nbytes)


@pytest.fixture
def writes() -> Iterator[PageWrites]:
    array = fresh()
    with closing(PageWrites()) as writes:
        if not writes.watch(*pages_of(array)):
            pytest.skip("this kernel does not say which pages were written to")
        yield writes


def fresh() -> Array:
    """Pages that nobody has watched."""
    return np.frombuffer(mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE), np.uint8)


def assign(array: Array) -> None:
    array[len(array) // 2] = 9


def read_into(array: Array) -> None:
    reads, writes = os.pipe()
    os.write(writes, b"9")
    middle = len(array) // 2
    os.readv(reads, [array[middle : middle + 1].data])
    os.close(reads)
    os.close(writes)


def drop_pages(array: Array) -> None:
    start, _ = pages_of(array)
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert advise(start + 4 * mmap.PAGESIZE, mmap.PAGESIZE, mmap.MADV_DONTNEED) == 0


CHANGES: dict[str, Callable[[Array], None]] = {"a store": assign, "a system call": read_into, "dropped pages": drop_pages}


@for_each("how", CHANGES)
def test_every_change_is_noticed_and_nothing_else(writes: PageWrites, how: str) -> None:
    array = fresh()
    for _ in range(2):
        array[:] = 1
        assert writes.watch(*pages_of(array))
        array.sum()
        assert writes.are_unwritten(*pages_of(array))
        CHANGES[how](array)
        assert not writes.are_unwritten(*pages_of(array))


def test_change_in_a_private_mapping_of_a_file_is_noticed(writes: PageWrites) -> None:
    with open(f"/dev/shm/page-writes-{os.getpid()}", "w+b") as file:
        os.unlink(file.name)
        file.truncate(PAGES * mmap.PAGESIZE)
        array = np.frombuffer(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE), np.uint8)
        assert writes.are_of_file(*pages_of(array)), "before it is read"
        array.sum()
        assert writes.are_of_file(*pages_of(array))
        assign(array)
        assert not writes.are_of_file(*pages_of(array))


def test_nothing_is_said_of_memory_that_is_not_watched(writes: PageWrites) -> None:
    array = fresh()
    array[:] = 1
    assert not writes.are_unwritten(*pages_of(array))
    assert not writes.are_of_file(*pages_of(array))


def test_forked_child_knows_nothing_of_what_its_parent_watches(writes: PageWrites) -> None:
    array = fresh()
    array[:] = 1
    assert writes.watch(*pages_of(array))
    child = os.fork()
    if child == 0:
        array[5 * mmap.PAGESIZE] = 3
        os._exit(int(writes.are_unwritten(*pages_of(array))))
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert writes.are_unwritten(*pages_of(array)), "in the parent nothing was written"


def test_whole_pages_are_those_inside_a_range() -> None:
    size = mmap.PAGESIZE
    assert whole_pages(size, 2 * size) == (size, 3 * size)
    assert whole_pages(size + 1, 2 * size) == (2 * size, 3 * size)
    assert whole_pages(size + 1, 5) == (2 * size, 2 * size)
