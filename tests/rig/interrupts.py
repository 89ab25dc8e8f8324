"""Interrupts at every point where CPython would run a signal handler, one after another.

Those points are: where a function begins, where a loop jumps back, and after a call of anything but a Python function. On
Python 3.12 and later `sys.monitoring` tells of each of them; before, `sys.settrace` with a look at the instructions, which
cannot raise where the call itself stands under another exception handler than what follows it: those few points are left to
the later versions.
"""

from __future__ import annotations

import dis
import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import shmlease

PACKAGE = str(Path(shmlease.__file__).parent)
# What an interrupt may meet in the middle of a call of the product; the rest is another program.
CLIENT = tuple(f"{PACKAGE}/{part}" for part in ("client/", "core/", "system/", "errors.py", "units.py"))


class Interrupt(BaseException):
    """What a signal handler raises."""


class Interrupter:
    """Raises `Interrupt` at the points whose numbers are in `at`, counted from 1, while it is active.

    Attributes
    ----------
    points : int
        How many there were.
    raised : list of str
        Where it was raised.
    """

    def __init__(self, *at: int) -> None:
        self.at = at
        self.points = 0
        self.raised: list[str] = []

    def run(self, action: Callable[[], Any]) -> Any:
        """What `action` returns; the interrupts come only while it runs."""
        return (_monitored if sys.version_info >= (3, 12) else _traced)(self, action)

    def meet(self, code: CodeType, line: int) -> None:
        """One point."""
        self.points += 1
        if self.points in self.at:
            self.raised.append(f"{Path(code.co_filename).name}:{line} {code.co_qualname}")
            raise Interrupt(self.raised[-1])


def _monitored(interrupter: Interrupter, action: Callable[[], Any]) -> Any:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    events = monitoring.events
    tool = monitoring.DEBUGGER_ID
    thread = threading.get_ident()  # no signal handler runs in another one, of which this tool is told as well

    def meet(code: CodeType, offset: int) -> None:
        if code.co_filename.startswith(CLIENT) and threading.get_ident() == thread:
            line = next((line for start, end, line in code.co_lines() if start <= offset < end), 0)
            interrupter.meet(code, line or 0)

    def jumped(code: CodeType, offset: int, target: int) -> None:
        if target < offset:
            meet(code, offset)

    def called(code: CodeType, offset: int, callee: object, argument: object) -> None:
        pass

    def returned(code: CodeType, offset: int, callee: object, argument: object) -> None:
        if getattr(callee, "__self__", None) is not monitoring:
            meet(code, offset)

    monitoring.use_tool_id(tool, "interrupts")
    try:
        for event, callback in (
            (events.PY_START, meet),
            (events.JUMP, jumped),
            (events.CALL, called),
            (events.C_RETURN, returned),
        ):
            monitoring.register_callback(tool, event, callback)
        monitoring.set_events(tool, events.PY_START | events.JUMP | events.CALL)
        try:
            return action()
        finally:
            monitoring.set_events(tool, 0)
    finally:
        monitoring.free_tool_id(tool)


@functools.cache
def _instructions(code: CodeType) -> tuple[dict[int, str], dict[int, int]]:
    """Name of the instruction at each offset, and the exception handler that it is under."""
    names = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    handlers: dict[int, int] = {}
    for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
        for offset in range(entry.start, entry.end, 2):
            handlers[offset] = entry.target
    return names, handlers


def _traced(interrupter: Interrupter, action: Callable[[], Any]) -> Any:
    last: dict[FrameType, int] = {}  # the instruction that each frame executes
    inlined: set[FrameType] = set()  # frames that have called a Python function since then

    def within(frame: FrameType, event: str, argument: object) -> Any:
        if event == "return":
            last.pop(frame, None)
            inlined.discard(frame)
        if event != "opcode":
            return within
        names, handlers = _instructions(frame.f_code)
        before, now = last.get(frame, -1), frame.f_lasti
        last[frame] = now
        was_inlined = frame in inlined
        inlined.discard(frame)
        called = names.get(before) in ("CALL", "CALL_FUNCTION_EX") and not was_inlined
        jumps = names.get(now, "").startswith(("JUMP_BACKWARD", "POP_JUMP_BACKWARD")) and "NO_INTERRUPT" not in names[now]
        if jumps or (called and handlers.get(before) == handlers.get(now)):
            interrupter.meet(frame.f_code, frame.f_lineno or 0)
        return within

    def begun(frame: FrameType, event: str, argument: object) -> Any:
        caller = frame.f_back
        if caller is not None and frame.f_code.co_name not in ("__init__", "__new__"):
            inlined.add(caller)
        if not frame.f_code.co_filename.startswith(CLIENT):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        interrupter.meet(frame.f_code, frame.f_lineno or 0)
        return within

    def later(frame: FrameType, event: str, argument: object) -> None:
        if not interrupter.raised:
            return
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(CLIENT):
            interrupter.meet(frame.f_code, frame.f_lineno or 0)

    before = sys.gettrace()
    if len(interrupter.at) > 1:
        sys.setprofile(later)
    sys.settrace(begun)
    try:
        return action()
    finally:
        sys.settrace(before)
        sys.setprofile(None)
        last.clear()  # frames hold the trace function, which holds these
        inlined.clear()
