"""Signals whose handler raised an exception where Python drops it, delivered again."""

from __future__ import annotations

import os

from shmlease.interrupts import signal_behind
from shmlease.system.primitives import start_new_thread

__all__ = ["deliver_again"]


def deliver_again(error: BaseException) -> None:
    """In a finalizer or hook, where Python would drop `error`: send the signal once more, to arrive after that has ended.

    Raises
    ------
    BaseException
        `error` itself, if no signal is behind it.
    """
    number = signal_behind(error)
    if not number:
        raise error
    start_new_thread(os.kill, (os.getpid(), number))
