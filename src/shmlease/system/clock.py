"""Clocks. The registry and the client take theirs as an argument, so that tests and simulations can turn the hands."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Tells the time and waits."""

    def now_ns(self) -> int:
        """Nanoseconds of a clock that all processes of this boot share and that never goes back."""
        ...

    def wait_s(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class SystemClock:
    """CLOCK_MONOTONIC."""

    def now_ns(self) -> int:
        """Nanoseconds since boot, without the time suspended."""
        return time.monotonic_ns()

    def wait_s(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)
