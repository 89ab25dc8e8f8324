"""One plain file of one over shards, with the same datasets, attributes and records, every row checked on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shmlease.errors import SinkError
from shmlease.hdf5 import provenance
from shmlease.hdf5.checksum import crc32
from shmlease.hdf5.chunk_encoding import plain_bytes
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.provenance import format_checksum
from shmlease.hdf5.sink import HDF5Sink
from shmlease.hdf5.variable_strings import fixed_strings
from shmlease.hdf5.verification import missing_parts
from shmlease.hdf5.virtual import Part, listed_datasets, opened, part_in

if TYPE_CHECKING:
    import h5py

__all__ = ["consolidate"]

_READ_BYTES: Final = 8 << 20  # at a time


def consolidate(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    compression: str = "gzip",
    overwrite: bool = False,
) -> None:
    """Make one plain file of a file that `ingest` over a cluster made, with the same datasets, attributes and records.

    Parameters
    ----------
    path : path
        The file over shards.
    out : path
        The file to make.
    compression, overwrite
        As of `HDF5Sink`.

    Raises
    ------
    SinkError
        Rows are not what the record of their dataset says: a shard is missing, or was changed. Nothing is put at `out`.
    """
    path = os.fspath(path)
    with opened(path) as file, HDF5Sink(out, compression=compression, overwrite=overwrite) as sink:
        for name in listed_datasets(path, file):
            dataset = file[name]
            _require_parts(path, dataset)
            part, checksum = part_in(path, name, dataset), 0
            form = _form(part)
            for block in _blocks(dataset, part):
                checksum = crc32(plain_bytes(block), checksum)
                if part.has_rows:
                    sink.append(name, block, **form)
                else:
                    sink.write(name, block)
            recorded = str(part.attributes[provenance.CHECKSUM])
            if format_checksum(checksum) != recorded:
                raise SinkError(
                    f"{path}: rows of {name!r} have {format_checksum(checksum)}, and {recorded} is recorded; "
                    "shmlease verify says which",
                    dataset=name,
                )
            for each in part.sources:
                sink.source(
                    name,
                    path=each.path,
                    rows=(each.start, each.stop),
                    size_bytes=each.size_bytes,
                    digest=each.digest,
                    **each.details,
                )
            attributes = {key: value for key, value in part.attributes.items() if not key.startswith(provenance.PREFIX)}
            sink.attributes(name).update(attributes)


def _require_parts(path: str, dataset: h5py.Dataset) -> None:
    missing = missing_parts(path, dataset)
    if missing:
        raise SinkError(f"{path}: {missing[0]}, where rows of {dataset.name!r} are, is not there", path=path)


def _blocks(dataset: h5py.Dataset, part: Part) -> Iterator[Any]:
    """The rows, with strings as they are recorded; once none, where there are none."""
    if not part.has_rows:
        yield np.asarray(dataset[...], parse_dtype(part.dtype))
        return
    step = max(1, _READ_BYTES // max(1, part.row_bytes))
    dtype = parse_dtype(part.dtype)  # h5py's own carries what it read as metadata, of no use here
    is_transposed = bool(part.attributes.get(provenance.TRANSPOSED))
    for start in range(0, max(part.rows, 1), step):
        stop = start + step
        block = fixed_strings(dataset[..., start:stop].T if is_transposed else dataset[start:stop], dtype)
        yield block.view(dtype) if block.dtype == dtype else block


def _form(part: Part) -> dict[str, Any]:
    """What a sink needs to know about a dataset besides its rows."""
    dtype = part.stored_dtype
    variable = [name for name in dtype.names or () if dtype[name].hasobject] or ([""] if dtype.kind == "O" else [])
    is_transposed = bool(part.attributes.get(provenance.TRANSPOSED))
    return {"labels": _labels(dtype), "transposed": is_transposed, "variable": variable}


def _labels(dtype: Any) -> dict[str, list[str]]:
    """The labels of the fields that are enumerations, or of the type itself."""
    import h5py  # noqa: PLC0415 - see above

    values = {name: h5py.check_enum_dtype(dtype[name] if name else dtype) for name in dtype.names or ("",)}
    return {name: sorted(numbers, key=numbers.__getitem__) for name, numbers in values.items() if numbers}
