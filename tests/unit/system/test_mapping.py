"""Mappings and the reservation of pages: read-only is read-only, addresses suit huge pages, no write can fail later."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shmlease.system import syscalls
from shmlease.system.mapping import HUGE_PAGE_BYTES, Mapping, map_segment
from shmlease.system.page_reservation import map_pages, reserve_pages

PAGE = 4096
SIZES = [PAGE, 3 * PAGE, HUGE_PAGE_BYTES - PAGE, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + PAGE, 5 * HUGE_PAGE_BYTES + 7 * PAGE]


@pytest.fixture
def fd() -> Iterator[int]:
    """A file of tmpfs that has no name."""
    fd = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE, 0o600)
    yield fd
    os.close(fd)


def mapped_at(address: int) -> str | None:
    """The line of /proc/self/maps that covers `address`."""
    with open("/proc/self/maps") as file:
        for line in file:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return line
    return None


def reserved_ranges() -> int:
    """How many ranges of addresses are taken and have no memory."""
    with open("/proc/self/maps") as file:
        return sum("---p" in line for line in file)


def reserved_bytes() -> int:
    """Address space of this process that nothing can be read from."""
    with open("/proc/self/maps") as file:
        spans = [line.split()[0].split("-") for line in file if "---p" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def view(mapping: Mapping) -> memoryview:
    return memoryview((ctypes.c_char * mapping.size_bytes).from_address(mapping.address)).cast("B")


@pytest.mark.parametrize("size", SIZES)
def test_mapping_is_the_file(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    mapping = map_segment(fd, size, writable=True)
    view(mapping)[size - 3 :] = b"end"
    assert os.pread(fd, 3, size - 3) == b"end"
    os.pwrite(fd, b"begin", 0)
    assert view(mapping)[:5] == b"begin"
    mapping.close()


@pytest.mark.parametrize("size", SIZES)
def test_mapping_takes_exactly_its_own_addresses_and_gives_them_back(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    before = reserved_bytes()
    mapping = map_segment(fd, size, writable=True)
    address = mapping.address
    line = mapped_at(address)
    assert line is not None
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    assert (start, end) == (address, address + size)
    assert reserved_bytes() - before <= HUGE_PAGE_BYTES, "addresses only, for the alignment"
    mapping.close()
    assert reserved_bytes() - before < HUGE_PAGE_BYTES
    mapping.close()


def test_large_mapping_begins_where_huge_pages_can(fd: int) -> None:
    os.ftruncate(fd, 3 * HUGE_PAGE_BYTES)
    for _ in range(20):
        assert map_segment(fd, 3 * HUGE_PAGE_BYTES, writable=True).address % HUGE_PAGE_BYTES == 0


def test_mapping_ends_when_it_is_collected(fd: int) -> None:
    os.ftruncate(fd, PAGE)
    mapping = map_segment(fd, PAGE, writable=True)
    inode = os.fstat(fd).st_ino
    address = mapping.address
    assert f" {inode} " in (mapped_at(address) or "")
    del mapping
    gc.collect()
    assert f" {inode} " not in (mapped_at(address) or "")


def test_mapping_keeps_no_descriptor(fd: int) -> None:
    os.ftruncate(fd, PAGE)
    before = set(os.listdir("/proc/self/fd"))
    mapping = map_segment(fd, PAGE, writable=True)
    assert set(os.listdir("/proc/self/fd")) == before
    mapping.close()


@pytest.mark.parametrize("size", [PAGE, 2 * HUGE_PAGE_BYTES])
def test_write_through_a_readers_mapping_faults(size: int) -> None:
    code = f"""
import ctypes, os
from shmlease.system.mapping import map_segment
fd = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE, 0o600)
os.ftruncate(fd, {size})
mapping = map_segment(fd, {size}, writable=False)
assert ctypes.string_at(mapping.address, 4) == bytes(4)
print("read", flush=True)
ctypes.memset(mapping.address, 1, 1)
print("written", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout == "read\n"
    assert done.returncode == -signal.SIGSEGV


def test_writable_mapping_of_a_read_only_descriptor_is_refused(fd: int) -> None:
    os.ftruncate(fd, PAGE)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        for size in (PAGE, 2 * HUGE_PAGE_BYTES):
            with pytest.raises(PermissionError):
                map_segment(reader, size, writable=True)
    finally:
        os.close(reader)


def test_mapping_without_address_space_is_an_error_and_leaves_nothing(fd: int) -> None:
    before = reserved_ranges()
    with pytest.raises(OSError, match=r".") as refused:
        map_segment(fd, 1 << 60, writable=True)
    assert refused.value.errno == errno.ENOMEM
    assert reserved_ranges() == before


@pytest.mark.parametrize("collapse", [True, False], ids=["huge pages where granted", "small pages"])
@pytest.mark.parametrize("size", SIZES)
def test_reserved_pages_all_have_memory(fd: int, size: int, collapse: bool) -> None:
    os.ftruncate(fd, size)
    mapping = map_segment(fd, size, writable=True)
    reserve_pages(fd, mapping, collapse=collapse)
    assert os.fstat(fd).st_blocks * 512 >= size
    assert os.fstat(fd).st_size == size
    assert bytes(view(mapping)[:8]) == bytes(8)
    mapping.close()


@pytest.mark.parametrize("collapse", [True, False], ids=["huge pages where granted", "small pages"])
def test_whoever_fills_a_large_segment_is_not_stopped_at_its_pages(fd: int, collapse: bool) -> None:
    size = 2 * HUGE_PAGE_BYTES
    os.ftruncate(fd, size)
    first = map_segment(fd, size, writable=True)
    reserve_pages(fd, first, collapse=collapse)
    second = map_segment(fd, size, writable=True)  # of another process that the segment is given to
    map_pages(second)
    for mapping in (first, second):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        ctypes.memset(mapping.address, 1, size)
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < 100, "of 1024 pages"
        mapping.close()


def test_pages_are_reserved_also_where_the_system_refuses_huge_ones(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * HUGE_PAGE_BYTES
    os.ftruncate(fd, size)
    mapping = map_segment(fd, size, writable=True)
    asked = []

    def refuse(address: int, length: int, advice: int) -> int:
        asked.append((address, length, advice))
        ctypes.set_errno(errno.EINVAL)
        return -1

    monkeypatch.setattr(syscalls, "madvise", refuse)
    reserve_pages(fd, mapping)
    assert asked == [(mapping.address, size, 25), (mapping.address, size, 23)]
    assert os.fstat(fd).st_blocks * 512 >= size
    mapping.close()


def test_reservation_in_a_full_shm_is_an_error_and_no_signal(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.ftruncate(fd, PAGE)
    mapping = map_segment(fd, PAGE, writable=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(syscalls, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        reserve_pages(fd, mapping)
    mapping.close()
