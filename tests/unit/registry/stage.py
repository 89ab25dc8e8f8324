"""A server on a stage: a real lease table, a store on the heap, a ledger in memory, a clock that stands still.

Everything that the server does to the world is written down in one list, in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from rig.shell import PAGE, SECRET, S, identity
from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS, EventKind, Identity, RegistryRow, Row
from shmlease.core.table import Table
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.core.work_units import Unit
from shmlease.registry.quarantine import Quarantine
from shmlease.registry.server import Server
from shmlease.system.descriptors import Descriptors
from shmlease.testing.memory_ledger import MemoryLedger
from shmlease.testing.memory_store import MemoryStore
from shmlease.testing.memory_transport import FakeClock

__all__ = ["PAGE", "SECRET", "S", "Stage"]

CHANGES = {
    "create_segment",
    "retire_segment",
    "link_alias",
    "unlink_alias",
    "revoke_spare",
    "void_token",
    "drop_token",
    "create_notice_log",
    "drop_notice_log",
    "remove_entry",
    "commit",
    "compact",
    "send",
    "drop",
    "stop",
}


class _Watched:
    """Stands before something: writes down what is done to it, and fails where `failures` says so."""

    def __init__(self, thing: Any, history: list[tuple[Any, ...]]) -> None:
        self.thing = thing
        self.failures: dict[str, list[OSError]] = defaultdict(list)  # operation -> what its next calls raise
        self._history = history

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.thing, name)
        if name not in CHANGES:
            return attribute

        def act(*arguments: Any, **options: Any) -> Any:
            self._history.append((name, *arguments))
            if self.failures[name]:
                raise self.failures[name].pop(0)
            return attribute(*arguments, **options)

        return act


class _Store(MemoryStore):
    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.free: int | None = None
        self.unreserved: dict[int, int] = {}
        self.aliases: dict[str, int] = {}

    def free_bytes(self) -> int:
        return super().free_bytes() if self.free is None else self.free

    def unreserved_bytes(self, number: int) -> int:
        return self.unreserved.get(number, 0)

    def link_alias(self, number: int, alias: str, nbytes: int = 0) -> None:
        self.aliases[alias] = number

    def unlink_alias(self, number: int, alias: str) -> None:
        del self.aliases[alias]


class _Ledger(MemoryLedger):
    def __init__(self) -> None:
        super().__init__()
        self.room = True
        self.room_after_compaction = False
        self.is_long = False
        self.compacted_to: list[Row] = []

    def has_room(self) -> bool:
        return self.room

    def wants_compaction(self) -> bool:
        return self.is_long

    def compact(self, rows: Iterable[Row]) -> None:
        self.compacted_to, self.is_long = list(rows), False
        self.room = self.room or self.room_after_compaction


class _Transport:
    def __init__(self) -> None:
        self.packets: list[tuple[int, list[m.RegistryMessage]]] = []
        self.waiting: list[int] = []  # clients with packets unread
        self.descriptors_now = Descriptors(10, 1024)
        self.receivers: dict[int, Identity] = {}
        self.ended: set[int] = set()  # pids

    def send(self, client: int, packet: bytes) -> None:
        self.packets.append((client, decode_registry_packet(packet)))

    def unread(self) -> list[int]:
        return self.waiting

    def descriptors(self) -> Descriptors:
        return self.descriptors_now

    def drop(self, client: int) -> None: ...

    def watch_receiver(self, ticket: int, receiver: Identity) -> bool:
        self.receivers[ticket] = receiver
        return receiver.pid not in self.ended

    def unwatch_receiver(self, ticket: int) -> None:
        self.receivers.pop(ticket, None)

    def stop(self) -> None: ...


class _Work:
    """Remembers what was in hand, as long as its stage is."""

    is_full = False

    def __init__(self, left: _Work | None) -> None:
        self.in_hand: list[Unit] = []
        self.suspects: dict[Unit, int] = {} if left is None else dict(left.suspects)
        for unit in () if left is None else dict.fromkeys(left.in_hand):
            self.suspects[unit] = self.suspects.get(unit, 0) + 1

    def begin(self, unit: Unit) -> None:
        self.in_hand.append(unit)

    def clear(self) -> None:
        self.in_hand.clear()


class Stage:
    """A server and the world that it acts on."""

    def __init__(self, capacity_pages: int = 100, *, owner: Identity | None = None, left: Stage | None = None) -> None:
        self.history: list[tuple[Any, ...]] = []
        self.files = _Store() if left is None else left.files
        self.store = _Watched(self.files, self.history)
        self.clock = FakeClock() if left is None else left.clock
        self.log = _Ledger()
        self.ledger = _Watched(self.log, self.history)
        self.wire = _Transport()
        self.transport = _Watched(self.wire, self.history)
        self.row = RegistryRow(
            "r1", identity(1), capacity_pages * PAGE, capacity_pages * PAGE, 5 * S, 1, self.clock.now_ns(), owner
        )
        snapshot = None if left is None else left.log.snapshot()
        self.table = Table(self.row, snapshot, self.clock.now_ns())
        self.log.commit(list(self.table.rows.all_rows()))
        self.work = _Work(None if left is None else left.work)
        quarantine = Quarantine(self.work, self.clock)
        self.server = Server(self.table, self.store, self.ledger, self.transport, self.clock, quarantine)
        self.server.settle()
        self.history.clear()
        self._seq = 100 if left is None else left._seq

    @property
    def rows(self) -> Any:
        return self.table.rows

    # --- what clients do ---------------------------------------------------------------------------------------------

    def hello(self, pid: int = 1000, *, secret: bytes = SECRET, resume: int = 0) -> int:
        """A process connects: its client id."""
        admitted = self.knock(encode([m.Hello(self._next(), m.PROTOCOL, secret, resume)]), pid)
        assert isinstance(admitted, int), admitted
        return admitted

    def knock(self, packet: bytes, pid: int = 1000) -> int | m.RegistryMessage:
        """A process sends its first packet: its client id, or the refusal."""
        answer = self.server.hello(packet, identity(pid))
        self.server.settle()
        return answer if isinstance(answer, int) else decode_registry_packet(answer)[0]

    def resume(self, client: int, pid: int = 1000, *, secret: bytes = SECRET) -> int | m.RegistryMessage:
        """A process connects and says that it is `client`."""
        return self.knock(encode([m.Hello(self._next(), m.PROTOCOL, secret, client)]), pid)

    def ask(self, client: int, kind: type, *fields: Any) -> Any:
        """`client` asks: the answer, or None if there is none yet."""
        message = kind(self._next(), *fields)
        self.receive(client, encode([message]))
        return self.answer(client, message.seq)

    def receive(self, client: int, packet: bytes) -> None:
        """A packet of `client` comes in."""
        self.server.received(client, packet)
        self.server.settle()

    def lease(self, client: int, name: str | None = None, pages: int = 1, timeout_s: float = 0.0) -> Any:
        """`client` asks for a segment."""
        lease = client << NUMBER_BITS | self._seq + 1
        return self.ask(client, m.Lease, lease, name, pages * PAGE, pages * PAGE, b"", "here", 0, int(timeout_s * S))

    def attach(self, client: int, name: str, timeout_s: float = 0.0) -> Any:
        """`client` asks to read."""
        return self.ask(client, m.Attach, client << NUMBER_BITS | self._seq + 1, name, "here", 0, int(timeout_s * S))

    def share(self, client: int, name: str | None = None, pages: int = 1) -> Any:
        """`client` leases and publishes: its grant."""
        granted = self.lease(client, name, pages)
        self.write(client, m.Publish, granted.lease, 0, 0)
        self.ask(client, m.Ping)
        return granted

    def write(self, client: int, kind: type, *fields: Any) -> int:
        """`client` writes a notice to its notice log and does not ring: its number."""
        notice = kind(self._next(), *fields)
        assert self.files.open_notice_log(client).append(notice)
        return notice.seq

    def mint(self, client: int, lease: int, ttl_s: float = 60.0) -> int:
        """`client` makes a ticket, and does not ring."""
        ticket = client << NUMBER_BITS | self._seq + 1
        self.files.mint_token(ticket)
        self.write(client, m.Mint, lease, ticket, self.clock.now_ns() + int(ttl_s * S), "there")
        return ticket

    def redeem(self, client: int, ticket: int) -> int:
        """`client` redeems a ticket, and does not ring: its lease."""
        assert self.files.claim_token(ticket, client)
        lease = client << NUMBER_BITS | self._seq + 1
        self.write(client, m.Redeemed, lease, ticket, "elsewhere", 0)
        return lease

    # --- the world ---------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the server does what has come due."""
        self.clock.wait_s(seconds)
        self.server.tick()
        self.server.settle()

    def die(self, client: int) -> None:
        """The process of `client` dies."""
        self.server.died(client)
        self.server.settle()

    def succeed(self, dead: Iterable[int] = ()) -> Stage:
        """The registry is killed; its successor, on what it left."""
        successor = Stage(owner=self.row.owner, left=self)
        successor.server.recover(dead)
        return successor

    # --- what came of it ---------------------------------------------------------------------------------------------

    def heard(self, client: int) -> list[Any]:
        """All that was sent to `client`."""
        return [message for to, messages in self.wire.packets if to == client for message in messages]

    def answer(self, client: int, seq: int) -> Any:
        """What was answered to request `seq`."""
        return next((message for message in self.heard(client) if getattr(message, "seq", 0) == seq), None)

    def deeds(self, during: Callable[[], object]) -> list[str]:
        """What the server does to the world during a call, in order."""
        self.history.clear()
        during()
        return [name for name, *_ in self.history]

    def states(self) -> list[str]:
        """The states of all segments, by number."""
        return [str(self.rows.segments[number].state) for number in sorted(self.rows.segments)]

    def events(self) -> list[EventKind]:
        """What the event log has."""
        return [event.kind for event in self.rows.events.values()]

    def entries(self) -> set[tuple[str, int, int | None]]:
        """What lies in the store."""
        return set(self.files.entries())

    def _next(self) -> int:
        self._seq += 1
        return self._seq
