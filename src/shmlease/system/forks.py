"""What is to be done in a forked child: also in one that Python was not told of.

uWSGI forks its workers in C, after it has imported the application, and by default no at-fork handler of Python runs in
them. A child that went on with its parent's connection, lock and client id would ruin both. So whoever begins a call asks
here first whether this process is still the one that it was. To ask the kernel for the process id takes 0.3 us, a dozen
times a hand-over; a page of memory that the kernel wipes in a forked child is read instead.

Source: madvise(2), MADV_WIPEONFORK, since Linux 4.14.
"""

from __future__ import annotations

import mmap
import os
from _thread import allocate_lock
from collections.abc import Callable
from typing import Final

__all__ = ["after_fork_in_child", "notice_fork"]

_handlers: Final[list[Callable[[], object]]] = []
_noticing = allocate_lock()
_pid = os.getpid()
_MADV_WIPEONFORK: Final = 18
# The first byte is 1 in the process that this module has taken itself to be in, and 0 in a child of it.
_mark: Final = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try:
    _mark.madvise(_MADV_WIPEONFORK)
    _is_wiped = True
except OSError:  # gVisor, for one, does not offer it
    _is_wiped = False
_mark[0] = 1


def after_fork_in_child(handler: Callable[[], object]) -> None:
    """Have `handler` called in a forked child: at once, or by the first `notice_fork` in it."""
    _handlers.append(handler)


def notice_fork() -> None:
    """Do now what was to be done after a fork, if this is a child that was forked without Python's knowledge."""
    if not _mark[0] or (not _is_wiped and os.getpid() != _pid):
        with _noticing:
            if os.getpid() != _pid:
                _begin_in_child()


def _begin_in_child() -> None:
    global _pid  # noqa: PLW0603 - what a process is, is global
    for handler in _handlers:
        handler()
    _pid = os.getpid()  # last: another thread waits for it
    _mark[0] = 1


def _after_fork() -> None:
    global _noticing  # noqa: PLW0603 - another thread of the parent may have held it
    _noticing = allocate_lock()
    _begin_in_child()


os.register_at_fork(after_in_child=_after_fork)
