"""Ids by what they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["Index"]


class Index:
    """The members under each key. One alone is kept as it is: a set of one takes 216 bytes, and most are alone."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[int, int | set[int]] = {}

    def __contains__(self, key: int) -> bool:
        """Whether there is a member under `key`."""
        return key in self._of

    def __iter__(self) -> Iterator[int]:
        return iter(self._of)

    def __getitem__(self, key: int) -> Collection[int]:
        """The members under `key`, none perhaps."""
        found = self._of.get(key)
        return () if found is None else found if isinstance(found, set) else (found,)

    def add(self, key: int, member: int) -> None:
        """Put `member` under `key`."""
        found = self._of.setdefault(key, member)
        if isinstance(found, set):
            found.add(member)
        elif found != member:
            self._of[key] = {found, member}

    def discard(self, key: int, member: int) -> None:
        """Take `member` away from under `key`, if it is there."""
        found = self._of.get(key)
        if isinstance(found, set):
            found.discard(member)
            if not found:
                del self._of[key]
        elif found == member:
            del self._of[key]

    def clear(self, key: int) -> None:
        """Take all members away from under `key`."""
        self._of.pop(key, None)
