"""Fair waiting, checked on the wire: who asked for room first is served first, and nobody waits while there is room."""

from __future__ import annotations

import dataclasses

from shmlease.core import messages as m
from shmlease.core.wire import decode_client_packet, decode_registry_packet
from shmlease.errors import ProtocolError
from shmlease.verification.promises import Violation
from simulation.scheduler import Machine, Process

__all__ = ["Queue", "Waiting"]


@dataclasses.dataclass(slots=True)
class Waiting:
    """A request for room that the registry has read and not answered."""

    client: Process
    order: int
    size_bytes: int
    repeated: bool  # asked again after a connection ended: it may have been granted before
    read: int = 0  # as which packet: its request, or that it could not use what it was granted


class Queue:
    """Those who wait for room, in the order in which the registry read their requests."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._arrived = 0
        self._read = self._first_read = 0  # packets: all, and the first since the registry last said something
        self._has_spoken = False
        self._asked: dict[int, Waiting] = {}  # by lease
        self._waiting: dict[tuple[Process, int], Waiting] = {}  # by client and seq
        self._overtaken: list[tuple[Process, tuple[Process, int]]] = []

    def was_read(self, sender: Process, receiver: Process, packet: bytes, is_connected: bool) -> None:
        """`receiver` has read `packet`, perhaps of a connection that has ended: what it asks for may then be granted, and
        asked for again.
        """
        if not receiver.name.startswith("registry") or sender.name == "rogue":
            return
        self.judge()
        self._read += 1
        if self._has_spoken:
            self._first_read, self._has_spoken = self._read, False
        try:
            messages = decode_client_packet(packet)
        except ProtocolError:
            return
        for message in messages:
            if isinstance(message, m.Lease):
                self._arrived += 1
                asked = Waiting(sender, self._arrived, message.size_bytes, message.lease in self._asked, self._read)
                self._asked[message.lease] = asked
                if is_connected:
                    self._waiting[sender, message.seq] = asked
            elif is_connected and isinstance(message, m.Decline) and message.lease in self._asked:
                again = dataclasses.replace(self._asked[message.lease], read=self._read)
                self._waiting[sender, message.seq] = again  # its turn has come already

    def was_sent(self, sender: Process, receiver: Process, packet: bytes) -> None:
        """`sender` has sent `packet`."""
        if not sender.name.startswith("registry"):
            return
        self._has_spoken = True
        for message in decode_registry_packet(packet):
            if isinstance(message, m.Granted | m.Refused):
                mine = self._waiting.pop((receiver, message.seq), None)
                if mine is not None and isinstance(message, m.Granted) and not mine.repeated:
                    earlier = [key for key, other in self._waiting.items() if other.order < mine.order]
                    self._overtaken += [(receiver, key) for key in earlier if self._was_known(self._waiting[key], mine)]

    def _was_known(self, loser: Waiting, winner: Waiting) -> bool:
        """Whether the registry knew that `loser` waits when it decided for `winner`.

        What it reads at once it decides one after another, and answers together.
        """
        return loser.read <= winner.read or loser.read < self._first_read

    def hung_up(self, client: Process) -> None:
        """A connection of `client` has ended: what it asked for over it is void."""
        for key in [key for key in self._waiting if key[0] is client]:
            del self._waiting[key]

    def judge(self) -> None:
        """The registry has said all that it has to say: whoever was overtaken then has a complaint."""
        for winner, key in self._overtaken:
            loser = self._waiting.get(key)
            if loser is not None:
                self._machine.report(
                    f"promise broken: {Violation.UNFAIR}: {winner} was granted room before {loser.client}, which asked for "
                    f"{loser.size_bytes} bytes earlier and still waits"
                )
        self._overtaken.clear()

    def first(self) -> Waiting | None:
        """Who is first in line; None if nobody waits."""
        return min(self._waiting.values(), key=lambda waiting: waiting.order, default=None)
