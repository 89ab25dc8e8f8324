"""What happened, as each process wrote it down itself: a file for each process and epoch, a line before and after each
call.

A line is written with one `write` to a file that the kernel keeps when the process is killed; a call that has a first line
and no second may or may not have happened. Times are CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from shmlease.verification.operations import Call, Note

__all__ = ["Act", "Event", "Scribe", "read_history"]


class Act(msgspec.Struct, frozen=True, array_like=True):
    """One call, as it began (`end_ns` 0) or as it ended.

    `stamp`, `subject`, `limit_ns` and `readers` are as in its note; `outcome` is the class of the error, `detail` its
    words.
    """

    call: Call
    begin_ns: int
    end_ns: int
    stamp: int = 0
    subject: str = ""
    limit_ns: int = 0
    readers: int = 0
    outcome: str = ""
    detail: str = ""


class Event(msgspec.Struct, frozen=True):
    """A call, and who made it; `is_finished` is False if its process died, or was still at it."""

    process: str
    act: Act
    is_finished: bool
    last_sign_ns: int  # of life of that process


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Act)


class Scribe:
    """Writes one process's file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, act: Act) -> None:
        """Write a line."""
        os.write(self._fd, _encoder.encode(act) + b"\n")

    def begin(self, note: Note) -> Act:
        """Write down that a call begins."""
        act = Act(note.call, time.monotonic_ns(), 0, note.stamp, note.subject, note.limit_ns, note.readers)
        self.write(act)
        return act

    def end(self, act: Act, error: BaseException | None = None, stamp: int = 0) -> None:
        """Write down how it ended, and the stamp that showed only then."""
        outcome, detail = ("", "") if error is None else (type(error).__name__, str(error))
        ended = msgspec.structs.replace(
            act, end_ns=time.monotonic_ns(), stamp=stamp or act.stamp, outcome=outcome, detail=detail
        )
        self.write(ended)

    def close(self) -> None:
        """No more lines."""
        os.close(self._fd)


def read_history(directory: str) -> Iterator[Event]:
    """The events of all files in `directory`, those of each process in order."""
    for name in sorted(os.listdir(directory)):
        with open(f"{directory}/{name}", "rb") as file:
            content = file.read()
        # a process killed in the middle of a write leaves a line without an end
        acts = [_decoder.decode(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        last_ns = max((max(act.begin_ns, act.end_ns) for act in acts), default=0)
        open_act: Act | None = None
        for act in acts:
            if act.end_ns:
                yield Event(name, act, True, last_ns)
                open_act = None
            else:
                if open_act is not None:
                    yield Event(name, open_act, False, last_ns)
                open_act = act
        if open_act is not None:
            yield Event(name, open_act, False, last_ns)
