"""What calls have left to be settled: leases that have ended, calls that were interrupted, views that have died.

Any call on the link settles what is left, and a thread does it where no call may come for a while: `attend` after the end
of a lease of which views are alive, `sweep_soon` after an interrupted call.
"""

from __future__ import annotations

import contextlib
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from shmlease.client.arrays import Anchor
from shmlease.client.endpoint import Spawn
from shmlease.client.hold import Hold, Watch
from shmlease.errors import LeaseError

__all__ = ["LooseEnds"]


class LooseEnd(Protocol):
    """What can be settled; an exception may end `settle` early, and it is then called again."""

    def settle(self) -> None: ...


class LooseEnds:
    """The loose ends of one link.

    Parameters
    ----------
    spawn : Spawn
        Starts a thread; None where there is only one.

    Attributes
    ----------
    queue : deque
        What is to be settled. Anybody may append at any moment, a signal handler and the garbage collector as well.
    lingering : dict
        By lease: what has ended for its user, while views of it are alive.
    """

    def __init__(self, spawn: Spawn) -> None:
        self.queue: deque[LooseEnd] = deque()
        self.lingering: dict[int, Hold] = {}
        self._spawn = spawn
        self._deaths: SimpleQueue[Any] = SimpleQueue()  # watches; None ends the thread that attends to them
        self._on_death: Callable[[Any], None] = self._settle_now if spawn is None else self._deaths.put
        self._is_attended = False

    def settle(self) -> None:
        """Settle them all. The link's lock is held."""
        queue = self.queue
        if not self._deaths.empty():
            with contextlib.suppress(Empty):
                queue.extend(map(SimpleQueue.get_nowait, (self._deaths,)))
        while queue:
            queue[0].settle()
            queue.popleft()

    def watch(self, anchor: Anchor, hold: Hold) -> Watch:
        """See to it that `hold` is settled when `anchor` has died."""
        watch = Watch(anchor, self._on_death)
        watch.hold = hold
        return watch

    def attend(self, settle: Callable[[], None]) -> None:
        """From now on a thread sees to deaths at once, though this process may be idle; else the next call does.

        `settle` is the link's.
        """
        if not self._is_attended and self._spawn is not None:
            with contextlib.suppress(RuntimeError):  # no thread is to be had
                self._spawn(self._attend, (self._deaths, settle))
                self._is_attended = True

    def sweep_soon(self, sweep: Callable[[], None]) -> None:
        """Have a thread see to what an interrupted call has left: no signal handler runs there."""
        if self._spawn is not None:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: the next call does it
                self._spawn(_swept, (sweep,))

    def drop(self) -> None:
        """The registry has ended, and everything with it."""
        self.queue.clear()
        self.lingering.clear()
        self._deaths.put(None)

    def _attend(self, deaths: SimpleQueue[Any], settle: Callable[[], None]) -> None:
        while (watch := deaths.get()) is not None:
            self.queue.append(watch)
            settle()

    def _settle_now(self, watch: Watch) -> None:
        self.queue.append(watch)
        watch.hold.link.settle()


def _swept(sweep: Callable[[], None]) -> None:
    with contextlib.suppress(LeaseError, OSError):  # the next call does it
        sweep()
