"""Rogue clients: connections that are silent, send garbage, never read, or ask for what is not theirs."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
from collections.abc import Callable
from typing import Final

from shmlease.core import messages as m
from shmlease.core.wire import encode

__all__ = ["run"]

_GREEDY_REQUESTS: Final = 400
_MOST_AT_ONCE: Final = 8


def _send_nothing(rogue: socket.socket, dice: random.Random) -> None:
    del rogue, dice


def _send_garbage(rogue: socket.socket, dice: random.Random) -> None:
    for _ in range(16):
        rogue.send(dice.randbytes(dice.randrange(1, 4096)))


def _never_read(rogue: socket.socket, dice: random.Random) -> None:
    rogue.send(encode([m.Hello(1, m.PROTOCOL, dice.randbytes(16), 0)]))
    for number in range(_GREEDY_REQUESTS):
        rogue.send(encode([m.Statistics(2 + number)]))


def _ask_for_what_is_not_theirs(rogue: socket.socket, dice: random.Random) -> None:
    rogue.send(encode([m.Hello(1, m.PROTOCOL, dice.randbytes(16), 0)]))
    rogue.send(encode([m.Inherit(2, dice.randrange(2**62), dice.randrange(2**62), ""), m.Trim(3)]))
    rogue.send(encode([m.Expose(4, dice.randrange(2**62)), m.Close(5)]))


_MISBEHAVIOURS: Final[tuple[Callable[[socket.socket, random.Random], None], ...]] = (
    _send_nothing,
    _send_garbage,
    _never_read,
    _ask_for_what_is_not_theirs,
)


def run(path: str, variant: int) -> None:
    """Connect to the registry that listens at `path`, and stay until killed."""
    dice = random.Random(variant)  # noqa: S311 - a schedule, no secret
    rogues = []
    for number in range(1 + variant % _MOST_AT_ONCE):
        rogue = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        rogues.append(rogue)
        with contextlib.suppress(OSError):  # nobody listens for a moment, or it hangs up
            rogue.connect(path)
            _MISBEHAVIOURS[(variant + number) % len(_MISBEHAVIOURS)](rogue, dice)
    signal.pause()
