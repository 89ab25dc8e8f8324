"""What registries die of is not tried a third time.

Rules:

* Each unit of work is noted in shared memory before it is begun, until all that came of it has been carried out.
* What is noted when a registry begins, its predecessor was at when it died: these units are suspects. While there are some,
  units are carried out one at a time, so that the next death names the one that it was.
* A unit that two registries died of is refused: of an exception, or of a signal such as SIGSEGV.
* A registry that was killed without a word may have been killed by somebody, or by the kernel for a lack of memory that a
  request has brought about. Requests are suspects then as well: they are refused with words, and can be asked anew. Notices
  and deaths are not: what they report must not be lost because somebody killed two registries.
"""

from __future__ import annotations

from typing import Final, Protocol

from shmlease.core.work_units import Unit
from shmlease.system.clock import Clock

__all__ = ["Quarantine", "Work", "is_suspect"]

_DEATHS_ALLOWED: Final = 2
# A suspect may never come again, for its client is dead as well: one unit at a time for a minute, not for ever.
_CAREFUL_NS: Final = 60_000_000_000


def is_suspect(unit: Unit, has_failed: bool) -> bool:
    """Whether `unit` is to blame, which was in hand when a registry ended, of itself (`has_failed`) or without a word."""
    return has_failed or unit.is_request


class Work(Protocol):
    """Where what is in hand is noted: see `shmlease.system.work_log.WorkLog`."""

    suspects: dict[Unit, int]

    @property
    def is_full(self) -> bool: ...

    def begin(self, unit: Unit) -> None: ...
    def clear(self) -> None: ...


class Quarantine:
    """Lets units of work through, but for those that registries have died of.

    Attributes
    ----------
    is_settled_first : bool
        Whether what is in hand must be carried out before another unit is begun.
    """

    def __init__(self, work: Work | None, clock: Clock) -> None:
        self._work = work
        self._clock = clock
        self._suspects = {} if work is None else dict(work.suspects)
        self._careful_until_ns = clock.now_ns() + _CAREFUL_NS
        self._in_hand: list[Unit] = []
        self.is_settled_first = False

    @property
    def last(self) -> Unit | None:
        """The unit that was begun last, if it was not settled."""
        return self._in_hand[-1] if self._in_hand else None

    def begin(self, unit: Unit) -> bool:
        """Work on `unit` begins; False if it must not, for two registries have died of it."""
        if self._suspects and self._suspects.get(unit, 0) >= _DEATHS_ALLOWED:
            return False
        if self._work is not None:
            self._in_hand.append(unit)
            self._work.begin(unit)
            is_careful = bool(self._suspects) and self._clock.now_ns() < self._careful_until_ns
            self.is_settled_first = is_careful or self._work.is_full
        return True

    def settled(self) -> None:
        """Everything that was begun has been carried out: no suspect among it is to blame."""
        if self._in_hand and self._work is not None:
            for unit in self._in_hand if self._suspects else ():
                self._suspects.pop(unit, None)
            self._in_hand.clear()
            self._work.clear()
            self.is_settled_first = False
