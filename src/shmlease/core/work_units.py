"""Units of the registry's work: what a registry can die of, and its successors can refuse to do."""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from shmlease.core import messages as m
from shmlease.core.effects import Effect
from shmlease.core.model import Identity

__all__ = [
    "KIND_BYTES",
    "Unit",
    "detach_unit",
    "effect_unit",
    "end_unit",
    "hello_unit",
    "message_unit",
    "timer_unit",
    "use_unit",
]

KIND_BYTES: Final = 24
_MESSAGE_KINDS: Final = {
    kind: f"message {kind.__name__}" for union in (m.ClientMessage, m.Notice) for kind in get_args(union)
}
_EFFECT_KINDS: Final = {kind: f"effect {kind.__name__}" for kind in get_args(Effect)}
# A process sends Hello again and again until it is answered.
_NO_REQUESTS: Final = frozenset(kind.__name__ for kind in (*m.NOTICES, m.Hello))


class Unit(msgspec.Struct, frozen=True, gc=False):
    """One piece of work: its kind, `KIND_BYTES` of ASCII at most, and what tells it from others of that kind."""

    kind: str
    key: int
    number: int = 0

    @property
    def is_message(self) -> bool:
        """Whether a client has sent it, and can be told that it is refused."""
        return self.kind.startswith("message ")

    @property
    def is_request(self) -> bool:
        """Whether a client waits for the answer, and may ask anew when it is refused."""
        return self.is_message and self.kind.removeprefix("message ") not in _NO_REQUESTS

    def __str__(self) -> str:
        match self.kind.split(" "):
            case ["message", "Hello"]:
                return f"Hello of pid {self.key}"
            case ["message", name]:
                return f"{name} number {self.number} of client {self.key}"
            case ["timer" | "effect", name]:
                return f"{name} {self.key}"
            case _:
                return f"{self.kind} {self.key}"


def message_unit(client: int, message: m.ClientMessage | m.Notice) -> Unit:
    """To apply one message of a client."""
    return Unit(_MESSAGE_KINDS[type(message)], client, message.seq)


def end_unit(client: int) -> Unit:
    """To end a client whose process has died."""
    return Unit("end of client", client)


def detach_unit(client: int) -> Unit:
    """To note that the connection of a client has ended."""
    return Unit("lost client", client)


def hello_unit(identity: Identity) -> Unit:
    """To admit a process."""
    return Unit("message Hello", identity.pid, identity.start_ticks)


def use_unit(client: int) -> Unit:
    """To note what a client did with the spare that it keeps."""
    return Unit("use by client", client)


def timer_unit(kind: str, key: int) -> Unit:
    """To do what has come due."""
    return Unit(f"timer {kind}", key)


def effect_unit(effect: Effect) -> Unit:
    """To carry out what was committed."""
    key = getattr(effect, "segment", 0) or getattr(effect, "ticket", 0) or getattr(effect, "client", 0)
    return Unit(_EFFECT_KINDS[type(effect)], key)
