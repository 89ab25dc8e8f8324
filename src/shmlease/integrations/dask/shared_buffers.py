"""Buffers of this process that are in shared memory already: what is sent twice is copied once.

A buffer is known by where it lies and how long it is. A task may have written to the array in between, also to one that
came from a segment, which is copied on write. So a segment is sent again only if the kernel says that no page of the buffer
was written to, or else if both are found equal. A record that is out of date costs a copy, and never shows anybody a wrong
value.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any, Final, NamedTuple

import numpy as np

from shmlease import Address, CapacityError, Lease, RegistryHandle, SegmentNotFoundError, Ticket
from shmlease.integrations.dask.page_writes import PageWrites, whole_pages

__all__ = ["SharedBuffers"]

Array = np.ndarray[Any, Any]

# As fast as memcpy, and without the interpreter's lock; numpy takes twice as long, since it keeps what it has found.
_memcmp: Final = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
# What is kept for buffers that may never be sent again, as a part of the capacity: there are some workers on a node.
_KEPT_PART: Final = 8
_MOST_RECORDS: Final = 10_000
# What is watched by itself is a mapping of its own to the kernel, which has 65,530 for a process; less is compared at once.
_LEAST_WATCHED_BYTES: Final = 1 << 20


class _Record(NamedTuple):
    address: Address
    segment: Array | None  # holds it for whoever has copied the buffer; whoever has received it holds it anyway
    owner: weakref.ref[Any]
    is_watched: bool = False  # writes to it are noticed


class SharedBuffers:
    """The buffers that this process has sent to others on its node, or received from them."""

    def __init__(self) -> None:
        self._records: dict[tuple[int, int], _Record] = {}  # changed in single steps: by threads, and as arrays die
        self._most_kept_bytes: dict[str, int] = {}
        self._writes = PageWrites()
        self._sending = threading.Lock()  # to watch a buffer anew is to forget what was written to it before

    def ticket(self, registry: RegistryHandle, buffer: memoryview, pid: int) -> Ticket:
        """A ticket for process `pid` on the content of `buffer`, contiguous bytes.

        Raises
        ------
        LeaseError
            There is no room, or no such process.
        """
        content = np.frombuffer(buffer, np.uint8)
        with self._sending:
            return self._ticket(registry, content, _key(content), pid)

    def _ticket(self, registry: RegistryHandle, content: Array, key: tuple[int, int], pid: int) -> Ticket:
        owner = _owner(content)
        lease = self._leased_again(registry, key, content)
        if lease is None:
            is_watched = self._watch(key, owner)  # before it is copied: what is written meanwhile is noticed
            self._records.pop(key, None)
            lease = self._copied(registry, content)
        try:
            ticket = lease.ticket(to=pid)
            if key not in self._records and isinstance(owner, np.ndarray):
                self._record(ticket, lease.detach(), content, owner, is_watched=is_watched)
                self._drop_oldest(registry)
        finally:
            lease.release()
        return ticket

    def received(self, registry: RegistryHandle, ticket: Ticket) -> memoryview:
        """What `ticket` was made for, copy-on-write; it holds the segment."""
        array: Array = registry.get(ticket, mode="c")
        if len(self._records) >= _MOST_RECORDS:
            self._records.clear()
        self._record(ticket, None, array, _owner(array))
        return array.data

    def clear(self) -> None:
        """Keep no segment for what may be sent again."""
        self._records.clear()

    def _leased_again(self, registry: RegistryHandle, key: tuple[int, int], content: Array) -> Lease[Any] | None:
        record = self._records.get(key)
        if record is None or record.address.registry != registry.id:
            return None
        try:
            lease = registry.attach(record.address)
        except SegmentNotFoundError:
            return None
        if self._is_unwritten(record, key, lease.array, content) or _are_equal(lease.array, content):
            return lease
        lease.release()
        return None

    def _is_unwritten(self, record: _Record, key: tuple[int, int], segment: Array, content: Array) -> bool:
        """Whether the kernel knows that `content` is what `segment` is; the parts of pages at its ends are compared."""
        start, stop = whole_pages(*key)
        if record.is_watched:
            are_unwritten = self._writes.are_unwritten(start, stop)
        else:
            are_unwritten = record.segment is None and self._writes.are_of_file(start, stop)
        ends = slice(start - key[0]), slice(stop - key[0], None)
        return are_unwritten and all(_are_equal(segment[end], content[end]) for end in ends)

    def _watch(self, key: tuple[int, int], owner: object) -> bool:
        """Have writes to a buffer noticed from now on, if it is memory of numpy's own."""
        address, nbytes = key
        if nbytes < _LEAST_WATCHED_BYTES or not isinstance(owner, np.ndarray) or not owner.flags.owndata:
            return False
        for other, record in list(self._records.items()):  # what was written to parts of it is forgotten
            if record.is_watched and other[0] < address + nbytes and address < sum(other):
                self._records.pop(other, None)
        return self._writes.watch(*whole_pages(address, nbytes))

    def _copied(self, registry: RegistryHandle, content: Array) -> Lease[Any]:
        try:
            return registry.share(content, timeout=0)
        except CapacityError:
            if all(record.segment is None for record in self._records.values()):
                raise
        self.clear()
        return registry.share(content, timeout=0)

    def _record(
        self, ticket: Ticket, segment: Array | None, content: Array, owner: Any, *, is_watched: bool = False
    ) -> None:
        key = _key(content)
        address = Address(ticket.registry, ticket.segment, ticket.generation)
        self._records[key] = _Record(
            address, segment, weakref.ref(owner, lambda _: self._records.pop(key, None)), is_watched
        )

    def _drop_oldest(self, registry: RegistryHandle) -> None:
        """Keep no more than a part of the registry's capacity for buffers that may be sent again."""
        most = self._most_kept_bytes.get(registry.id)
        if most is None:
            most = self._most_kept_bytes[registry.id] = registry.statistics().capacity_bytes // _KEPT_PART
        kept = [(key, record.segment.nbytes) for key, record in list(self._records.items()) if record.segment is not None]
        excess = sum(nbytes for _, nbytes in kept) - most
        for key, nbytes in kept:
            if excess <= 0:
                break
            self._records.pop(key, None)
            excess -= nbytes


def _key(content: Array) -> tuple[int, int]:
    return content.__array_interface__["data"][0], content.nbytes


def _owner(content: Any) -> object:
    """What has the memory of an array, and dies with it."""
    while True:
        if isinstance(content, memoryview):
            content = content.obj
        elif isinstance(content, np.ndarray) and isinstance(content.base, np.ndarray | memoryview):
            content = content.base
        else:
            return content


def _are_equal(one: Array, other: Array) -> bool:
    return len(one) == len(other) and _memcmp(one.ctypes.data, other.ctypes.data, len(one)) == 0
