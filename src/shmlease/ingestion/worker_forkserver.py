"""The fork server of the workers, begun ahead.

Importing numpy and the rest takes it a tenth of a second. Nothing heavy is imported here, so that a program that knows it
will ingest can have it begin (`begin`) before it imports the same itself, and both go on side by side.
"""

from __future__ import annotations

import os
from typing import Final

from shmlease.system.forkserver import ForkServer

__all__ = ["begin", "drop", "take"]

_PRELOAD: Final = ["shmlease.ingestion.worker_process"]
_begun: list[tuple[int, ForkServer]] = []


def begin() -> None:
    """Start a fork server for the next to `take` one."""
    if not _begun:
        _begun.append((os.getpid(), ForkServer(_PRELOAD, detached=True)))


def take() -> ForkServer:
    """The fork server that was begun, or a new one."""
    while _begun:
        pid, forkserver = _begun.pop()
        if pid == os.getpid():  # else it is the parent's
            return forkserver
    return ForkServer(_PRELOAD, detached=True)


def drop() -> None:
    """End a fork server that was begun and that nobody took."""
    if _begun:
        take().close()
