"""Who is there: clients come, lose their connection, resume, end; and the owner, for whom an embedded registry runs."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.dead_holders import end_leases_of
from shmlease.core.effects import DropClient
from shmlease.core.leases import Leases
from shmlease.core.model import ClientRow, ClientState, EventKind, Identity, LeaseState, Mark
from shmlease.core.outbox import Outbox
from shmlease.core.prefetch import Prefetch
from shmlease.core.refusals import Refusal, closing_refusal
from shmlease.core.rows import Rows

__all__ = ["Clients"]


class Clients:
    """Admits clients and ends them, with all that they hold."""

    def __init__(
        self,
        rows: Rows,
        outbox: Outbox,
        leases: Leases,
        prefetch: Prefetch,
        forget_requests: Callable[[int], None],
    ) -> None:
        self._rows = rows
        self._outbox = outbox
        self._leases = leases
        self._prefetch = prefetch
        self._forget_requests = forget_requests
        self.owner_has_ended = False

    def hello(self, message: m.Hello, identity: Identity, now_ns: int) -> int:
        """Admit a client, or let one resume; see `Table.hello`."""
        registry = self._rows.registry
        if message.protocol != m.PROTOCOL:
            raise Refusal(
                m.RefusalCode.PROTOCOL,
                f"client speaks protocol {message.protocol}, this registry {m.PROTOCOL}; "
                "use the same version of shmlease on both sides",
            )
        client = self._resume(message, identity, now_ns) if message.resume else self._admit(message, identity, now_ns)
        welcome = m.Welcome(
            message.seq,
            client,
            self._rows.applied.get(client, 0),
            registry.id,
            registry.epoch,
            registry.identity.pid,
            registry.capacity_bytes,
        )
        self._outbox.send(client, welcome)
        self._prefetch.resend(client)
        return client

    def _resume(self, message: m.Hello, identity: Identity, now_ns: int) -> int:
        row = self._rows.clients.get(message.resume)
        if row is None or row.secret != message.secret or not _is_of(row, identity):
            raise Refusal(m.RefusalCode.RESUME, f"there is no client {message.resume} that this process could resume")
        self._forget_requests(row.id)
        known = row.identity if row.identity.pid else identity
        self._rows.put(replace(row, identity=known, state=ClientState.CONNECTED, since_ns=now_ns))
        return row.id

    def _admit(self, message: m.Hello, identity: Identity, now_ns: int) -> int:
        rows = self._rows
        if rows.registry.closing:
            raise closing_refusal(rows.registry)
        # a process whose welcome was lost says hello once more: it is no other client
        unwelcomed = (row.id for row in rows.clients.values() if row.secret == message.secret and _is_of(row, identity))
        client = next(unwelcomed, 0) or rows.next_number(Mark.CLIENT)
        rows.put(ClientRow(client, identity, message.secret, ClientState.CONNECTED, now_ns))
        self._outbox.counters["clients"] += 1
        return client

    def detached(self, client: int, now_ns: int, reason: str) -> None:
        """The connection of `client` ended; its process is not proved dead, so its leases stay."""
        row = self._rows.clients.get(client)
        if row is None or row.state is not ClientState.CONNECTED:
            return
        self._forget_requests(client)
        self._rows.put(replace(row, state=ClientState.DETACHED, since_ns=now_ns))
        if reason:
            self._rows.record(now_ns, EventKind.CLIENT_DROPPED, client=client, detail=reason)

    def died(self, client: int, now_ns: int) -> None:
        """The process of `client` is proved dead: everything it held ends, tainted."""
        row = self._rows.clients.get(client)
        if row is None or row.state is ClientState.ENDED:
            return
        end_leases_of(row, self._rows, self._outbox, self._leases, now_ns)
        self._end(row)

    def bye(self, client: int, message: m.Bye, now_ns: int) -> None:
        """`client` leaves in order; its process lives, and may keep what it has mapped."""
        del message
        for lease_id in sorted(self._rows.leases_of[client]):
            lease = self._rows.leases[lease_id]
            if lease.state is not LeaseState.RESERVED:
                self._leases.expose(lease.segment)
            self._leases.end(lease, now_ns)
        self._end(self._rows.clients[client])

    def has_ended(self, client: int) -> bool:
        """Whether `client` is dead or gone."""
        row = self._rows.clients.get(client)
        return row is None or row.state is ClientState.ENDED

    def all_have_ended(self) -> bool:
        """Whether nobody is left."""
        return all(client.state is ClientState.ENDED for client in self._rows.clients.values())

    def restore(self, now_ns: int) -> None:
        """After a takeover: nobody is connected yet."""
        for row in list(self._rows.clients.values()):
            if row.state is ClientState.CONNECTED:
                self._rows.put(replace(row, state=ClientState.DETACHED, since_ns=now_ns))

    def _end(self, row: ClientRow) -> None:
        rows = self._rows
        self._forget_requests(row.id)
        self._prefetch.client_ended(row.id)
        rows.put(replace(row, state=ClientState.ENDED))
        rows.drop_client_if_unneeded(row.id)
        self._outbox.add(DropClient(row.id))
        owner = rows.registry.owner
        if owner is not None and owner.is_surely(row.identity):
            self.owner_has_ended = not any(
                other.state is not ClientState.ENDED and other.identity.may_be(row.identity)
                for other in rows.clients.values()
            )


def _is_of(client: ClientRow, identity: Identity) -> bool:
    """Whether `client` is of that very process, and has not ended."""
    # seen from other namespaces the same process has another pid, or none, and another start time; its secret remains
    return client.state is not ClientState.ENDED and client.identity.may_be(identity)
