"""A clock that does something else in the time it is asked to wait."""

from __future__ import annotations

import time
from collections.abc import Callable


class BusyClock:
    """Counts the waits; in the first, does `meanwhile`. No time passes but what that takes."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.waits: list[float] = []
        self._meanwhile = meanwhile

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait_s(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) == 1:
            self._meanwhile()
