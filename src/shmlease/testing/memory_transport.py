"""A registry without a process: its server is called by whoever sends it something, on a clock that waits for nobody."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Final

from shmlease.client.endpoint import Connection, NoticeWriter, Spawn
from shmlease.core.model import Identity, RegistryRow
from shmlease.core.settings import NewRegistry
from shmlease.core.snapshot import Snapshot
from shmlease.core.table import Table
from shmlease.errors import RegistryUnavailableError
from shmlease.registry.server import Server
from shmlease.system.clock import Clock
from shmlease.system.descriptors import Descriptors
from shmlease.system.identity import own_identity
from shmlease.system.mapping import Mapping
from shmlease.testing.memory_ledger import MemoryLedger
from shmlease.testing.memory_store import MemoryClaim, MemoryStore

__all__ = ["FakeClock", "MemoryEndpoint", "MemoryTransport"]

_START_NS: Final = 1_000_000_000_000
# How long one wait for a packet lasts before the caller looks at its own deadline.
_PATIENCE_NS: Final = 1_000_000_000


class FakeClock:
    """A clock on which time passes when somebody waits, or says so."""

    def __init__(self) -> None:
        self._now_ns = _START_NS

    def now_ns(self) -> int:
        """The time."""
        return self._now_ns

    def wait_s(self, seconds: float) -> None:
        """Let `seconds` pass, at once."""
        self.advance_to(self._now_ns + int(seconds * 1e9))

    def advance_to(self, now_ns: int) -> None:
        """Let time pass until `now_ns`; it does not go back."""
        self._now_ns = max(now_ns, self._now_ns)


class _MemoryConnection:
    """A connection that is a pair of queues; the server sees what was sent before `send` returns, or soon after."""

    def __init__(self, host: MemoryTransport) -> None:
        self._host = host
        self.client = 0  # until it has said hello
        self.sent: deque[bytes] = deque()  # by the server
        self.inbox: deque[bytes] = deque()
        self.closed = False

    def open(self) -> None:
        if self._host.stopped:
            raise ConnectionRefusedError("the registry in memory has ended")

    def send(self, packet: bytes) -> None:
        if self.closed or os.getpid() != self._host.pid:
            raise BrokenPipeError("the registry in memory has hung up")
        self._host.post(self, packet)

    def receive(self, *, wait: bool) -> None:
        until_ns = self._host.clock.now_ns() + _PATIENCE_NS
        while not self.sent and not self.closed:
            if not wait or self._host.clock.now_ns() >= until_ns:
                return
            self._host.wait_for(self, until_ns)
        if self.sent:
            self.inbox.extend(map(deque.popleft, (self.sent,)))
        else:
            self.inbox.append(b"")

    def close(self) -> None:
        self._host.hang_up(self)


class MemoryTransport:
    """Runs a server; its transport.

    One thread at a time is in the server; another that posts meanwhile leaves its packet to that one, and so does the
    garbage collector when it releases a lease in the middle of the server's work.
    """

    def __init__(self, id: str, new: NewRegistry, clock: Clock) -> None:
        self.clock = clock
        self.pid = os.getpid()
        self.directory = MemoryStore(new.capacity_bytes)
        row = RegistryRow(
            id,
            own_identity(),
            new.capacity_bytes,
            new.warm_limit_bytes,
            int(new.warm_idle_s * 1e9),
            1,
            clock.now_ns(),
            new.owner,
        )
        self.ledger = MemoryLedger()
        self.server = Server(Table(row, None, clock.now_ns()), self.directory, self.ledger, self, clock)
        self.stopped = False
        self._posted: deque[tuple[_MemoryConnection, bytes | None]] = deque()
        self._connections: dict[int, _MemoryConnection] = {}  # by client
        self.receivers: dict[int, Identity] = {}  # ticket -> the process that it was made for
        self._serving = threading.Lock()
        self._changed = threading.Condition()

    # --- what clients do ---------------------------------------------------------------------------------------------

    def connection(self) -> Connection:
        """A connection to the server."""
        return _MemoryConnection(self)

    def post(self, connection: _MemoryConnection, packet: bytes) -> None:
        """Hand over a packet."""
        self._posted.append((connection, packet))
        self._serve()

    def hang_up(self, connection: _MemoryConnection) -> None:
        """A client closes its connection."""
        if not connection.closed:
            connection.closed = True
            self._posted.append((connection, None))
            self._serve()

    def wait_for(self, connection: _MemoryConnection, until_ns: int) -> None:
        """Let time pass until something may have come for `connection`, or until `until_ns`."""
        deadline_ns = self.server.next_deadline_ns()
        next_ns = until_ns if deadline_ns is None else min(deadline_ns, until_ns)
        if isinstance(self.clock, FakeClock):
            self.clock.advance_to(next_ns)
        else:
            with self._changed:
                if not connection.sent and not connection.closed:
                    self._changed.wait(max(next_ns - self.clock.now_ns(), 0) / 1e9)
        self._serve(tick=True)

    def pass_time(self, until_ns: int) -> None:
        """Let the registry live until `until_ns`, deadline by deadline."""
        assert isinstance(self.clock, FakeClock)
        while (deadline_ns := self.server.next_deadline_ns()) is not None and deadline_ns <= until_ns:
            self.clock.advance_to(deadline_ns)
            self._serve(tick=True)
        self.clock.advance_to(until_ns)
        self._serve(tick=True)

    def client_died(self, client: int) -> None:
        """The process of `client` is dead."""
        with self._serving:
            self.server.died(client)
            self.server.settle()
        self._wake_all()
        self._serve()  # what was posted meanwhile

    def end_receiver(self, pid: int) -> None:
        """Process `pid`, which tickets were made for, is dead."""
        with self._serving:
            for ticket in [ticket for ticket, receiver in self.receivers.items() if receiver.pid == pid]:
                self.server.table.receiver_ended(ticket, self.clock.now_ns())
            self.server.settle()
        self._wake_all()

    # --- the server's transport ---------------------------------------------------------------------------------------

    def send(self, client: int, packet: bytes) -> None:
        """Put a packet into the queue of a client."""
        connection = self._connections.get(client)
        if connection is not None:
            connection.sent.append(packet)

    def unread(self) -> list[int]:
        """Clients that have posted something that was not handed over."""
        return [connection.client for connection, _ in list(self._posted) if connection.client]

    def descriptors(self) -> Descriptors:
        """None is taken for a client."""
        return Descriptors(0, 1 << 20)

    def drop(self, client: int) -> None:
        """Close the connection of a client."""
        connection = self._connections.pop(client, None)
        if connection is not None:
            connection.closed = True

    def watch_receiver(self, ticket: int, receiver: Identity) -> bool:
        """Watch nobody: `end_receiver` tells."""
        self.receivers[ticket] = receiver
        return True

    def unwatch_receiver(self, ticket: int) -> None:
        """The ticket has ended."""
        self.receivers.pop(ticket, None)

    def stop(self) -> None:
        """End the registry after this turn."""
        self.stopped = True

    # --- parts -----------------------------------------------------------------------------------------------------------

    def _serve(self, *, tick: bool = False) -> None:
        while (self._posted or tick) and not self.stopped and self._serving.acquire(blocking=False):
            try:
                tick = False
                while self._posted:
                    self._take(*self._posted.popleft())
                self.server.tick()
                self.server.settle()
                if self.stopped:
                    self._end()
            finally:
                self._serving.release()
            self._wake_all()

    def _wake_all(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take(self, connection: _MemoryConnection, packet: bytes | None) -> None:
        if packet is None:
            if self._connections.get(connection.client) is connection:
                del self._connections[connection.client]
                self.server.disconnected(connection.client)
        elif connection.client:
            self.server.received(connection.client, packet)
        else:
            answer = self.server.hello(packet, own_identity())
            if isinstance(answer, bytes):
                connection.sent.append(answer)
                connection.closed = True
            else:
                connection.client = answer
                stale = self._connections.get(answer)
                if stale is not None:
                    stale.closed = True
                self._connections[answer] = connection

    def _end(self) -> None:
        """As the registry process ends."""
        table = self.server.table
        if not table.rows.registry.closing:
            table.ending.close(self.clock.now_ns())
        self.server.settle()
        self.directory.remove()
        for connection in self._connections.values():
            connection.closed = True


class MemoryEndpoint:
    """A registry in memory, as a client reaches it."""

    spawn: Spawn = None

    def __init__(self, host: MemoryTransport, id: str) -> None:
        self.id = id
        self.clock = host.clock
        self.host = host

    def exists(self) -> bool:
        """Whether the registry has not ended.

        Raises
        ------
        RegistryUnavailableError
            This is a forked child: it has a copy of the registry, which nobody else would see.
        """
        if os.getpid() != self.host.pid:
            raise RegistryUnavailableError(
                f"registry {self.id} lives in the memory of pid {self.host.pid}, and this is pid {os.getpid()}; "
                "a test of several processes needs a shmlease.Registry",
                registry=self.id,
            )
        return not self.host.stopped

    def connection(self) -> Connection:
        """A connection to the server."""
        return self.host.connection()

    def succeed(self) -> None:
        """Nothing to do: it does not die before its process."""

    def snapshot(self) -> Snapshot | None:
        """The table as it is."""
        return self.host.ledger.snapshot()

    def limits(self) -> None:
        """None: no other process could start it."""

    def open_notice_log(self, client: int) -> NoticeWriter:
        """The notice log of `client`."""
        return self.host.directory.open_notice_log(client)

    def map(self, segment: int, size_bytes: int, *, writable: bool, private: bool, reserve: bool) -> Mapping:
        """The memory of a segment."""
        del reserve
        return self.host.directory.map(segment, size_bytes, writable=writable, private=private)

    def link_alias(self, segment: int, alias: str, nbytes: int) -> None:
        """See `MemoryStore.link_alias`."""
        self.host.directory.link_alias(segment, alias, nbytes)

    def has_alias(self, segment: int, alias: str) -> bool:
        """False: nothing has an alias here."""
        del segment, alias
        return False

    def unlink_alias(self, segment: int, alias: str) -> None:
        """See `MemoryStore.unlink_alias`."""
        self.host.directory.unlink_alias(segment, alias)

    def new_claim(self) -> MemoryClaim:
        """A claim for `claim_spare`."""
        return self.host.directory.new_claim()

    def claim_spare(self, segment: int, generation: int, claim: MemoryClaim) -> bool:
        """See `RegistryDirectory.claim_spare`."""
        return self.host.directory.claim_spare(segment, generation, claim)

    def claim_again(self, generation: int, claim: MemoryClaim) -> bool:
        """See `RegistryDirectory.claim_again`."""
        return self.host.directory.claim_again(generation, claim)

    def let_go(self, generation: int, claim: MemoryClaim) -> bool:
        """See `RegistryDirectory.let_go`."""
        return self.host.directory.let_go(generation, claim)

    def mint_token(self, ticket: int, minted: list[None]) -> None:
        """See `RegistryDirectory.mint_token`."""
        self.host.directory.mint_token(ticket, minted)

    def void_token(self, ticket: int) -> int | None:
        """See `RegistryDirectory.void_token`."""
        return self.host.directory.void_token(ticket)

    def has_token(self, ticket: int) -> bool:
        """See `RegistryDirectory.has_token`."""
        return self.host.directory.has_token(ticket)

    def claim_token(self, ticket: int, client: int, claimed: list[None]) -> bool:
        """See `RegistryDirectory.claim_token`."""
        return self.host.directory.claim_token(ticket, client, claimed)

    def close(self) -> None:
        """Nothing is kept open."""
