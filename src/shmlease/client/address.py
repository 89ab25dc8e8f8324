"""An address: which segment, in which use of it; something to attach by, any number of times, that keeps nothing alive."""

from __future__ import annotations

import msgspec

__all__ = ["Address"]


class Address(msgspec.Struct, frozen=True):
    """Where a published segment is, named or not: `RegistryHandle.attach` takes it as it takes a name.

    It can be pickled and sent to any process of the same user on this machine. It holds no lease: when the last lease on
    the segment has ended, attaching by it raises SegmentNotFoundError, also if the file is used again by then.
    """

    registry: str
    segment: int
    generation: int
    os_name: str = ""  # what it is called in /dev/shm itself, if `Lease.link` has given it its own name
