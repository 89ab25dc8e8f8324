"""The processes of the selftest that hold leases; see `shmlease.verification.selftest.acts` for how they are talked to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

from shmlease.verification.selftest.acts import SIZE_BYTES, reply, stay

__all__: list[str] = []


def hold(registry: str) -> None:
    """Take a lease from a registry that runs, and stay."""
    from shmlease.client.registry import connect  # noqa: PLC0415 - brings numpy

    lease = connect(registry).lease(shape=SIZE_BYTES, dtype="u1")
    lease.array[:] = 1
    stay()


def own() -> None:
    """Start a registry, take a lease from it, and stay."""
    from shmlease.client.registry import Registry  # noqa: PLC0415

    registry = Registry(capacity="4MiB")
    lease = registry.lease(shape=SIZE_BYTES, dtype="u1")
    lease.array[:] = 1
    stay(registry.id)


_ACTS: Final[dict[str, Callable[..., None]]] = {"hold": hold, "own": own}


if __name__ == "__main__":
    try:
        _ACTS[sys.argv[1]](*sys.argv[2:])
    except OSError as refusal:
        reply(f"cannot {refusal}")
        os._exit(0)
