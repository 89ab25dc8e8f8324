"""What a lease is granted on: a segment, and how an array lies on it."""

from __future__ import annotations

import msgspec

from shmlease.client.layout import Layout, decode_layout
from shmlease.client.ticket import Ticket
from shmlease.core import messages as m
from shmlease.errors import ProtocolError

__all__ = ["Grant", "grant_to_reader"]


class Grant(msgspec.Struct, frozen=True):
    """What a lease is on."""

    segment: int
    generation: int
    size_bytes: int
    layout: Layout
    name: str | None
    mutable: bool = False


def grant_to_reader(source: m.Attached | Ticket) -> Grant:
    """A segment that has its array already, as the registry or a ticket describes it.

    Raises
    ------
    ProtocolError
        No array can lie there as described.
    """
    layout = decode_layout(source.layout)
    if layout.nbytes > source.size_bytes:
        raise ProtocolError(f"an array of {layout.nbytes} bytes does not fit on a segment of {source.size_bytes}")
    return Grant(source.segment, source.generation, source.size_bytes, layout, source.name, source.mutable)
