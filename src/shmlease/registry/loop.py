"""The registry's event loop: sockets, pidfds and time, and nothing that blocks."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from shmlease.core.messages import MAX_PACKET_BYTES
from shmlease.core.model import Identity
from shmlease.errors import PermissionDeniedError
from shmlease.registry.death_watch import OWNER, DeathWatch
from shmlease.registry.receivers import Receivers
from shmlease.registry.server import Server
from shmlease.system import syscalls
from shmlease.system.clock import Clock
from shmlease.system.descriptors import Descriptors, descriptors_of
from shmlease.system.identity import identify, peer_of, pidfd_of_peer, require_same_user, unseen_identity

__all__ = ["ACCEPT_WITH", "Loop"]

# A client that has this many packets unread is dropped: it may come back and resume when it reads again.
_BACKLOG: Final = 256
_HELLO_WITHIN_NS: Final = 5_000_000_000
_MAX_STRANGERS: Final = 256
# Accepting takes a socket, a pidfd, and for a moment what /proc is read through; as many again for the work of that turn.
ACCEPT_WITH: Final = 6
# Accepting fails with these when descriptors or memory are short: the listener is left alone until something was let go.
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# How often the loop looks whether it is still to serve: whoever removes a registry's directory tells nobody.
_LOOK_S: Final = 1.0
# epoll counts milliseconds in an int: a ticket that lives for a month would be refused as a timeout.
_LONGEST_WAIT_S: Final = 3600.0


class _Connection(msgspec.Struct):
    socket: socket.socket
    identity: Identity
    pidfd: int
    client: int = 0  # 0 until it has said hello
    since_ns: int = 0
    outgoing: deque[bytes] = msgspec.field(default_factory=deque)


class Loop:
    """Serves `server` on `listener` until it is stopped; the server's transport."""

    def __init__(self, listener: socket.socket, clock: Clock) -> None:
        self.server: Server
        self._clock = clock
        self._listener = listener
        self._epoll = syscalls.epoll()
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._by_client: dict[int, _Connection] = {}
        self._deaths = DeathWatch(self._epoll)
        self._receivers = Receivers(self._epoll)
        self._running = True
        self._accepting = True
        self._may_go_on: Callable[[], bool] | None = None
        self._wake_r, self._wake_w = syscalls.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_r, select.EPOLLIN)

    # --- set-up --------------------------------------------------------------------------------------------------

    def stop_on(self, *signals: int) -> None:
        """End in order when one of `signals` arrives."""
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)  # whoever started this process may have blocked them
        for number in signals:
            signal.signal(number, lambda *_: self.stop())

    def watch_owner(self, owner: Identity) -> None:
        """Tell the server when the process that it works for has ended."""
        if not self._deaths.find(OWNER, owner):
            self.server.table.owner_ended(self._clock.now_ns())

    def watch_client(self, client: int, identity: Identity) -> bool:
        """Watch over a client of a predecessor until it comes back; False if it is dead."""
        return self._deaths.find(client, identity)

    def end_unless(self, may_go_on: Callable[[], bool]) -> None:
        """End within a second of when `may_go_on` has become false."""
        self._may_go_on = may_go_on

    # --- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stopped."""
        self.server.settle()
        looked_ns = self._clock.now_ns()
        while self._running:
            # what a descriptor is of is noted first: closed and given to another within this turn, it says nothing of that
            # one
            ready = [
                (fd, self._connections.get(fd), self._deaths.client_of(fd))
                for fd, _ in self._epoll.poll(self._patience_s())
            ]
            if not self._accepting:
                self._accept_again()
            for fd, connection, client in ready:
                if connection is not None:
                    if self._connections.get(fd) is connection:
                        self._read(connection)
                elif client is not None:
                    if self._deaths.client_of(fd) == client:
                        self._deaths.discard(client)  # it will not die again
                        self._died(client)
                elif fd in self._receivers:
                    for ticket in self._receivers.ended(fd):
                        self.server.table.receiver_ended(ticket, self._clock.now_ns())
                elif fd == self._listener.fileno():
                    self._accept()
                elif fd == self._wake_r:
                    syscalls.read(self._wake_r, 4096)
            self.server.tick()
            self.server.settle()
            if self._may_go_on is not None and self._clock.now_ns() - looked_ns >= _LOOK_S * 1e9:
                looked_ns = self._clock.now_ns()
                self._running = self._running and self._may_go_on()

    def close(self) -> None:
        """Let go of every connection."""
        for connection in list(self._connections.values()):
            connection.socket.close()
            if connection.pidfd >= 0:
                syscalls.close(connection.pidfd)
        self._deaths.close()
        self._receivers.close()
        self._listener.close()
        self._epoll.close()

    def _died(self, client: int) -> None:
        if client == OWNER:
            self.server.table.owner_ended(self._clock.now_ns())
        else:
            self.server.died(client)

    def _patience_s(self) -> float:
        deadline_ns = self.server.next_deadline_ns()
        patience = _LONGEST_WAIT_S if self._may_go_on is None else _LOOK_S
        if deadline_ns is not None:
            patience = min(max((deadline_ns - self._clock.now_ns()) / 1e9, 0.0), patience)
        if len(self._connections) > len(self._by_client):
            patience = min(patience, 1.0)
            self._turn_away_the_silent()
        return patience if self._accepting else min(patience, 1.0)

    def _accept(self) -> None:
        strangers = len(self._connections) - len(self._by_client)
        if strangers >= _MAX_STRANGERS or (strangers and self._is_short_of_descriptors()):
            # the one that has been silent longest goes: whoever means it says hello at once
            self._hang_up(next(c for c in self._connections.values() if not c.client))
        if self._is_short_of_descriptors():
            self._stop_accepting()
            return
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._stop_accepting()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        accepted.setblocking(False)
        pidfd = -1
        try:
            pid, uid = peer_of(accepted)
            require_same_user(uid, f"the client with pid {pid}")
            pidfd = pidfd_of_peer(accepted, pid)
            identity = identify(pid) if pid else unseen_identity(uid)
        except (PermissionDeniedError, OSError):  # another user, or dead already
            if pidfd >= 0:
                syscalls.close(pidfd)
            accepted.close()
            return
        connection = _Connection(accepted, identity, pidfd, since_ns=self._clock.now_ns())
        self._connections[accepted.fileno()] = connection
        self._epoll.register(accepted.fileno(), select.EPOLLIN)

    def _is_short_of_descriptors(self) -> bool:
        in_use, limit = descriptors_of()
        return limit - in_use < ACCEPT_WITH

    def _stop_accepting(self) -> None:
        """Let newcomers wait: to be woken for each of them again and again would help nobody."""
        self._accepting = False
        self._epoll.unregister(self._listener.fileno())

    def _accept_again(self) -> None:
        if not self._is_short_of_descriptors():
            self._accepting = True
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        """One packet: most who send one wait for the answer, and whoever has sent more has another turn."""
        if connection.outgoing:
            self._flush(connection)
        packet = self._receive(connection)
        if packet is not None:
            if connection.client:
                self.server.received(connection.client, packet)
            else:
                self._admit(connection, packet)

    def _receive(self, connection: _Connection) -> bytes | None:
        """The next packet; None if there is none, or no more will come."""
        try:
            packet = connection.socket.recv(MAX_PACKET_BYTES + 1)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if packet:
            return packet
        self._hang_up(connection)
        if connection.client:
            self.server.disconnected(connection.client)
        return None

    def _admit(self, connection: _Connection, packet: bytes) -> None:
        answer = self.server.hello(packet, connection.identity)
        if isinstance(answer, bytes):
            try:
                connection.socket.send(answer)
            except OSError:
                pass  # it did not wait for the answer
            self._hang_up(connection)
            return
        stale = self._by_client.get(answer)
        if stale is not None:
            self._hang_up(stale)
        connection.client = answer
        self._by_client[answer] = connection
        if connection.pidfd >= 0:
            if answer in self._deaths:
                syscalls.close(connection.pidfd)
            else:
                self._deaths.add(answer, connection.pidfd)
        connection.pidfd = -1

    def _hang_up(self, connection: _Connection) -> None:
        fd = connection.socket.fileno()
        if fd < 0:
            return
        self._epoll.unregister(fd)
        del self._connections[fd]
        if self._by_client.get(connection.client) is connection:
            del self._by_client[connection.client]
        if connection.pidfd >= 0:
            syscalls.close(connection.pidfd)
        connection.socket.close()

    def _turn_away_the_silent(self) -> None:
        latest_ns = self._clock.now_ns() - _HELLO_WITHIN_NS
        for connection in [c for c in self._connections.values() if not c.client and c.since_ns < latest_ns]:
            self._hang_up(connection)

    def _flush(self, connection: _Connection) -> None:
        while connection.outgoing:
            try:
                connection.socket.send(connection.outgoing[0])
            except BlockingIOError:
                return
            except OSError:
                break  # its end shows as end of file
            connection.outgoing.popleft()
        self._epoll.modify(connection.socket.fileno(), select.EPOLLIN)

    # --- the server's transport ----------------------------------------------------------------------------------

    def send(self, client: int, packet: bytes) -> None:
        """Send, or keep for later; a client with too much unread is dropped."""
        connection = self._by_client.get(client)
        if connection is None:
            return
        if not connection.outgoing:
            try:
                connection.socket.send(packet)
                return
            except BlockingIOError:
                self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
            except OSError:
                return  # its end shows as end of file
        connection.outgoing.append(packet)
        if len(connection.outgoing) > _BACKLOG:
            self._hang_up(connection)
            self.server.disconnected(client, f"{_BACKLOG} packets unread: the client was dropped and may resume")

    def unread(self) -> list[int]:
        """Clients whose packets lie in their sockets."""
        ready = (self._connections.get(fd) for fd, _ in self._epoll.poll(0))
        return [connection.client for connection in ready if connection is not None and connection.client]

    def descriptors(self) -> Descriptors:
        """The descriptors of this process."""
        return descriptors_of()

    def drop(self, client: int) -> None:
        """Forget a client that has ended, or hang up on one that broke the protocol."""
        connection = self._by_client.get(client)
        if connection is not None:
            self._hang_up(connection)
        if self.server.table.clients.has_ended(client):
            self._deaths.discard(client)

    def watch_receiver(self, ticket: int, receiver: Identity) -> bool:
        """Tell the table when the process that `ticket` was made for has ended; False if it has."""
        return self._receivers.watch(ticket, receiver)

    def unwatch_receiver(self, ticket: int) -> None:
        """The ticket has ended."""
        self._receivers.unwatch(ticket)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False
