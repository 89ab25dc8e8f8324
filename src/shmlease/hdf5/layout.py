"""How an array lies in HDF5: the dtypes that can, the shape of its chunks, and which chunk holds which elements.

Chunks are cut so that each one is a contiguous run of the array in C order: trailing axes are kept whole as long as a
chunk holds them, one axis is split, the axes before it count one by one. Encoding a chunk is then a pass over
contiguous memory, and the checksums of chunks in index order join to the checksum of the array.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.lib import format as npy

from shmlease.errors import DTypeError, SinkError

__all__ = ["Grid", "describe_dtype", "is_all_float", "padding_bytes", "parse_dtype", "require_storable"]

_STORABLE_KINDS = "biufcSV"
_INSTEAD = {
    "O": "it holds Python objects; give it a fixed-size dtype",
    "U": "HDF5 has no UTF-32 text; encode it to bytes, such as np.char.encode(array, 'utf-8')",
    "M": "HDF5 has no date type; store array.view('i8') and name the unit in an attribute",
    "m": "HDF5 has no duration type; store array.view('i8') and name the unit in an attribute",
}
_CHUNK_LIMIT_BYTES = 2**32  # HDF5 keeps a chunk's size in 32 bits


def _leaves(dtype: np.dtype[Any], offset: int = 0) -> Iterator[tuple[int, np.dtype[Any]]]:
    """(byte offset, plain dtype) of every scalar in one element."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        for position in range(math.prod(shape)):
            yield from _leaves(base, offset + position * base.itemsize)
    elif dtype.names is not None:
        assert dtype.fields is not None
        for name in dtype.names:
            field = dtype.fields[name]
            yield from _leaves(field[0], offset + field[1])
    else:
        yield offset, dtype


@lru_cache(maxsize=256)
def require_storable(dtype: np.dtype[Any], name: str) -> None:
    """Raise unless HDF5 can hold `dtype` exactly.

    Raises
    ------
    DTypeError
        The dtype, or a field of it, has no exact form in HDF5; the message says what to store instead.
    """
    for _, leaf in _leaves(dtype):
        if leaf.hasobject or leaf.kind not in _STORABLE_KINDS:
            reason = _INSTEAD.get(leaf.kind, "HDF5 has no such type")
            raise DTypeError(f"dataset {name!r}: dtype {dtype} cannot be stored: {leaf}: {reason}", dtype=str(dtype))
    if dtype.itemsize == 0:
        raise DTypeError(f"dataset {name!r}: dtype {dtype} has elements of 0 bytes; HDF5 needs 1", dtype=str(dtype))
    try:
        exact = parse_dtype(describe_dtype(dtype)) == dtype
    except (ValueError, TypeError):
        exact = False
    if not exact:
        raise DTypeError(
            f"dataset {name!r}: dtype {dtype} has fields that overlap or lie out of order; "
            f"copy the rows into a dtype with its fields in order",
            dtype=str(dtype),
        )


@lru_cache(maxsize=256)
def describe_dtype(dtype: np.dtype[Any]) -> str:
    """`dtype` as the text that a .npy header holds: ``'<f4'`` or ``[('pos', '<i4'), ('pct', '<f4')]``."""
    return repr(npy.dtype_to_descr(dtype))


@lru_cache(maxsize=256)
def parse_dtype(text: str) -> np.dtype[Any]:
    """The dtype that `describe_dtype` described."""
    return npy.descr_to_dtype(ast.literal_eval(text))


@lru_cache(maxsize=64)
def is_all_float(dtype: np.dtype[Any]) -> bool:
    """Whether every scalar of an element is a float or complex number."""
    return all(leaf.kind in "fc" for _, leaf in _leaves(dtype))


@lru_cache(maxsize=64)
def padding_bytes(dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Offsets of the bytes of an element that belong to no field.

    They hold whatever memory held before, so they are stored as zeros: equal rows give equal files, and no byte of
    another array gets out.
    """
    unused = np.ones(dtype.itemsize, dtype=bool)
    for offset, leaf in _leaves(dtype):
        unused[offset : offset + leaf.itemsize] = False
    return np.flatnonzero(unused)


class Grid(msgspec.Struct, frozen=True):
    """The chunks of one dataset.

    Attributes
    ----------
    trailing : tuple of int
        Shape of one row.
    chunk_shape : tuple of int
        Elements of a chunk along each axis, rows first.
    """

    trailing: tuple[int, ...]
    chunk_shape: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        trailing: tuple[int, ...],
        itemsize: int,
        target_bytes: int,
        rows: int | None = None,
        *,
        whole_rows: bool = False,
    ) -> Grid:
        """The grid whose chunks come closest to `target_bytes`; `rows` when their number is known.

        With `whole_rows` a row is never split: the chunk grows to the size of one.

        Raises
        ------
        SinkError
            A chunk would reach the 4 GiB that HDF5 cannot address.
        """
        axes = (rows if rows is not None else math.inf, *trailing)
        chunk = [1] * len(axes)
        run_bytes = itemsize  # of the elements along the axes taken whole
        for axis in reversed(range(len(axes))):
            length = max(axes[axis], 1)
            if run_bytes * length <= target_bytes or (whole_rows and axis > 0):
                chunk[axis] = int(length)
                run_bytes *= chunk[axis]
                continue
            fitting = max(1, target_bytes // run_bytes)
            # an even split leaves no sliver at the far edge
            chunk[axis] = fitting if length == math.inf else math.ceil(length / math.ceil(length / fitting))
            run_bytes *= chunk[axis]
            break
        if run_bytes >= _CHUNK_LIMIT_BYTES:
            raise SinkError(
                f"a chunk of shape {tuple(chunk)} takes {run_bytes} bytes, HDF5 allows fewer than {_CHUNK_LIMIT_BYTES}; "
                f"store smaller rows",
                chunk_bytes=run_bytes,
            )
        return cls(trailing, tuple(chunk))

    @property
    def chunk_rows(self) -> int:
        """Rows a chunk spans."""
        return self.chunk_shape[0]

    @property
    def elements(self) -> int:
        """Elements a whole chunk holds."""
        return math.prod(self.chunk_shape)

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each trailing axis."""
        return tuple(-(-length // size) for length, size in zip(self.trailing, self.chunk_shape[1:], strict=True))

    @property
    def chunks_per_row_block(self) -> int:
        """Chunks that hold the same rows: 1 unless a row is larger than a chunk."""
        return math.prod(self.counts)

    def origin(self, index: int) -> tuple[int, ...]:
        """Position of the first element of chunk `index`."""
        row_block, inner = divmod(index, self.chunks_per_row_block)
        places = []
        for count in reversed(self.counts):
            inner, place = divmod(inner, count)
            places.append(place)
        return tuple(place * size for place, size in zip((row_block, *reversed(places)), self.chunk_shape, strict=True))

    def first_element(self, index: int) -> int:
        """Where chunk `index` starts among the elements of the dataset in C order."""
        place = 0
        for position, length in zip(self.origin(index), (1, *self.trailing), strict=True):
            place = place * length + position
        return place

    def cut(self, rows: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """The parts of C-contiguous `rows`, starting at a chunk boundary, that each fill a chunk or reach an edge."""
        if self.chunks_per_row_block <= 1:
            for start in range(0, len(rows), self.chunk_rows):
                yield rows[start : start + self.chunk_rows]
            return
        # the split axis is the last one whose chunks do not take it whole
        split = max(axis for axis, count in enumerate(self.counts, start=1) if count > 1)
        for run in rows.reshape(-1, *rows.shape[split:]):
            for start in range(0, run.shape[0], self.chunk_shape[split]):
                yield run[start : start + self.chunk_shape[split]]
