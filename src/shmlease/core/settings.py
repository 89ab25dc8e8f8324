"""How a registry is to run: what its starter tells it."""

from __future__ import annotations

import msgspec

from shmlease.core.model import Identity

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True):
    """How a registry is to run.

    `in_foreground`: it runs where its user has put it, and is not handed over to a client that may use more.
    `capacity_bytes` bounds all segments together; `warm_limit_bytes` those kept for reuse, each for at most `warm_idle_s`
    idle seconds. `owner` is the process whose end closes the registry. A successor takes all but `id` and `root` from the
    ledger.
    """

    id: str
    root: str
    capacity_bytes: int = 0
    warm_limit_bytes: int = 0
    warm_idle_s: float = 0.0
    owner: Identity | None = None
    in_foreground: bool = False
