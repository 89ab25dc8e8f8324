"""What victim and witness do together.

Each workload has two halves that talk over a line. The witness lives through every point. It tolerates that the victim is
gone in the middle of the conversation, and nothing else: a victim that lives, because somebody else is killed, gets
everything right.

Every word of an array follows from a seed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np

import shmlease
from rig.until import until
from shmlease.client.handle import RegistryHandle
from shmlease.verification import contents

__all__ = ["KEPT", "KIB", "WORDS", "WORKLOADS", "Line", "Workload", "is_sealed", "sealed"]

KIB: Final = 1024
KEPT: Final = "kept"
WORDS: Final = 1500  # nearly three pages


def sealed(seed: int, words: int = WORDS) -> np.ndarray[Any, Any]:
    """An array whose content follows from `seed`."""
    return contents.array_of(seed, words)


def is_sealed(array: np.ndarray[Any, Any], seed: int, words: int = WORDS) -> bool:
    """Whether `array` is what `sealed` made."""
    return array.size == words and not contents.flaw(array, seed)


class Line:
    """A conversation with another process, which may be killed in the middle of it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def say(self, words: str) -> bool:
        """Tell the other; False if it has ended."""
        try:
            self._end.send(words.encode(), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def hear(self) -> str:
        """What the other says; empty if it has ended."""
        try:
            return self._end.recv(4096).decode()
        except ConnectionResetError:
            return ""

    def must_hear(self) -> str:
        """What the other says; it does not end before."""
        words = self.hear()
        assert words, "the other process has ended too early"
        return words

    def wait_for_end(self) -> None:
        """Return when the other has ended."""
        while self.hear():
            pass


Half = Callable[[RegistryHandle, Line], None]


@dataclass(frozen=True)
class Workload:
    """Two halves, the capacity of the registry in bytes, and whether the victim starts it; else the witness does."""

    victim: Half
    witness: Half
    capacity: int = 2048 * KIB
    victim_owns: bool = False

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.victim.__name__.removeprefix("_victim_of_")


# --- lease, publish, attach, release ---------------------------------------------------------------------------------


def _victim_of_hand_over(registry: RegistryHandle, line: Line) -> None:
    with registry.lease("named", shape=WORDS, dtype="i8") as lease:
        lease.array[:] = sealed(1)
        assert lease.segment
        lease.publish()
        line.say("published")
        with registry.attach("named") as reader:
            assert is_sealed(reader.array, 1)
        line.must_hear()


def _witness_of_hand_over(registry: RegistryHandle, line: Line) -> None:
    if not line.hear():
        return
    try:
        with registry.attach("named", timeout=0) as reader:
            line.say("attached")
            line.wait_for_end()
            assert is_sealed(reader.array, 1)
    except (shmlease.SegmentNotFoundError, shmlease.AbandonedError):
        if line.say("not found"):  # the victim lives, so its lease does
            raise


# --- tickets, both ways ----------------------------------------------------------------------------------------------


def _victim_of_ticket(registry: RegistryHandle, line: Line) -> None:
    with registry.share(sealed(2)) as lease:
        line.say(str(lease.ticket()))
    with registry.redeem(line.must_hear()) as reader:
        assert is_sealed(reader.array, 3)


def _witness_of_ticket(registry: RegistryHandle, line: Line) -> None:
    ticket = line.hear()
    if not ticket:
        return
    with registry.redeem(ticket) as reader:  # it outlives its sender
        assert is_sealed(reader.array, 2)
    with registry.share(sealed(3)) as lease:
        line.say(str(lease.ticket()))


# --- segments that are used again, granted ahead, and given back --------------------------------------------------------


def _victim_of_recycling(registry: RegistryHandle, line: Line) -> None:
    del line
    for turn in range(6):
        words = (500, 3000)[turn % 2]
        with registry.share(sealed(turn, words)) as lease, registry.redeem(lease.ticket()) as reader:
            assert is_sealed(reader.array, turn, words)
        if turn == 3:
            registry.trim()


# --- a lease that a forked child uses, alive or orphaned ---------------------------------------------------------------


def _victim_of_forking(registry: RegistryHandle, line: Line) -> None:
    del line
    with registry.share(sealed(6), "inherited") as lease:
        child = os.fork()
        if child == 0:
            _use_inherited(lease)
        os.waitpid(child, 0)
        assert is_sealed(lease.array, 6)


def _use_inherited(lease: shmlease.Lease) -> NoReturn:
    code = 3
    try:
        code = 0 if is_sealed(lease.array, 6) else 4
    except shmlease.LeaseError:  # its parent's lease ended before it could take its own
        code = 0
    finally:
        os._exit(code)


def _wait(registry: RegistryHandle, line: Line) -> None:
    del registry
    line.wait_for_end()


# --- waiting for room ------------------------------------------------------------------------------------------------


def _victim_of_waiting(registry: RegistryHandle, line: Line) -> None:
    line.must_hear()
    line.say("asking")
    with registry.lease(shape=700 * KIB, dtype="u1", timeout=60) as lease:
        lease.array[:] = 7
        assert lease.array.sum() == 7 * 700 * KIB


def _witness_of_waiting(registry: RegistryHandle, line: Line) -> None:
    with registry.lease(shape=700 * KIB, dtype="u1") as hoard:
        hoard.array[:] = 1
        if line.say("full") and line.hear():
            until(lambda: (figures := registry.statistics()).waiting or figures.clients == 1)


# --- the registry's owner, from its start to its end ------------------------------------------------------------------


def _victim_of_closing(registry: RegistryHandle, line: Line) -> None:
    with registry.share(sealed(4), KEPT), registry.share(sealed(5), "mine") as mine:
        line.say("shared")
        line.must_hear()
        assert is_sealed(mine.array, 5)


def _witness_of_closing(registry: RegistryHandle, line: Line) -> None:
    if not line.hear():
        return
    try:
        reader = registry.attach(KEPT, timeout=0)
    except shmlease.LeaseError:
        if line.say("not found"):
            raise
        return
    with reader:
        line.say("attached")
        line.wait_for_end()
        assert is_sealed(reader.array, 4)


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload(_victim_of_hand_over, _witness_of_hand_over),
        Workload(_victim_of_ticket, _witness_of_ticket),
        Workload(_victim_of_recycling, _wait),
        Workload(_victim_of_forking, _wait),
        Workload(_victim_of_waiting, _witness_of_waiting, capacity=1024 * KIB),
        Workload(_victim_of_closing, _witness_of_closing, victim_owns=True),
    )
}
