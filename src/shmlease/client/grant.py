"""What a lease is granted on: a segment, and how an array lies on it."""

from __future__ import annotations

import msgspec

from shmlease.client.layout import Layout

__all__ = ["Grant"]


class Grant(msgspec.Struct, frozen=True):
    """What a lease is on."""

    segment: int
    generation: int
    size_bytes: int
    layout: Layout
    name: str | None
    mutable: bool = False
