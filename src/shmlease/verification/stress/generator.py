"""What a stress run does, as a function of its seed: which operation each client does next, and what the fault injector
does when.

Operation number k of client c depends on nothing but (seed, c, k), so that a schedule is small: the seed, for each client
the ranges of numbers it goes through, and the list of faults. Leaving out any of them leaves the rest as it was, which is
what lets a failing schedule be shrunk.
"""

from __future__ import annotations

import enum
import random
from typing import Final

import msgspec

from shmlease.verification.faults import Fault, FaultKind

__all__ = ["Operation", "Schedule", "Verb", "fault", "operation"]


class Verb(enum.StrEnum):
    """What a client may do."""

    PRIVATE = "private"  # lease, write, check, release
    HAND_OVER = "hand over"  # share, ticket to another client, release
    CONTEND = "contend"  # the same ticket to two others: one of them gets it
    PUBLISH = "publish"  # by name, held for a while
    PROMISE = "promise"  # by name, for readers to come, released at once
    ATTACH = "attach"  # another's name, held for a while
    VIEW = "view"  # released while a view is alive
    BURST = "burst"  # many small ones at once
    MUTABLE = "mutable"  # lease one that stays mutable, check that it is zeroed, write, release
    DETACH = "detach"  # an array that carries its lease, dropped after a while
    PUT = "put"  # an object, with a ticket to another client
    TAKE_BACK = "take back"  # a ticket that another client has
    WITHDRAW = "withdraw"  # a name, right after it was published
    LOSE = "lose"  # never released, collected
    FORK = "fork"  # a child that uses what its parent holds
    LOOK = "look"  # statistics


_WEIGHTS: Final = {
    Verb.PRIVATE: 14,
    Verb.HAND_OVER: 36,
    Verb.CONTEND: 4,
    Verb.PUBLISH: 12,
    Verb.PROMISE: 5,
    Verb.ATTACH: 18,
    Verb.VIEW: 4,
    Verb.BURST: 3,
    Verb.MUTABLE: 3,
    Verb.DETACH: 4,
    Verb.PUT: 4,
    Verb.TAKE_BACK: 3,
    Verb.WITHDRAW: 2,
    Verb.LOSE: 2,
    Verb.FORK: 0.4,
    Verb.LOOK: 1.6,
}
_VERBS: Final = list(_WEIGHTS)
_CUMULATED: Final = [sum(list(_WEIGHTS.values())[: index + 1]) for index in range(len(_WEIGHTS))]
SLOTS: Final = 3  # names a client may publish under
_SMALLEST_WORDS: Final = 8


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """One operation of one client. `peer` and `other` are distances to other clients; `hold` counts operations."""

    verb: Verb
    words: int  # of 8 bytes
    slot: int
    peer: int
    other: int
    hold: int
    variant: int


def operation(seed: int, client: int, number: int, clients: int, most_words: int) -> Operation:
    """Operation `number` of `client` among `clients`, on arrays of at most `most_words` words."""
    dice = random.Random(f"{seed}/{client}/{number}")  # noqa: S311 - a schedule, no secret
    verb = dice.choices(_VERBS, cum_weights=_CUMULATED)[0]
    # as many of each order of magnitude: small ones stress the protocol, large ones the capacity
    words = int(_SMALLEST_WORDS * (most_words / _SMALLEST_WORDS) ** dice.random() ** 1.5)
    peer = dice.randrange(1, clients) if clients > 1 else 0
    return Operation(
        verb, words, dice.randrange(SLOTS), peer, dice.randrange(clients), dice.choice((0, 0, 1, 3, 10)), dice.randrange(60)
    )


def fault(seed: int, number: int, kinds: tuple[FaultKind, ...], previous_s: float, every_s: float) -> Fault:
    """Fault `number`, some time after the previous one."""
    dice = random.Random(f"{seed}/fault injector/{number}")  # noqa: S311 - a schedule, no secret
    kind = kinds[number % len(kinds)] if number < len(kinds) else dice.choice(kinds)  # each at least once
    gap_s = min(dice.expovariate(1 / every_s), 4 * every_s)
    return Fault(kind, dice.randrange(1024), dice.randrange(1024), dice.choice((0.01, 0.05, 0.2, 0.5)), previous_s + gap_s)


class Schedule(msgspec.Struct, frozen=True):
    """A run that can be run again."""

    seed: int
    capacity_bytes: int
    ranges: dict[int, list[tuple[int, int]]]  # client -> operations from, to (exclusive)
    faults: list[Fault] = []

    @property
    def operations(self) -> int:
        """How many operations there are in all."""
        return sum(end - start for ranges in self.ranges.values() for start, end in ranges)
