"""Datasets and attributes made in an HDF5 file.

h5py's usual calls take 0.3 ms for a dataset and 0.1 ms for an attribute, most of it to describe in HDF5's terms what was
described before; for thousands of small tables that would be more than reading them. So the first dataset of a kind is made
by the usual call, and others like it by h5py's low-level interface, from its type and its properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.filters import COMPRESSIONS

__all__ = ["DatasetMaker", "set_attribute"]


class DatasetMaker:
    """Makes the datasets of one open `h5py.File`."""

    def __init__(self, file: Any) -> None:
        import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

        self._file = file
        self._made: dict[Any, tuple[Any, Any, Any]] = {}  # type, dataspace and properties, by kind
        self._links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)

    def make(self, state: DatasetState) -> Any:
        """The dataset of `state`, which does not exist yet."""
        import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

        codec, declared = state.codec, state.declared
        kind = codec.dtype, declared.trailing, declared.rows, codec.compression, codec.transposed, str(declared.labels)
        made = self._made.get(kind)
        if made is not None and state.name.isascii():  # other names need a flag that h5py knows of
            dtype, space, properties = made
            properties.set_chunk(codec.in_file(codec.grid.chunk_shape))
            return h5py.Dataset(h5py.h5d.create(self._file.id, state.name.encode(), dtype, space, properties, self._links))
        dataset = self._file.create_dataset(state.name, **_creation(state))
        if codec.row_bytes:
            number = dataset.id
            self._made[kind] = number.get_type(), number.get_space(), number.get_create_plist()
        return dataset


def set_attribute(target: Any, key: str, value: Any) -> None:
    """Set an attribute that a dataset or file has not yet."""
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    if not key.isascii() or not (type(value) is str or (type(value) is int and value.bit_length() < 64)):
        target.attrs[key] = value
        return
    dtype, in_file, in_memory, scalar = _scalar_types(str if isinstance(value, str) else int)
    attribute = h5py.h5a.create(target.id, key.encode(), in_file, scalar)
    attribute.write(np.array(value, dtype=dtype), mtype=in_memory)


@cache
def _scalar_types(kind: type[str] | type[int]) -> tuple[Any, Any, Any, Any]:
    """Of a scalar text or integer: the numpy type, HDF5's in the file and in memory, and the dataspace."""
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    dtype = h5py.string_dtype() if kind is str else np.dtype(np.int64)
    types = h5py.h5t.py_create(dtype, logical=True), h5py.h5t.py_create(dtype)
    return dtype, *types, h5py.h5s.create(h5py.h5s.SCALAR)


def _creation(state: DatasetState) -> dict[str, Any]:
    """Keywords for h5py's ``create_dataset``."""
    codec, rows, trailing = state.codec, state.declared.rows, state.declared.trailing
    if codec.row_bytes == 0:  # HDF5 has no chunks without elements
        return {"dtype": codec.dtype, "shape": codec.in_file((state.cursor, *trailing))}
    return {
        "dtype": _with_labels(codec.dtype, state.declared.labels),
        "shape": codec.in_file((0 if rows is None else rows, *trailing)),
        "maxshape": codec.in_file((rows, *trailing)),
        "chunks": codec.in_file(codec.grid.chunk_shape),
        **COMPRESSIONS[codec.compression].filters(),
    }


def _with_labels(dtype: np.dtype[Any], labels: Mapping[str, Sequence[str]]) -> np.dtype[Any]:
    """The type, or those of its fields that have labels, as enumerations."""
    if not labels:
        return dtype
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    if dtype.names is None:
        plain: np.dtype[Any] = h5py.enum_dtype({label: number for number, label in enumerate(labels[""])}, basetype=dtype)
        return plain
    enums = {
        name: h5py.enum_dtype({label: number for number, label in enumerate(labels[name])}, basetype=dtype[name])
        for name in labels
    }
    return np.dtype([(name, enums.get(name, dtype[name])) for name in dtype.names or ()])
