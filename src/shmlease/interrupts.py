"""Exceptions that signal handlers raise, told from our own.

A handler may raise anything, `TimeoutError` for example, which is an OSError. Code that expects an error of its own, and
carries on after it, must not take one of a handler for it.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import Final

__all__ = ["is_from_handler", "signal_behind"]

_PACKAGE: Final = os.path.join(os.path.dirname(__file__), "")


def signal_behind(error: BaseException) -> int:
    """Number of the signal whose handler raised `error`, which this frame's caller has caught; 0 if none did.

    A handler is called with the signal's number and the frame that it interrupts, which is also what its own frame returns
    to. Only frames of others are looked into: the locals of one that holds `error` would hold each other from then on.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame, code = traceback.tb_frame, traceback.tb_frame.f_code
        if frame.f_back is not None and not code.co_filename.startswith(_PACKAGE):
            count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)  # *arguments as well
            arguments = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
            for argument in list(arguments):
                if isinstance(argument, tuple):
                    arguments += argument
            for number, interrupted in itertools.pairwise(arguments):
                if interrupted is frame.f_back and isinstance(number, int):
                    return int(number)
        traceback = traceback.tb_next
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised `error`."""
    return signal_behind(error) != 0
