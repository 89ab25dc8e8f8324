"""The registry's shell reduced to memory: carries out what the lease table decides, and reports back.

Files, aliases and tokens are dictionaries; what was sent to a client is a list. What the operating system could refuse is
refused when `free_bytes` says so.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from shmlease.core import effects as e
from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS, Identity, RegistryRow
from shmlease.core.sizes import file_size
from shmlease.core.snapshot import Snapshot, key_of
from shmlease.core.table import Table

PAGE = 4096
S = 1_000_000_000
SECRET = b"0123456789abcdef"
READ = m.AttachMode.READ

__all__ = ["PAGE", "SECRET", "S", "Shell", "identity"]


def identity(pid: int, start_ticks: int = 7) -> Identity:
    """The identity of an invented process."""
    return Identity(pid, start_ticks, "b007", 1, 1000, f"process {pid}")


class Shell:
    """A lease table together with the world that it believes in."""

    def __init__(
        self,
        capacity_pages: int = 100,
        warm_pages: int = 50,
        warm_idle_s: float = 5.0,
        *,
        owner: Identity | None = None,
        free_pages: int | None = None,
    ) -> None:
        self.row = RegistryRow(
            "r1", identity(1), capacity_pages * PAGE, warm_pages * PAGE, int(warm_idle_s * S), 1, 0, owner
        )
        self.table = Table(self.row)
        self.now = 1000
        self.free_bytes = None if free_pages is None else free_pages * PAGE
        self.files: dict[int, int] = {}
        self.aliases: dict[str, int] = {}
        self.tokens: dict[int, int | None] = {}  # ticket -> the client that renamed it
        self.claimed: set[int] = set()  # spares whose client holds the lock
        self.punched: set[int] = set()
        self.retired: list[int] = []
        self.opened_by_others: set[int] = set()  # segments that the kernel says somebody has open
        self.created: list[int] = []
        self.dropped: list[int] = []
        self.watched: dict[int, Identity] = {}  # ticket -> the process that it is for
        self.stopped = False
        self.inbox: defaultdict[int, list[m.RegistryMessage]] = defaultdict(list)
        self.seq: defaultdict[int, int] = defaultdict(lambda: 1)  # Hello was the first

    def unlink(self, number: int, alias: str) -> None:
        """Take the alias from the segment, if it leads there."""
        if self.aliases.get(alias) == number:
            del self.aliases[alias]

    # --- clients -----------------------------------------------------------------------------------------------------

    def hello(self, pid: int = 0, *, resume: int = 0, secret: bytes = SECRET, start_ticks: int = 7) -> int:
        """A process connects; its client id."""
        client = self.table.hello(
            m.Hello(1, m.PROTOCOL, secret, resume), identity(pid or 1000 + len(self.inbox), start_ticks), self.now
        )
        self.settle()
        return client

    def say(self, client: int, kind: type, *fields: Any) -> int:
        """`client` says a message of `kind`; its sequence number."""
        self.seq[client] += 1
        self.table.apply(client, kind(self.seq[client], *fields), self.now)
        self.settle()
        return self.seq[client]

    def ask(self, client: int, kind: type, *fields: Any) -> Any:
        """The answer to a request, or None if it waits."""
        return self.answer(client, self.say(client, kind, *fields))

    def answer(self, client: int, seq: int) -> Any:
        """What was answered to message `seq`."""
        return next((said for said in self.heard(client) if said.seq == seq), None)

    def heard(self, client: int) -> list[Any]:
        """The answers to `client`, without what is pushed to it."""
        return [said for said in self.inbox[client] if not isinstance(said, m.Spare | m.Forget)]

    def new_id(self, client: int) -> int:
        """An id that `client` has not used."""
        return client << NUMBER_BITS | (self.seq[client] + 1)

    def lease(self, client: int, pages: int = 1, name: str | None = None, timeout_s: float = 0.0, site: str = "") -> Any:
        """`client` asks for a segment: the answer, or None if it waits."""
        return self.ask(
            client, m.Lease, self.new_id(client), name, pages * PAGE, pages * PAGE, b"layout", site, 0, int(timeout_s * S)
        )

    def attach(
        self, client: int, name: str, timeout_s: float = 0.0, mode: m.AttachMode = READ, *, is_patient: bool = False
    ) -> Any:
        """`client` asks for a published segment: the answer, or None if it waits."""
        return self.ask(client, m.Attach, self.new_id(client), name, "", 0, int(timeout_s * S), mode, is_patient)

    def publish(self, client: int, lease: int, readers: int = 0, ttl_s: float = 60.0) -> int:
        """`client` publishes."""
        return self.say(client, m.Publish, lease, readers, self.now + int(ttl_s * S) if readers else 0)

    def mint(self, client: int, lease: int, ttl_s: float = 60.0, receiver: Identity | None = None) -> int:
        """`client` makes a ticket; its id."""
        ticket = self.new_id(client)
        self.tokens[ticket] = None
        self.say(client, m.Mint, lease, ticket, self.now + int(ttl_s * S), "", receiver)
        return ticket

    def redeem(self, client: int, ticket: int) -> int | None:
        """`client` redeems a ticket: its lease, or None if the token is gone."""
        if self.tokens.get(ticket, 0) is not None:
            return None
        self.tokens[ticket] = client
        lease = self.new_id(client)
        self.say(client, m.Redeemed, lease, ticket, "", 0)
        return lease

    def revoke(self, client: int, ticket: int) -> bool:
        """`client` takes a ticket back; whether it still could."""
        if self.tokens.get(ticket, 0) is not None:
            return False
        self.tokens[ticket] = client
        self.say(client, m.Revoked, ticket)
        return True

    def release(self, client: int, lease: int, *, reserved: bool = False) -> int:
        """`client` releases a lease on a segment whose pages it has `reserved`."""
        return self.say(client, m.Release, lease, reserved)

    def spares(self, client: int) -> list[m.Spare]:
        """What was granted ahead to `client` and is still there."""
        return [s for s in self.inbox[client] if isinstance(s, m.Spare) and s.lease in self.table.rows.leases]

    def refusals(self, client: int) -> list[m.Refused]:
        """What was refused to `client`."""
        return [said for said in self.inbox[client] if isinstance(said, m.Refused)]

    # --- the world ---------------------------------------------------------------------------------------------------

    def die(self, client: int) -> None:
        """The process of `client` dies."""
        self.table.holder_died(client, self.now)
        self.settle()

    def end_receiver(self, ticket: int) -> None:
        """The process that `ticket` was made for dies."""
        del self.watched[ticket]
        self.table.receiver_ended(ticket, self.now)
        self.settle()

    def detach(self, client: int) -> None:
        """The connection of `client` ends."""
        self.table.detached(client, self.now)
        self.settle()

    def wait(self, seconds: float) -> None:
        """Time passes, and what is due is done when it is due."""
        end = self.now + int(seconds * S)
        while (due := self.table.next_deadline_ns()) is not None and due <= end:
            self.now = max(self.now, due)
            self.table.tick(self.now)
            self.settle()
        self.now = end

    def take_over(self) -> None:
        """The registry is killed; a successor begins with what the ledger has."""
        snapshot = self.snapshot()
        epoch = self.table.rows.registry.epoch + 1
        self.row = RegistryRow(
            self.row.id,
            identity(epoch),
            self.row.capacity_bytes,
            self.row.warm_limit_bytes,
            self.row.warm_idle_ns,
            epoch,
            self.now,
            self.row.owner,
        )
        self.table = Table(self.row, snapshot, self.now)
        self.settle()

    def snapshot(self) -> Snapshot:
        """The table as a reader of the ledger sees it."""
        return Snapshot.of({key_of(row): row for row in self.table.rows.all_rows()})

    def settle(self) -> None:
        """Carry out the effects, as `shmlease.registry.server.Server.settle` does."""
        table = self.table
        carried_out = 0
        while table.effects or table.wants_to_grant_ahead():
            if table.wants_to_grant_ahead():
                table.grant_ahead(self.now)
            while table.effects:
                self._carry_out(table.effects.popleft())
                carried_out += 1
                assert carried_out < 10_000, "the table does not come to rest"
        table.rows.take_changes()

    def _carry_out(self, effect: e.Effect) -> None:
        table, now = self.table, self.now
        match effect:
            case e.CreateSegment(number, size_bytes):
                free = None if self.free_bytes is None else self.free_bytes - sum(self.files.values())
                if free is not None and size_bytes > free:
                    table.segment_failed(number, "/dev/shm is full", free, now)
                    return
                assert number not in self.files
                self.files[number] = file_size(size_bytes)
                self.created.append(number)
                table.segment_created(number, now)
            case e.RevokeSpare(number, _, _):
                revoked = number not in self.claimed
                if revoked:
                    self.files.pop(number, None)
                table.spare_revoked(effect, revoked, now)
            case e.VoidToken(ticket):
                claimed_by = self.tokens.get(ticket)
                if claimed_by is None:
                    self.tokens.pop(ticket, None)
                table.token_voided(ticket, claimed_by, now)
            case e.LinkAlias(number, alias, _, _):
                self.aliases[alias] = number
                table.aliases.linked(effect, "", now)
            case e.UnlinkAlias(number, alias):
                self.unlink(number, alias)
            case e.WatchReceiver(ticket, receiver):
                self.watched[ticket] = receiver
            case e.UnwatchReceiver(ticket):
                self.watched.pop(ticket, None)
            case e.RetireSegment(number, alias, _, into) if into and number not in self.opened_by_others:
                self.files[into] = self.files.pop(number)
                self.unlink(number, alias)
                table.segment_retired(number, "", now, into)
            case e.RetireSegment(number, alias, punch):
                self.files.pop(number, None)
                self.unlink(number, alias)
                self.retired.append(number)
                if punch:
                    self.punched.add(number)
                table.segment_retired(number, "", now)
            case e.DropToken(ticket, _):
                self.tokens.pop(ticket, None)
            case e.Send(client, message):
                self.inbox[client].append(message)
            case e.DropClient(client):
                self.dropped.append(client)
            case e.Stop():
                self.stopped = True
