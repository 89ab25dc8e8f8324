"""What ``shmlease run --adopt`` does to `multiprocessing.shared_memory` in a program that nobody has changed."""

from __future__ import annotations

import os
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any, Final

from shmlease.integrations.shared_memory import SharedMemory

__all__ = ["adopt"]

_KIND: Final = "shared_memory"


def adopt(module: ModuleType) -> None:
    """Put leases behind the classes of `module`, which is `multiprocessing.shared_memory`.

    Its `ShareableList`, and the managers, find `SharedMemory` there. Names last until they are unlinked, or until the
    registry ends: which processes are to be waited for, is for the run to say.
    """
    SharedMemory._outlives_processes = True
    SharedMemory.__module__ = module.__name__  # pickled, it is found where the program's own was
    module.SharedMemory = SharedMemory  # type: ignore[attr-defined]
    _keep_from_trackers(resource_tracker)


def _keep_from_trackers(tracker: Any) -> None:
    """No resource tracker removes a lease's name; a program that takes one back from its tracker causes no error there."""
    register, unregister, registered = tracker.register, tracker.unregister, set[str]()

    def register_others(name: str, kind: str) -> None:
        if kind == _KIND:
            if _is_of_a_lease(name):
                return
            registered.add(name)
        register(name, kind)

    def unregister_others(name: str, kind: str) -> None:
        if kind == _KIND:
            if name not in registered:
                return
            registered.discard(name)
        unregister(name, kind)

    tracker.register, tracker.unregister = register_others, unregister_others


def _is_of_a_lease(name: str) -> bool:
    """Whether the file has another link: in its registry's directory."""
    try:
        return os.stat(f"/dev/shm/{name.lstrip('/')}", follow_symlinks=False).st_nlink > 1
    except (OSError, ValueError):
        return False
