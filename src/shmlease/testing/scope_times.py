"""When which test began, so that a moment tells in which test it lay."""

from __future__ import annotations

import time
from bisect import bisect_right

__all__ = ["ScopeTimes"]


class ScopeTimes:
    """The beginnings of scopes that follow one another."""

    def __init__(self) -> None:
        self._began_ns: list[int] = []
        self._names: list[str] = []

    def begin(self, name: str) -> None:
        """The scope before ends, and this one begins."""
        self._began_ns.append(time.time_ns())
        self._names.append(name)

    @property
    def latest(self) -> str | None:
        """The scope that began last."""
        return self._names[-1] if self._names else None

    def at(self, moment_ns: int) -> str | None:
        """The scope in which a moment since the epoch lay; None if it was before the first."""
        position = bisect_right(self._began_ns, moment_ns)
        return self._names[position - 1] if position else None
