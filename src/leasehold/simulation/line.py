"""Fair waiting, checked on the wire: who asked for room first is served first, and nobody waits while there is room."""

from __future__ import annotations

from leasehold.core import messages as m
from leasehold.core.wire import decode_client_packet, decode_registry_packet
from leasehold.errors import ProtocolError
from leasehold.simulation.strands import Machine, Process

__all__ = ["Line"]


class Line:
    """Those who wait for room, in the order in which the registry read their requests."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._arrived = 0
        self._order_of: dict[int, int] = {}  # lease id -> when it was first asked for
        self._waiting: dict[tuple[Process, int], tuple[int, int]] = {}  # (client, seq) -> (order, bytes)

    def was_read(self, sender: Process, receiver: Process, packet: bytes) -> None:
        """`receiver` has read `packet`."""
        if not receiver.name.startswith("registry"):
            return
        try:
            messages = decode_client_packet(packet)
        except ProtocolError:
            return
        for message in messages:
            if isinstance(message, m.Lease):
                if message.lease in self._order_of:  # asked again: it may have been granted already
                    continue
                self._arrived += 1
                self._order_of[message.lease] = self._arrived
                self._waiting[sender, message.seq] = (self._arrived, message.size_bytes)
            elif isinstance(message, m.Decline) and message.lease in self._order_of:
                self._waiting[sender, message.seq] = (self._order_of[message.lease], 0)

    def was_sent(self, sender: Process, receiver: Process, packet: bytes) -> None:
        """`sender` has sent `packet`."""
        if not sender.name.startswith("registry"):
            return
        for message in decode_registry_packet(packet):
            if isinstance(message, m.Granted | m.Refused):
                mine = self._waiting.pop((receiver, message.seq), None)
                if mine is not None and isinstance(message, m.Granted):
                    for (other, _), (order, size_bytes) in self._waiting.items():
                        if order < mine[0] and size_bytes:
                            self._machine.fail(
                                f"promise broken: {receiver} was granted room before {other}, which asked for {size_bytes} "
                                "bytes earlier and still waits"
                            )

    def hung_up(self, client: Process) -> None:
        """A connection of `client` has ended: what it asked for over it is void."""
        for key in [key for key in self._waiting if key[0] is client]:
            del self._waiting[key]

    def first(self) -> tuple[Process, int] | None:
        """Who is first in line, and the bytes it wants; None if nobody waits."""
        if not self._waiting:
            return None
        (client, _), (_, size_bytes) = min(self._waiting.items(), key=lambda item: item[1][0])
        return client, size_bytes
