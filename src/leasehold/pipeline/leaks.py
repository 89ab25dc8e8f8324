"""The check at the end of a run: that nothing of it is left in shared memory."""

from __future__ import annotations

import os
import time
from typing import Final

from leasehold.client.handle import RegistryHandle
from leasehold.system.directory import RegistryDirectory

__all__ = ["holdings", "leftovers"]

# The workers have ended; the registry reads of it within milliseconds.
_WITHIN_S: Final = 2.0


def holdings(registry: RegistryHandle, *, workers_lost: bool) -> tuple[str, ...]:
    """What of a registry is still leased or in flight, in words; nothing, once a run that had it to itself has ended.

    A worker that was killed between making a ticket and saying so leaves one that nobody can redeem; it expires by itself.
    """
    deadline_s = time.monotonic() + _WITHIN_S
    while True:
        figures = registry.statistics()
        found = [
            f"{count} {mode} leases are held"
            for mode, count in figures.leases.items()
            if count and mode != "spare"  # granted ahead, and taken back by the registry
        ]
        found += [f"{figures.tickets} tickets were not redeemed"] if figures.tickets and not workers_lost else []
        if not found or time.monotonic() > deadline_s:
            return tuple(found)
        time.sleep(0.005)


def leftovers(registry_id: str) -> tuple[str, ...]:
    """What a registry that was closed has left in /dev/shm."""
    directory = RegistryDirectory(registry_id)
    found = [directory.path] if directory.exists() else []
    found += [f"{directory.root}/{name}" for name in os.listdir(directory.root) if name.startswith(f"lh-{registry_id}-")]
    return tuple(f"{path} is left" for path in found)
