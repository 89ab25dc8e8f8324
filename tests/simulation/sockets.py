"""Sockets, process descriptors and epoll of simulated processes, as unix(7) has them for SOCK_SEQPACKET.

What one end has sent is in the other's queue at once, and stays in order; when somebody gets to read it is another matter:
that is where packets are late, and overtake those on other connections. An end that is closed with packets unread resets
the other, which learns that before it reads what was sent to it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from shmlease.system.identity import SO_PEERPIDFD
from simulation.files import Files, ignore
from simulation.processes import Pidfd
from simulation.scheduler import Machine, Process

__all__ = ["SocketCalls"]

_SECOND_NS: Final = 1_000_000_000


class SocketCalls:
    """The calls of `shmlease.system.syscalls` that make sockets and wait for them.

    Attributes
    ----------
    queue_packets : int
        How many packets an end takes in before its sender must wait.
    on_sent, on_read : callable
        Told of each packet: who sends it, who reads it, and what it is.
    on_hung_up : callable
        Told whose connection has ended.
    after_wait : callable
        Called when a process has waited for a packet; what it raises, the process meets.
    """

    def __init__(self, machine: Machine, files: Files) -> None:
        self.machine = machine
        self.files = files
        self.queue_packets = 256
        self.on_sent: Callable[[Process, Process, bytes], None] = ignore
        self.on_read: Callable[[Process, Process, bytes, bool], None] = ignore
        self.on_hung_up: Callable[[Process], None] = ignore
        self.after_wait: Callable[[], None] = ignore
        self.connections: list[_Socket] = []  # their clients' ends

    def socket(self, family: int, kind: int) -> _Socket:
        del family
        made = _Socket(self, self.machine.current.process, nonblocking=bool(kind & socket.SOCK_NONBLOCK))
        made.descriptor = self.files.register(made)
        return made

    server_socket = socket

    def epoll(self) -> _Epoll:
        return _Epoll(self.machine, self.files)

    def poll(self) -> _Poll:
        return _Poll(self.files)

    def sever(self, end: _Socket) -> None:
        """End a connection under both ends; what is in its queues is lost, or not."""
        for side in (end, end.peer):
            if side is not None:
                if self.machine.random.getrandbits(1):
                    side.inbox.clear()
                side.severed = True
        self.on_hung_up(end.owner)


class _Socket:
    """One end of a connection, or a listener."""

    def __init__(self, calls: SocketCalls, owner: Process, *, nonblocking: bool) -> None:
        self._calls = calls
        self._machine = calls.machine
        self._nonblocking = nonblocking
        self._timeout_ns: int | None = None
        self.owner = owner
        self.descriptor = -1
        self.peer: _Socket | None = None
        self.inbox: deque[bytes] = deque()
        self.backlog: deque[_Socket] = deque()
        self.is_reset = self.severed = self.closed = False

    # --- what epoll asks -------------------------------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        return bool(self.inbox or self.backlog or self.is_reset or self.severed or (self.peer and self.peer.closed))

    @property
    def writable(self) -> bool:
        peer = self.peer
        return peer is None or peer.closed or self.severed or len(peer.inbox) < self._calls.queue_packets

    # --- calls -----------------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return -1 if self.closed else self.descriptor

    def setblocking(self, flag: bool) -> None:
        self._nonblocking = not flag

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        del level, value
        if option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._timeout_ns = _SECOND_NS

    def getsockopt(self, level: int, option: int, size_bytes: int = 0) -> int | bytes:
        del level
        assert self.peer is not None
        process = self.peer.owner
        if option == SO_PEERPIDFD:
            return self._calls.files.register(Pidfd(process))
        return struct.pack("3i", process.identity.pid, process.identity.uid, 0)[:size_bytes]

    def bind(self, path: str) -> None:
        self._machine.step()
        try:
            with open(path, "x", encoding="ascii") as file:
                file.write(str(self.descriptor))
        except FileExistsError:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None

    def listen(self, backlog: int) -> None:
        del backlog

    def connect(self, path: str) -> None:
        self._machine.step()
        with open(path, encoding="ascii") as file:
            listener = self._calls.files.simulated.get(int(file.read()))
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        other = _Socket(self._calls, listener.owner, nonblocking=True)
        other.peer = self
        self.peer = other
        listener.backlog.append(other)
        self._calls.connections.append(self)

    def accept(self) -> tuple[_Socket, None]:
        self._machine.step()
        if not self.backlog:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        accepted = self.backlog.popleft()
        accepted.descriptor = self._calls.files.register(accepted)
        return accepted, None

    def send(self, packet: bytes) -> int:
        self._step()
        peer = self.peer
        if not self.writable:
            if self._nonblocking:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._machine.wait(lambda: self.writable, self._timeout_ns)
            if not self.writable:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if peer is None or peer.closed or self.severed:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        peer.inbox.append(packet)
        self._calls.on_sent(self.owner, peer.owner, packet)
        return len(packet)

    def recv(self, size_bytes: int, flags: int = 0) -> bytes:
        self._step()
        if not self.readable:
            if not (self._nonblocking or flags & socket.MSG_DONTWAIT):
                self._machine.wait(lambda: self.readable, self._timeout_ns)
                self._calls.after_wait()
            if not self.readable:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self.is_reset:
            self.is_reset = False
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if not self.inbox:
            return b""
        packet = self.inbox.popleft()[:size_bytes]
        if self.peer is not None:
            self._calls.on_read(self.peer.owner, self.owner, packet, not (self.severed or self.peer.closed))
        return packet

    def _step(self) -> None:
        self._machine.step()
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def close(self) -> None:
        if not self.closed:
            self._machine.step()
            self._calls.files.forget(self.descriptor)
            self.die()

    def detach(self) -> int:
        """Forget the descriptor: what is behind it is somebody else's by now."""
        self.closed = True
        return self.descriptor

    def die(self) -> None:
        """Close, as the kernel does for a process that ended."""
        if self.closed:
            return
        self.closed = True
        for waiting in self.backlog:
            waiting.die()
        peer = self.peer
        if peer is not None:
            if self.inbox:
                peer.is_reset = True
            client = self if self in self._calls.connections else peer
            if client in self._calls.connections:
                self._calls.connections.remove(client)
                self._calls.on_hung_up(client.owner)


class _Epoll:
    """Says what is ready, in any order, and not always all of it."""

    def __init__(self, machine: Machine, files: Files) -> None:
        self._machine = machine
        self._things = files.simulated
        self._masks: dict[int, int] = {}

    def register(self, descriptor: int, mask: int) -> None:
        if descriptor in self._masks:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._masks[descriptor] = mask

    def modify(self, descriptor: int, mask: int) -> None:
        self.unregister(descriptor)
        self._masks[descriptor] = mask

    def unregister(self, descriptor: int) -> None:
        if self._masks.pop(descriptor, None) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def close(self) -> None:
        self._masks.clear()

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        self._machine.wait(lambda: any(map(self._events, self._masks)), int(timeout_s * 1e9))
        ready = [(descriptor, events) for descriptor in self._masks if (events := self._events(descriptor))]
        random = self._machine.random
        if len(ready) > 1:
            random.shuffle(ready)
            if random.getrandbits(1):
                del ready[random.randrange(1, len(ready)) :]
        return ready

    def _events(self, descriptor: int) -> int:
        thing, mask = self._things.get(descriptor), self._masks[descriptor]
        if thing is None:  # closed, and so forgotten by the kernel
            return 0
        return (mask & select.EPOLLIN if thing.readable else 0) | (mask & select.EPOLLOUT if thing.writable else 0)


class _Poll:
    """Says what is ready, without waiting."""

    def __init__(self, files: Files) -> None:
        self._things = files.simulated
        self._masks: dict[int, int] = {}

    def register(self, descriptor: int, mask: int) -> None:
        self._masks[descriptor] = mask

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        assert timeout_ms == 0
        return [(fd, mask & select.POLLIN) for fd, mask in self._masks.items() if self._things[fd].readable]
