"""A process of the same user that does not keep to the protocol: it may harm itself, and nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from shmlease.client.endpoint import Connection
from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.errors import LeaseError
from simulation.scheduler import Process
from simulation.world import World

__all__ = ["Rogue"]

_HUGE: Final = 2**63 - 1
_LAYOUT: Final = b"no layout at all"


class Rogue:
    """One such process; what it says is well formed, malformed, repeated, about others, or about nothing.

    It does not redeem tickets of others: whoever has a ticket may, and any process of this user can read the tokens.
    """

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.random = world.machine.random
        self.endpoint = world.endpoint()
        self.client = 0
        self.seq = 1

    def live(self) -> None:
        """Connect and misbehave, again and again, until calm."""
        machine = self.world.machine
        while not self.world.calm and self.endpoint.exists():
            with contextlib.suppress(OSError, LeaseError):
                connection = self.endpoint.connection()
                connection.open()
                self._greet(connection)
                for _ in range(self.random.randrange(1, 30)):
                    if self.world.calm:  # at rest, what it has left while it lived would be looked for in vain
                        break
                    self.random.choice(_ACTS)(self, connection)
                connection.close()
            machine.wait_s(self.random.choice((0.001, 0.02)))

    def _greet(self, connection: Connection) -> None:
        connection.send(encode([m.Hello(1, m.PROTOCOL, bytes(16), self.random.choice((0, self.client, 1)))]))
        connection.receive(wait=True)
        for packet in filter(None, connection.inbox):
            for message in decode_registry_packet(packet):
                if isinstance(message, m.Welcome):
                    self.client = message.client
        connection.inbox.clear()

    # --- what it does ----------------------------------------------------------------------------------------------------

    def send_garbage(self, connection: Connection) -> None:
        """Bytes that mean nothing."""
        connection.send(self.random.randbytes(self.random.choice((1, 3, 40, 3000))))

    def send_requests(self, connection: Connection) -> None:
        """Requests that nobody would make."""
        connection.send(encode([self._request() for _ in range(self.random.randrange(1, 5))]))

    def write_notices(self, connection: Connection) -> None:
        """Notices that nobody would write, and a Ring."""
        notice_log = self.endpoint.open_notice_log(self.client)
        for _ in range(self.random.randrange(1, 6)):
            notice_log.append(self._notice())
        connection.send(encode([m.Ring(self._next())]))

    def receive(self, connection: Connection) -> None:
        """Read what was answered, now and then."""
        connection.receive(wait=bool(self.random.getrandbits(1)))
        connection.inbox.clear()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self.seq += self.random.choice((0, 1, 1, 5))
        return self.seq

    def _id(self) -> int:
        client = self.random.choice((self.client, self.client, self.random.randrange(12)))
        spare = self.random.choice((0, 0, 1 << NUMBER_BITS - 1))
        return client << NUMBER_BITS | spare | self.random.randrange(40)

    def _request(self) -> m.ClientMessage:
        seq, lease = self._next(), self._id()
        size, wait = self.random.choice((0, 1, 4096, 8192, _HUGE)), self.random.choice((0, 0, 5_000_000, _HUGE))
        return self.random.choice(
            (
                m.Lease(seq, lease, self.random.choice((None, "odd", "north")), size, _HUGE, _LAYOUT, "", 0, wait),
                m.Attach(seq, lease, self.random.choice(("odd", "even")), "", _HUGE, wait),
                m.Inherit(seq, lease, self._id(), ""),
                m.Redeem(seq, self._id()),
                m.Decline(seq, lease, wait),
                m.Expose(seq, lease),
                m.Statistics(seq),
                m.Ping(seq),
                m.Hello(seq, m.PROTOCOL, bytes(16), 0),
            )
        )

    def _notice(self) -> m.Notice:
        seq, lease = self._next(), self._id()
        deadline_ns = self.random.choice((0, self.world.machine.now_ns() + 5_000_000))
        return self.random.choice(
            (
                m.Claim(seq, lease, _HUGE, _LAYOUT, "", 0, bool(self.random.getrandbits(1))),
                m.Publish(seq, lease, self.random.choice((0, 3)), deadline_ns),
                m.Mint(seq, lease, self._id(), deadline_ns, ""),
                m.Redeemed(seq, lease, self.client << NUMBER_BITS | self.random.randrange(40), "", 0),
                m.Linger(seq, lease),
                m.Release(seq, lease),
                m.Share(seq, lease),
                m.Bye(seq),
            )
        )


_ACTS: Final[tuple[Callable[[Rogue, Connection], None], ...]] = (
    Rogue.send_garbage,
    Rogue.send_requests,
    Rogue.send_requests,
    Rogue.write_notices,
    Rogue.write_notices,
    Rogue.receive,
)
