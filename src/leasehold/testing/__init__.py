"""For the tests of leasehold's users: `assert_no_leaks`, for any framework; pytest has a plugin besides.

What is named here is imported when it is first used: the other modules are for programs that tests start by the dozen.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leasehold.testing.leaks import LeakError, LeakWatch, assert_no_leaks

__all__ = ["LeakError", "LeakWatch", "assert_no_leaks"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leasehold.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module("leasehold.testing.leaks"), name)
    globals()[name] = value
    return value
