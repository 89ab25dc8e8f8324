"""Clocks. The registry and the client take theirs as an argument, so that tests and simulations can turn the hands."""

from __future__ import annotations

import os
import time
from typing import Final, Protocol

from shmlease.system.forks import after_fork_in_child
from shmlease.system.primitives import sleep

__all__ = ["Clock", "SystemClock"]

_INITIAL_TIME_NAMESPACE: Final = "time:[4026531834]"  # PROC_TIME_INIT_INO of linux/proc_ns.h


class Clock(Protocol):
    """Tells the time and waits."""

    def now_ns(self) -> int:
        """Nanoseconds of a clock that all processes of this boot share and that never goes back."""
        ...

    def wait_s(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class SystemClock:
    """CLOCK_MONOTONIC of the machine, also where this process has a time namespace of its own.

    Deadlines stand in the lease table, and are judged by a registry that another process has started.
    """

    def now_ns(self) -> int:
        """Nanoseconds since boot, without the time suspended."""
        return time.monotonic_ns() - _offset_ns

    def wait_s(self, seconds: float) -> None:
        """Sleep."""
        sleep(seconds)


def _offset_of_namespace() -> int:
    """What this process's CLOCK_MONOTONIC is ahead of the machine's (time_namespaces(7)).

    The offsets that /proc tells are of the namespace that children will be in. Where that is another than this process's
    own, and its own is not the first one, they cannot be known, and count as none.
    """
    try:
        own, childrens = os.readlink("/proc/self/ns/time"), os.readlink("/proc/self/ns/time_for_children")
        if own == _INITIAL_TIME_NAMESPACE or own != childrens:
            return 0
        with open("/proc/self/timens_offsets", encoding="ascii") as file:
            offsets = {name: int(seconds) * 1_000_000_000 + int(ns) for name, seconds, ns in map(str.split, file)}
    except OSError:  # before Linux 5.6, or no /proc
        return 0
    return offsets["monotonic"]


def _after_fork_in_child() -> None:
    global _offset_ns  # noqa: PLW0603 - a child may be in another namespace than its parent
    _offset_ns = _offset_of_namespace()


_offset_ns = _offset_of_namespace()
after_fork_in_child(_after_fork_in_child)
