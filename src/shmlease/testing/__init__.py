"""For the tests of shmlease's users: `assert_no_leaks`, for any framework, and `memory_registry`, without any process.

What is named here is imported when it is first used: the other modules are for programs that tests start by the dozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmlease.lazy import lazily

if TYPE_CHECKING:
    from shmlease.testing.leak_watch import LeakWatch
    from shmlease.testing.leaks import LeakError, assert_no_leaks
    from shmlease.testing.memory import MemoryRegistry, memory_registry

__all__ = ["LeakError", "LeakWatch", "MemoryRegistry", "assert_no_leaks", "memory_registry"]

_HOMES: Final = {
    "LeakError": "shmlease.testing.leaks",
    "LeakWatch": "shmlease.testing.leak_watch",
    "MemoryRegistry": "shmlease.testing.memory",
    "assert_no_leaks": "shmlease.testing.leaks",
    "memory_registry": "shmlease.testing.memory",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
