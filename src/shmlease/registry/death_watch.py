"""Process descriptors of those whose death the registry must learn of: its clients, and its owner."""

from __future__ import annotations

import select
from typing import Final

from shmlease.core.model import Identity
from shmlease.system import syscalls
from shmlease.system.identity import watch

__all__ = ["OWNER", "DeathWatch"]

OWNER: Final = 0  # in place of a client's number, which is never 0


class DeathWatch:
    """Each client, and `OWNER`, has at most one pidfd here, which `epoll` finds readable when that process has died."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._clients: dict[int, int] = {}  # by pidfd
        self._pidfds: dict[int, int] = {}  # by client

    def __contains__(self, client: int) -> bool:
        return client in self._pidfds

    def __len__(self) -> int:
        return len(self._pidfds)

    def client_of(self, descriptor: int) -> int | None:
        """Whose death `descriptor` tells of; None if it is no pidfd of these."""
        return self._clients.get(descriptor)

    def find(self, client: int, identity: Identity) -> bool:
        """Watch over the process `identity`, unless it cannot be seen from here; False if it is dead."""
        pidfd = watch(identity)
        if pidfd is None:
            return False
        if pidfd >= 0:
            self.add(client, pidfd)
        return True

    def add(self, client: int, pidfd: int) -> None:
        """Watch over `client`, whose `pidfd` is closed from here."""
        self._clients[pidfd] = client
        self._pidfds[client] = pidfd
        self._epoll.register(pidfd, select.EPOLLIN)

    def discard(self, client: int) -> None:
        """Watch no longer."""
        pidfd = self._pidfds.pop(client, None)
        if pidfd is not None:
            self._epoll.unregister(pidfd)
            del self._clients[pidfd]
            syscalls.close(pidfd)

    def close(self) -> None:
        """Close all pidfds."""
        for pidfd in self._clients:
            syscalls.close(pidfd)
