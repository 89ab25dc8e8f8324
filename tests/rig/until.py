"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

__all__ = ["until"]


def until(condition: Callable[[], T], within_s: float = 60.0, *, what: str = "the condition") -> T:
    """The first true value of `condition`; AssertionError if there is none within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s} s"
        time.sleep(0.002)
