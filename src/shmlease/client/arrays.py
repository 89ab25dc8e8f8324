"""Numpy arrays on mapped segments, whose base keeps the mapping alive.

An array's `base` leads to an `Anchor`; the anchor holds the mapping. As long as any view exists, the anchor does, and so
the memory stays mapped, whatever became of the lease. When the last view dies, so does the anchor, and whoever watches it
knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shmlease.client.layout import Layout
from shmlease.system.mapping import Mapping

__all__ = ["Anchor", "array_on"]


class Anchor:
    """The base of all arrays of one lease.

    It offers `__array_interface__` rather than a buffer: numpy then makes it the base itself, and, having no writable
    buffer to ask for, cannot be talked into making a read-only array writable again.
    """

    __slots__ = ("__array_interface__", "__weakref__", "mapping")

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.__array_interface__ = mapping.array_interface


def array_on(anchor: Anchor, layout: Layout) -> np.ndarray[Any, Any]:
    """The array that `layout` describes, on the memory of `anchor`; writable if the mapping is."""
    return np.ndarray(layout.shape, layout.dtype, buffer=np.asarray(anchor), order=layout.order)


def seal(array: np.ndarray[Any, Any]) -> None:
    """Make an array of `array_on` read-only for good; views taken of it before stay as they are."""
    array.setflags(write=False)
    base = array.base
    if isinstance(base, np.ndarray):
        base.setflags(write=False)
