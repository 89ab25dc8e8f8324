"""The messages that grant a lease, made of its row and of its segment's."""

from __future__ import annotations

from shmlease.core import messages as m
from shmlease.core.model import LeaseMode, LeaseRow, SegmentRow, SegmentState

__all__ = ["attached", "granted", "spare"]


def granted(seq: int, lease: LeaseRow, segment: SegmentRow) -> m.Granted:
    """The answer to a request for a new segment."""
    return m.Granted(seq, lease.id, segment.number, segment.generation, segment.size_bytes, not segment.reserved)


def attached(seq: int, lease: LeaseRow, segment: SegmentRow) -> m.Attached:
    """The answer to a request for a segment that is there."""
    writable = lease.mode is LeaseMode.WRITE and (segment.mutable or segment.state is SegmentState.FILLING)
    return m.Attached(
        seq,
        lease.id,
        segment.number,
        segment.generation,
        segment.size_bytes,
        segment.nbytes,
        segment.layout,
        segment.name,
        writable,
        segment.mutable,
        segment.exposed,
    )


def spare(applied: int, lease: LeaseRow, segment: SegmentRow) -> m.Spare:
    """The message that grants a segment ahead."""
    return m.Spare(applied, lease.id, segment.number, segment.generation, segment.size_bytes, not segment.reserved)
