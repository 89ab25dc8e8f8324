"""HDF5's shuffle: the bytes of elements in planes, byte 0 of every element first; in C where that was compiled."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any, Final

import numpy as np

from shmlease.compiled import load_compiled

__all__ = ["shuffle"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_SOURCE: Final = os.path.join(os.path.dirname(__file__), "shuffle.c")
_PAYS_FROM: Final = 16  # bytes of an element; smaller ones numpy copies as fast


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    library = load_compiled(_SOURCE)
    if library is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        library.shmlease_to_planes.restype = None
        library.shmlease_to_planes.argtypes = [pointer, size, size, pointer, size]
    return library


def shuffle(parts: list[Bytes], itemsize: int, out: Bytes) -> None:
    """Fill `out` with the planes of the elements in `parts`, one after another, and zeros for those that `out` has room
    for.
    """
    library = _library() if itemsize >= _PAYS_FROM else None
    planes = out.reshape(itemsize, -1)
    room = planes.shape[1]
    place = 0
    for part in parts:
        count = part.size // itemsize
        assert place + count <= room
        assert part.flags.c_contiguous
        if library is None:
            planes[:, place : place + count] = part.reshape(-1, itemsize).T
        else:
            library.shmlease_to_planes(part.ctypes.data, count, itemsize, out.ctypes.data + place, room)
        place += count
    planes[:, place:] = 0
