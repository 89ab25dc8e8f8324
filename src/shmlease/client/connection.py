"""A connection to the registry process over a socket of packets."""

from __future__ import annotations

import _socket as socket  # not the module of that name, where gevent puts its own
import contextlib
import errno
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from shmlease.core.messages import MAX_PACKET_BYTES
from shmlease.interrupts import is_from_handler
from shmlease.system import syscalls
from shmlease.system.identity import peer_of, require_same_user
from shmlease.system.owned_descriptor import file_of

__all__ = ["SocketConnection"]

# How long one wait on the socket lasts before the caller looks at its deadline.
_PATIENCE_S: Final = 1
_TIMEVAL: Final = struct.Struct("@ll")


class SocketConnection:
    """A connection over a socket of which the descriptor is looked at before each use.

    A program may close every descriptor, and open files and sockets of its own under the same numbers.
    """

    def __init__(self, path: str, explained: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.inbox: deque[bytes] = deque()
        self._path = path
        self._explained = explained
        self._made: list[socket.socket] = []
        self._file = (0, 0)

    def open(self) -> None:
        with self._explained():
            self._open()

    def _open(self) -> None:
        # made and kept in one: closing it is not left to a finalizer when an interrupt comes between
        self._made.extend(map(syscalls.socket, (socket.AF_UNIX,), (socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC,)))
        made = self._made[0]
        self._file = file_of(made.fileno())
        made.setblocking(True)  # whatever the program has set as the default
        # timeouts of the kernel's, so that a receive that finds something takes one system call
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            made.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(_PATIENCE_S, 0))
        made.connect(self._path)
        pid, uid = peer_of(made)
        require_same_user(uid, f"the registry at {self._path}, pid {pid},")

    def send(self, packet: bytes) -> None:
        self._own_socket().send(packet)

    def receive(self, *, wait: bool) -> None:
        try:
            receive = self._own_socket().recv
            self.inbox.extend(map(receive, (MAX_PACKET_BYTES,), (0 if wait else socket.MSG_DONTWAIT,)))
        except OSError as error:
            if is_from_handler(error):
                raise
            if not isinstance(error, BlockingIOError):
                self.inbox.append(b"")

    def close(self) -> None:
        for made in self._made:
            if self._file == (0, 0) or self._is_own(made):
                made.close()
            else:
                made.detach()

    def _own_socket(self) -> socket.socket:
        made = self._made[0]
        if file_of(made.fileno()) != self._file:
            raise OSError(errno.EBADF, "the connection to the registry was closed by somebody else")
        return made

    def _is_own(self, made: socket.socket) -> bool:
        try:
            return file_of(made.fileno()) == self._file
        except OSError as error:
            if is_from_handler(error):
                raise
            return False
