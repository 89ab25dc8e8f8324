"""Copying an array into a segment, with as many threads as it takes to use the memory's bandwidth.

One core does not reach it: on a machine with two, 64 MiB are copied in 0.46 of the time by two. The threads live for one
copy; smaller arrays are copied sooner than a thread is started. Where the other processors are busy one thread is faster,
so what runs is looked at first; and each thread takes one piece after another, so that one which gets to run late does
less. Where streaming.c was compiled, each copies past the caches.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shmlease.system.processors import idle_processors

if TYPE_CHECKING:
    import ctypes

__all__ = ["copy_into", "streaming_library"]

# A thread is started in some 100 us, in which one core copies about a MiB.
_BYTES_A_THREAD: Final = 4 * 1024 * 1024
# More threads than this are not faster on any memory.
_MOST_THREADS: Final = 4
# What a thread copies at a time: large beside what it costs to take it, small beside all.
_BYTES_A_PIECE: Final = 1024 * 1024
# Past the caches, as parts of numpy's time: 4 MiB 1.03, 8 MiB 0.84, 16 MiB 0.72, 64 MiB 0.63 (2 MiB of cache a core).
# Another core then reads it as fast as after numpy's copy.
_LEAST_STREAMED_BYTES: Final = 8 * 1024 * 1024
_STREAMING_SOURCE: Final = os.path.join(os.path.dirname(__file__), "streaming.c")

Array = np.ndarray[Any, Any]
Pieces = deque[tuple[Array, Array]]


def copy_into(target: Array, values: Array) -> None:
    """``target[...] = values``, of the same shape and dtype."""
    if target.nbytes < _BYTES_A_THREAD:
        target[...] = values
        return
    threads = min(target.nbytes // _BYTES_A_THREAD, _MOST_THREADS)
    axis = 0 if target.flags.c_contiguous else target.ndim - 1  # the slowest: each thread has pages of its own
    if threads > 1 and target.ndim > 0:
        threads = min(threads, target.shape[axis], idle_processors())
    library = streaming_library() if target.nbytes >= _LEAST_STREAMED_BYTES else None
    if threads < 2 or target.ndim == 0:
        _move(target, values, library)
        return
    into, out_of = np.moveaxis(target, axis, 0), np.moveaxis(values, axis, 0)
    count = min(target.nbytes // _BYTES_A_PIECE, len(into))
    bounds = [len(into) * number // count for number in range(count + 1)]
    pieces: Pieces = deque((into[start:end], out_of[start:end]) for start, end in itertools.pairwise(bounds))
    helpers: list[threading.Thread] = []
    try:
        try:
            for _ in range(threads - 1):
                helper = threading.Thread(target=_copy, args=(pieces, library), name="shmlease-copy", daemon=True)
                helper.start()
                helpers.append(helper)
        except RuntimeError:  # no more threads are to be had: those that there are do it
            pass
        _copy(pieces, library)
        for helper in helpers:
            helper.join()
    except BaseException:
        pieces.clear()
        target = into = values = out_of  # the traceback keeps these names, and must not keep the segment
        raise


@lru_cache(maxsize=1)
def streaming_library() -> ctypes.CDLL | None:
    """The compiled streaming.c; None if it was not compiled, or not for this processor."""
    import ctypes  # noqa: PLC0415 - for large arrays only

    from shmlease.compiled import load_compiled  # noqa: PLC0415 - see above

    library = load_compiled(_STREAMING_SOURCE)
    if library is None or not hasattr(library, "shmlease_copy_streaming"):
        return None
    library.shmlease_copy_streaming.restype = None
    library.shmlease_copy_streaming.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    return library


def _move(into: Array, out_of: Array, library: ctypes.CDLL | None) -> None:
    is_block = into.flags.c_contiguous and out_of.flags.c_contiguous and into.dtype == out_of.dtype
    if library is None or not is_block:
        into[...] = out_of
    else:
        library.shmlease_copy_streaming(out_of.ctypes.data, into.nbytes, into.ctypes.data)


def _copy(pieces: Pieces, library: ctypes.CDLL | None) -> None:
    """Copy one piece after another until none is left."""
    while pieces:
        try:
            into, out_of = pieces.popleft()
        except IndexError:  # another thread has taken the last one
            return
        try:
            _move(into, out_of, library)
        finally:
            del into  # as above
