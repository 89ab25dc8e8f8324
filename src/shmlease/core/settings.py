"""How a registry is to run: what its starter tells it."""

from __future__ import annotations

import msgspec

from shmlease.core.model import Identity

__all__ = ["NewRegistry", "Settings"]


class NewRegistry(msgspec.Struct, frozen=True):
    """What a registry is begun with; its successors find it in the ledger.

    `capacity_bytes` bounds all segments together; `warm_limit_bytes` those kept for reuse, each for at most `warm_idle_s`
    idle seconds. `owner` is the process whose end closes the registry.
    """

    capacity_bytes: int
    warm_limit_bytes: int
    warm_idle_s: float
    owner: Identity | None = None


class Settings(msgspec.Struct, frozen=True):
    """Which registry a process is to serve, and as what.

    `new`: what to begin with if there is no ledger; None for a successor, which only goes on from one. `in_foreground`: it
    runs where its user has put it, and is not handed over to a client that may use more.
    """

    id: str
    root: str
    new: NewRegistry | None = None
    in_foreground: bool = False
