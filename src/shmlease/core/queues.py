"""Requests that wait: for room, in order of arrival; for a name, until it is published."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from shmlease.core.messages import Attach, Lease

__all__ = ["AttachQueue", "LeaseQueue", "Waiter"]

Request = TypeVar("Request", Lease, Attach)


class Waiter(msgspec.Struct, Generic[Request], eq=False):
    """One request that waits; `not_before_ns` holds back a retry while /dev/shm is short of room."""

    client: int
    request: Request
    since_ns: int
    deadline_ns: int
    not_before_ns: int = 0
    shortage: str = ""
    cancelled: bool = False


class LeaseQueue(deque[Waiter[Lease]]):
    """Requests for room, first come first served."""

    def first(self) -> Waiter[Lease]:
        """The one whose turn it is."""
        return self[0]

    def is_last(self, waiter: Waiter[Lease]) -> bool:
        """Whether `waiter` stands at the end."""
        return bool(self) and self[-1] is waiter

    def put_back(self, waiter: Waiter[Lease]) -> None:
        """Return to the front: its turn came, and the room was not there after all."""
        self.appendleft(waiter)

    def overdue(self, now_ns: int) -> list[Waiter[Lease]]:
        """Those that have waited as long as they wanted to."""
        return [waiter for waiter in self if waiter.deadline_ns <= now_ns]

    def forget(self, client: int) -> None:
        """Remove what `client` asked for."""
        for waiter in [waiter for waiter in self if waiter.client == client]:
            self.remove(waiter)

    def drain(self) -> Iterator[Waiter[Lease]]:
        """Remove and yield all."""
        while self:
            yield self.popleft()


class AttachQueue:
    """Requests for names that are not published yet."""

    def __init__(self) -> None:
        self._waiters: defaultdict[str, list[Waiter[Attach]]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    def __iter__(self) -> Iterator[Waiter[Attach]]:
        return (waiter for waiters in self._waiters.values() for waiter in waiters)

    def append(self, waiter: Waiter[Attach]) -> None:
        """Wait for the name in the request."""
        self._waiters[waiter.request.name].append(waiter)

    def take(self, name: str) -> list[Waiter[Attach]]:
        """Remove and return those that wait for `name`."""
        return self._waiters.pop(name, [])

    def take_overdue(self, now_ns: int) -> list[Waiter[Attach]]:
        """Remove and return those that have waited as long as they wanted to."""
        return self._take([w for w in self if w.deadline_ns <= now_ns])

    def forget(self, client: int) -> None:
        """Remove what `client` asked for."""
        self._take([w for w in self if w.client == client])

    def drain(self) -> list[Waiter[Attach]]:
        """Remove and return all."""
        return self._take(list(self))

    def _take(self, leaving: list[Waiter[Attach]]) -> list[Waiter[Attach]]:
        for waiter in leaving:
            waiters = self._waiters[waiter.request.name]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[waiter.request.name]
        return leaving
