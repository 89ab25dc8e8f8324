"""For the tests of leasehold's users: `assert_no_leaks`, for any framework, and `memory_registry`, without any process.

What is named here is imported when it is first used: the other modules are for programs that tests start by the dozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leasehold.lazy import lazily

if TYPE_CHECKING:
    from leasehold.testing.leaks import LeakError, LeakWatch, assert_no_leaks
    from leasehold.testing.memory import MemoryRegistry, memory_registry

__all__ = ["LeakError", "LeakWatch", "MemoryRegistry", "assert_no_leaks", "memory_registry"]

_HOMES: Final = {
    "LeakError": "leasehold.testing.leaks",
    "LeakWatch": "leasehold.testing.leaks",
    "MemoryRegistry": "leasehold.testing.memory",
    "assert_no_leaks": "leasehold.testing.leaks",
    "memory_registry": "leasehold.testing.memory",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
