"""Locks, threads, sleep and polls of the system itself, also where gevent has put its own in their place, or nothing.

A lock of gevent's is Python code: a signal may interrupt it half-way. And it lets another greenlet run in the middle of a
call, which would then find the link half-changed. What is imported from here never does.
"""

from __future__ import annotations

import sys
import weakref
from _thread import RLock, allocate_lock, start_new_thread
from collections.abc import Callable
from time import sleep
from typing import Final

__all__ = ["AT_ONCE", "RLock", "allocate_lock", "complete", "epoll", "poll", "sleep", "start_new_thread"]

if (_monkey := sys.modules.get("gevent.monkey")) is not None:
    allocate_lock = _monkey.get_original("_thread", "allocate_lock")
    start_new_thread = _monkey.get_original("_thread", "start_new_thread")
    sleep = _monkey.get_original("time", "sleep")
    epoll, poll = _monkey.get_original("select", ["epoll", "poll"])
else:
    from select import epoll, poll

# For `taken.extend(map(lock.acquire, AT_ONCE))`: take the lock if it is free, and note whether it was, before any signal
# handler can run. A plain call could be interrupted between the two, and the lock would never be released.
AT_ONCE: Final = (False,)
# How often `complete` asks whether its thread has ended without a word.
_LOOK_EVERY_S: Final = 0.1


def complete(work: Callable[[], object]) -> None:
    """Do `work` in a thread of its own and wait for it: it is done whole, whatever a signal handler raises in the caller.

    Signal handlers run in the main thread, and interrupt only the waiting.

    Raises
    ------
    BaseException
        What `work` raised, or a signal handler.
    MemoryError
        There was no memory for the first step of the thread, in which nothing could be caught.
    """
    done = allocate_lock()
    failures: list[BaseException] = []

    def run(token: object) -> None:  # noqa: ARG001 - it dies with the thread
        try:
            work()
        except BaseException as failure:
            failures.append(failure)
        finally:
            done.release()

    done.acquire()
    token = allocate_lock()
    is_alive = weakref.ref(token)
    try:
        start_new_thread(run, (token,))
    except RuntimeError:  # no more threads are to be had, or the interpreter is about to end
        run(token)
    del token  # from here on only the thread refers to it
    while not done.acquire(True, _LOOK_EVERY_S):
        if is_alive() is None:
            if not done.acquire(False):
                raise MemoryError
            break
    if failures:
        raise failures.pop()
