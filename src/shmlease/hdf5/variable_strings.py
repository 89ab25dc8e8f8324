"""A finished file once more, with some of its fixed strings as HDF5's strings of variable length.

HDF5 keeps such strings in heaps of its own: they cannot be encoded by workers, stored as chunks of known bytes, or be
found again after a kill. So a file is made with fixed strings first, and written again through HDF5 when it is complete.
A run that is killed meanwhile does that again. The records of its datasets stay those of the rows with fixed strings, from
which `shmlease.hdf5.verification` checks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from shmlease.errors import SinkError
from shmlease.exhaustion import require_allocatable
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.file_object import FileObject
from shmlease.hdf5.filters import COMPRESSIONS, LIBVER, ROOM_BYTES

__all__ = ["fixed_strings", "fixed_type", "write_variable"]

_BLOCK_BYTES = 4 << 20  # of rows with fixed strings, at a time


def write_variable(source: str, target: FileObject, states: Iterable[DatasetState]) -> None:
    """Write the file at `source` to `target`, with the strings that are declared so in variable length.

    Raises
    ------
    SinkError
        A string has a zero byte, which ends one of variable length; or the file cannot be written.
    """
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    require_allocatable(ROOM_BYTES)
    with h5py.File(source, "r") as old, h5py.File(target, "w", libver=LIBVER) as new:
        new.attrs.update(old.attrs)
        for state in states:
            if state.declared.variable:
                _write_dataset(old[state.name], new, state)
            else:
                old.copy(state.name, new, name=state.name)
            if target.failure is not None:
                break
    if target.failure is not None:
        raise target.failure


def _write_dataset(old: Any, new: Any, state: DatasetState) -> None:
    import h5py  # noqa: PLC0415 - see above

    strings, variable = h5py.string_dtype(), state.declared.variable
    names = old.dtype.names or ()
    dtype = np.dtype([(name, strings if name in variable else old.dtype[name]) for name in names]) if names else strings
    filters = COMPRESSIONS[state.codec.compression].filters()
    dataset = new.create_dataset(
        state.name, shape=old.shape, maxshape=old.maxshape, chunks=old.chunks, dtype=dtype, **filters
    )
    dataset.attrs.update(old.attrs)
    chunk_rows = old.chunks[0] if old.chunks else 1
    step = max(1, _BLOCK_BYTES // old.dtype.itemsize // chunk_rows) * chunk_rows
    for start in range(0, old.shape[0], step):
        rows = old[start : start + step]
        if not names:
            dataset[start : start + step] = _objects(rows, state.name)
            continue
        converted = np.empty(len(rows), dtype)
        for name in names:
            converted[name] = _objects(rows[name], f"{state.name}/{name}") if name in variable else rows[name]
        dataset[start : start + step] = converted


def _objects(values: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    strings: list[bytes] = values.tolist()
    for string in strings:
        if b"\0" in string:
            raise SinkError(f"{where}: {string[:40]!r} has a zero byte, which ends a string of variable length; use S")
    found = np.empty(len(strings), object)
    found[:] = strings
    return found


def fixed_type(dtype: np.dtype[Any], recorded: np.dtype[Any]) -> np.dtype[Any]:
    """The type of a dataset with the strings of variable length as they were recorded."""
    if not dtype.hasobject:
        return dtype
    if dtype.names is None or recorded.names is None:
        return recorded if recorded.kind == "S" else dtype
    fields = [
        (name, recorded[name] if dtype[name].hasobject and name in recorded.names else dtype[name]) for name in dtype.names
    ]
    return np.dtype(fields)


def fixed_strings(rows: np.ndarray[Any, Any], recorded: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Rows as they are recorded, with strings of fixed length.

    Raises
    ------
    ValueError
        A string is longer than any that was stored.
    """
    if not rows.dtype.hasobject:
        return rows
    fixed = np.zeros(rows.shape, recorded)
    for name in rows.dtype.names or ("",):
        values, target = (rows[name], fixed[name]) if name else (rows, fixed)
        longest = max(map(len, values.tolist()), default=0) if values.dtype.hasobject else 0
        if longest > target.dtype.itemsize > 0 and values.dtype.hasobject:
            raise ValueError(f"a string of {longest} bytes, where {target.dtype.itemsize} are the most")
        target[...] = values
    return fixed
