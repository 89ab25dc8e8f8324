"""Copying an array into a segment, with as many threads as it takes to use the memory's bandwidth.

One core does not reach it: on a machine with two, 64 MiB are copied in 0.46 of the time by two. The threads live for one
copy; smaller arrays are copied sooner than a thread is started.
"""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any, Final

import numpy as np

__all__ = ["copy_into"]

# A thread is started and waited for in some 100 us, in which one core copies about a MiB.
_BYTES_A_THREAD: Final = 4 * 1024 * 1024
# More threads than this are not faster on any memory.
_MOST_THREADS: Final = 4

Array = np.ndarray[Any, Any]


def copy_into(target: Array, values: Array) -> None:
    """``target[...] = values``, of the same shape and dtype."""
    threads = target.nbytes // _BYTES_A_THREAD
    if threads > 1:
        threads = min(threads, _MOST_THREADS, len(os.sched_getaffinity(0)))
    axis = 0 if target.flags.c_contiguous else target.ndim - 1  # the slowest: each thread has pages of its own
    if threads < 2 or target.ndim == 0 or target.shape[axis] < threads:
        target[...] = values
        return
    into, out_of = np.moveaxis(target, axis, 0), np.moveaxis(values, axis, 0)
    bounds = [len(into) * number // threads for number in range(threads + 1)]
    helpers = [
        threading.Thread(target=np.copyto, args=(into[start:end], out_of[start:end]), name="shmlease-copy", daemon=True)
        for start, end in itertools.pairwise(bounds[1:])
    ]
    started: list[threading.Thread] = []
    try:
        try:
            for helper in helpers:
                helper.start()
                started.append(helper)
        except RuntimeError:  # no more threads are to be had: the rest is done here
            rest = bounds[1 + len(started)]
            into[rest:] = out_of[rest:]
        into[: bounds[1]] = out_of[: bounds[1]]
        for helper in started:
            helper.join()
    except BaseException:
        target = into = values  # the traceback keeps these names, and must not keep the segment
        helpers = started = []
        raise
