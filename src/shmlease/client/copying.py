"""Copying an array into a segment, with as many threads as it takes to use the memory's bandwidth.

One core does not reach it: on a machine with two, 64 MiB are copied in 0.46 of the time by two. The threads live for one
copy; smaller arrays are copied sooner than a thread is started. Where the other processors are busy one thread is faster,
so what runs is looked at first; and each thread takes one piece after another, so that one which gets to run late does
less.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import Any, Final

import numpy as np

from shmlease.system.processors import idle_processors

__all__ = ["copy_into"]

# A thread is started in some 100 us, in which one core copies about a MiB.
_BYTES_A_THREAD: Final = 4 * 1024 * 1024
# More threads than this are not faster on any memory.
_MOST_THREADS: Final = 4
# What a thread copies at a time: large beside what it costs to take it, small beside all.
_BYTES_A_PIECE: Final = 1024 * 1024

Array = np.ndarray[Any, Any]
Pieces = deque[tuple[Array, Array]]


def copy_into(target: Array, values: Array) -> None:
    """``target[...] = values``, of the same shape and dtype."""
    threads = min(target.nbytes // _BYTES_A_THREAD, _MOST_THREADS)
    axis = 0 if target.flags.c_contiguous else target.ndim - 1  # the slowest: each thread has pages of its own
    if threads > 1 and target.ndim > 0:
        threads = min(threads, target.shape[axis], idle_processors())
    if threads < 2 or target.ndim == 0:
        target[...] = values
        return
    into, out_of = np.moveaxis(target, axis, 0), np.moveaxis(values, axis, 0)
    count = min(target.nbytes // _BYTES_A_PIECE, len(into))
    bounds = [len(into) * number // count for number in range(count + 1)]
    pieces: Pieces = deque((into[start:end], out_of[start:end]) for start, end in itertools.pairwise(bounds))
    helpers: list[threading.Thread] = []
    try:
        try:
            for _ in range(threads - 1):
                helper = threading.Thread(target=_copy, args=(pieces,), name="shmlease-copy", daemon=True)
                helper.start()
                helpers.append(helper)
        except RuntimeError:  # no more threads are to be had: those that there are do it
            pass
        _copy(pieces)
        for helper in helpers:
            helper.join()
    except BaseException:
        pieces.clear()
        target = into = values = out_of  # the traceback keeps these names, and must not keep the segment
        raise


def _copy(pieces: Pieces) -> None:
    """Copy one piece after another until none is left."""
    while pieces:
        try:
            into, out_of = pieces.popleft()
        except IndexError:  # another thread has taken the last one
            return
        try:
            into[...] = out_of
        finally:
            del into  # as above
