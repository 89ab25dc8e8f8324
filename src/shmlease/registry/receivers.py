"""Processes that tickets were made for, or that keep names: each is watched through one pidfd."""

from __future__ import annotations

import select
from typing import Final

from shmlease.core.model import Identity
from shmlease.system import syscalls
from shmlease.system.identity import watch

__all__ = ["Receivers"]


# Processes without a ticket that are still watched: to open and check a pidfd takes as long as all else about a ticket,
# and most processes that were sent one ticket are sent another.
_KEPT: Final = 8


class Receivers:
    """Which tickets end with which process; `epoll` finds the pidfd of one that has died readable."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._pidfd_of: dict[tuple[int, int], int] = {}  # pid and start time -> pidfd
        self._tickets: dict[int, set[int]] = {}  # pidfd -> tickets
        self._receiver_of: dict[int, Identity] = {}  # ticket -> process
        self._idle: dict[int, tuple[int, int]] = {}  # pidfd -> process, of those without a ticket

    def __contains__(self, fd: int) -> bool:
        return fd in self._tickets

    def watch(self, ticket: int, receiver: Identity) -> bool:
        """Begin; False if that process has ended. One that cannot be seen from here is not watched, and counts as alive."""
        pidfd = self._pidfd_of.get(_key(receiver))
        if pidfd is None:
            try:
                pidfd = watch(receiver)
            except OSError:  # no descriptor is left, say: the ticket still has its deadline
                pidfd = -1
            if pidfd is None:
                return False
            if pidfd < 0:
                return True
            self._pidfd_of[_key(receiver)] = pidfd
            self._tickets[pidfd] = set()
            self._epoll.register(pidfd, select.EPOLLIN)
        self._idle.pop(pidfd, None)
        self._tickets[pidfd].add(ticket)
        self._receiver_of[ticket] = receiver
        return True

    def unwatch(self, ticket: int) -> None:
        """The ticket has ended."""
        receiver = self._receiver_of.pop(ticket, None)
        if receiver is None:
            return
        pidfd = self._pidfd_of[_key(receiver)]
        self._tickets[pidfd].discard(ticket)
        if not self._tickets[pidfd]:
            self._idle[pidfd] = _key(receiver)
            if len(self._idle) > _KEPT:
                self._forget(next(iter(self._idle)))

    def ended(self, pidfd: int) -> list[int]:
        """That process has ended: its tickets, which nobody is watched for any more."""
        tickets = sorted(self._tickets[pidfd])
        for ticket in tickets:
            self.unwatch(ticket)
        self._forget(pidfd)
        return tickets

    def close(self) -> None:
        """Watch nobody any more."""
        for ticket in list(self._receiver_of):
            self.unwatch(ticket)
        for pidfd in list(self._idle):
            self._forget(pidfd)

    def _forget(self, pidfd: int) -> None:
        """Close the descriptor of a process for which there is no ticket; nothing, if that is done already."""
        key = self._idle.pop(pidfd, None)
        if key is not None:
            del self._tickets[pidfd], self._pidfd_of[key]
            self._epoll.unregister(pidfd)
            syscalls.close(pidfd)


def _key(receiver: Identity) -> tuple[int, int]:
    return receiver.pid, receiver.start_ticks
