"""Values that come with every lease of a program, kept once: where it is taken, and the layout of its array."""

from __future__ import annotations

from typing import Final, TypeVar

__all__ = ["Interning"]

T = TypeVar("T", str, bytes)

# The places and layouts of some programs; what is new with every lease must not pile up.
_MOST: Final = 1024


class Interning:
    """The values that were seen lately."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str | bytes, str | bytes] = {}

    def of(self, value: T) -> T:
        """The equal value that was seen first."""
        if len(self._seen) >= _MOST:
            self._seen.clear()
        return self._seen.setdefault(value, value)  # type: ignore[return-value]
