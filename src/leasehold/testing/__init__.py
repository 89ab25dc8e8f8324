"""For the tests of leasehold's users: `assert_no_leaks`, for any framework, and `memory_registry`, without any process.

What is named here is imported when it is first used: the other modules are for programs that tests start by the dozen.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leasehold.testing.leaks import LeakError, LeakWatch, assert_no_leaks
    from leasehold.testing.memory import MemoryRegistry, memory_registry

__all__ = ["LeakError", "LeakWatch", "MemoryRegistry", "assert_no_leaks", "memory_registry"]

_HOMES = {"MemoryRegistry": "memory", "memory_registry": "memory"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leasehold.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"leasehold.testing.{_HOMES.get(name, 'leaks')}"), name)
    globals()[name] = value
    return value
