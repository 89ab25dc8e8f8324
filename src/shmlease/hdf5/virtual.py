"""One file for the datasets of many: an HDF5 virtual dataset over files that sinks have written.

A virtual dataset has no rows of its own: it says which rows lie in which file. It carries the record of the whole, so
that `verify` checks it as any other. HDF5 reads rows of a file that is missing as zeros without a word; `verify` names it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

import shmlease
from shmlease.errors import SinkError
from shmlease.hdf5 import provenance
from shmlease.hdf5.checksum import combine
from shmlease.hdf5.file_parts import joined_parts
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.provenance import Source, format_checksum, parse_checksum
from shmlease.hdf5.staging import output_path
from shmlease.output_file import move_into_place

if TYPE_CHECKING:
    import h5py

__all__ = ["Part", "join", "listed_datasets", "opened", "part_in", "parts_of"]


class Part(NamedTuple):
    """A dataset of a file that a sink has written.

    Attributes
    ----------
    path : str
        The file.
    dataset : str
    dtype : str
        As recorded.
    rows, row_bytes : int
    sources : tuple of Source
        Where its rows came from; of parts of a file, each by itself.
    shape : tuple of int
    stored_dtype : numpy.dtype
        As h5py reads it.
    attributes : dict
        All of them.
    """

    path: str
    dataset: str
    dtype: str
    rows: int
    row_bytes: int
    sources: tuple[Source, ...]
    shape: tuple[int, ...]
    stored_dtype: Any
    attributes: dict[str, Any]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row; of a scalar, that of the scalar."""
        return _row_shape(self.shape, is_transposed=bool(self.attributes.get(provenance.TRANSPOSED)))

    @property
    def has_rows(self) -> bool:
        """Whether others can follow: there are none of a scalar, and of what has no elements whatever its length."""
        return self.shape != () and 0 not in self.row_shape


def parts_of(path: str) -> list[Part]:
    """The datasets of the file at `path`.

    Raises
    ------
    SinkError
        It is not there, or no sink has written it.
    """
    with opened(path) as file:
        return [part_in(path, name, file[name]) for name in listed_datasets(path, file)]


def part_in(path: str, name: str, dataset: h5py.Dataset) -> Part:
    """One dataset of an open file."""
    attributes = dict(dataset.attrs)
    sources = provenance.decode_sources(attributes.get(provenance.SOURCES, "[]"))
    dtype, is_transposed = str(attributes[provenance.DTYPE]), bool(attributes.get(provenance.TRANSPOSED))
    shape = dataset.shape
    row_shape = _row_shape(shape, is_transposed=is_transposed)
    row_bytes = parse_dtype(dtype).itemsize * math.prod(row_shape)  # with strings of fixed length
    rows = shape[-1 if is_transposed else 0] if shape else 1
    return Part(path, name, dtype, rows, row_bytes, tuple(sources), shape, dataset.dtype, attributes)


def join(out: str, datasets: Mapping[str, Sequence[Part]], *, overwrite: bool = False) -> dict[str, list[Source]]:
    """Make the file `out`, whose datasets are those parts end to end; the files they are in must stay where they are.

    Scalars, and arrays of rows without elements, have no end to go on from: they must be equal, and are copied.

    Returns
    -------
    dict of str to list of Source
        Where the rows of each dataset came from. Parts of one file have become one source.

    Raises
    ------
    SinkError
        The parts of a dataset differ in dtype or row shape; a part of a file is missing; or there is a file already.
    """
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    place = output_path(out, overwrite=overwrite)
    beside = f"{place}.joined-{os.getpid()}"
    try:
        with h5py.File(beside, "w", libver="latest") as file:
            sources = {
                name: _join_rows(file, name, parts, os.path.dirname(place))
                if parts[0].has_rows
                else _copy_one(file, name, parts)
                for name, parts in datasets.items()
            }
            file.attrs[provenance.VERSION] = shmlease.__version__
            file.attrs[provenance.DATASETS] = msgspec.json.encode(sorted(datasets)).decode()
        with open(beside, "rb") as made:
            os.fsync(made.fileno())
            move_into_place(made.fileno(), beside, str(place))
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise
    return sources


def _join_rows(file: h5py.File, name: str, parts: Sequence[Part], directory: str) -> list[Source]:
    import h5py  # noqa: PLC0415 - see above

    checksum, row = 0, 0
    sources: list[Source] = []
    first, rows = parts[0], sum(part.rows for part in parts)
    is_transposed = bool(first.attributes.get(provenance.TRANSPOSED))
    layout = h5py.VirtualLayout((*first.row_shape, rows) if is_transposed else (rows, *first.row_shape), first.stored_dtype)
    for part in parts:
        if not part.has_rows or _form(part) != _form(first):
            raise _differ(name, first, part)
        stop = row + part.rows
        if part.rows:
            relative = os.path.relpath(os.path.realpath(part.path), directory)
            place = (..., slice(row, stop)) if is_transposed else slice(row, stop)
            layout[place] = h5py.VirtualSource(relative, part.dataset, part.shape)
        checksum = combine(checksum, parse_checksum(part.attributes[provenance.CHECKSUM]), part.rows * part.row_bytes)
        sources += [
            msgspec.structs.replace(source, start=source.start + row, stop=source.stop + row) for source in part.sources
        ]
        row = stop
    sources = joined_parts(sources, first.row_bytes)
    _record(file.create_virtual_dataset(name, layout), first, rows, format_checksum(checksum), sources)
    return sources


def _copy_one(file: h5py.File, name: str, parts: Sequence[Part]) -> list[Source]:
    first = parts[0]
    for part in parts:
        if (part.shape, _form(part)) != (first.shape, _form(first)):
            raise _differ(name, first, part)
        if part.attributes[provenance.CHECKSUM] != first.attributes[provenance.CHECKSUM]:
            raise SinkError(
                f"dataset {name!r} is a scalar, and {first.path} has another than {part.path}; "
                "give it an axis to have them one after another",
                dataset=name,
            )
    with opened(first.path) as shard:
        dataset = file.create_dataset(name, data=shard[first.dataset][...], dtype=first.stored_dtype)
    sources = [source for part in parts for source in part.sources]
    _record(dataset, first, first.rows, str(first.attributes[provenance.CHECKSUM]), sources)
    return sources


def _row_shape(shape: tuple[int, ...], *, is_transposed: bool) -> tuple[int, ...]:
    return shape[:-1] if is_transposed else shape[1:]


def _form(part: Part) -> tuple[Any, ...]:
    return part.row_shape, part.stored_dtype, part.dtype


def _differ(name: str, first: Part, part: Part) -> SinkError:
    advice = "; give types with lengths, such as name:S16" if "S" in part.dtype else ""
    return SinkError(
        f"dataset {name!r} is {first.dtype} {first.shape} in {first.path} and {part.dtype} {part.shape} in {part.path}"
        f"{advice}",
        dataset=name,
    )


def _record(dataset: h5py.Dataset, first: Part, rows: int, checksum: str, sources: list[Source]) -> None:
    """Give a dataset its attributes, and its record."""
    own = first.attributes.items()
    dataset.attrs.update({key: value for key, value in own if not key.startswith(provenance.PREFIX)})
    dataset.attrs[provenance.VERSION] = shmlease.__version__
    dataset.attrs[provenance.ROWS] = rows
    dataset.attrs[provenance.DTYPE] = first.attributes[provenance.DTYPE]
    dataset.attrs[provenance.CHECKSUM] = checksum
    dataset.attrs[provenance.SOURCES] = provenance.encode_sources(sources)
    if provenance.TRANSPOSED in first.attributes:
        dataset.attrs[provenance.TRANSPOSED] = first.attributes[provenance.TRANSPOSED]


def opened(path: str) -> h5py.File:
    """The file, to be read.

    Raises
    ------
    SinkError
        It cannot be.
    """
    import h5py  # noqa: PLC0415 - see above

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise SinkError(f"{path}: cannot be read as HDF5: {str(error).splitlines()[0]}", path=path) from error


def listed_datasets(path: str, file: h5py.File) -> list[str]:
    """The datasets that a sink has put into a file.

    Raises
    ------
    SinkError
        No sink has written it.
    """
    try:
        return msgspec.json.decode(file.attrs[provenance.DATASETS], type=list[str])
    except (KeyError, TypeError, msgspec.DecodeError):
        raise SinkError(f"{path}: has no record of shmlease's", path=path) from None
