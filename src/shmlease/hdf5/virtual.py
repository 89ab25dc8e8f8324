"""One file for the datasets of many: an HDF5 virtual dataset over files that sinks have written, and the way back.

A virtual dataset has no rows of its own: it says which rows lie in which file. It carries the record of the whole, so
that `verify` checks it as any other. HDF5 reads rows of a file that is missing as zeros without a word; `verify` names it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

import shmlease
from shmlease.errors import SinkError
from shmlease.hdf5 import provenance
from shmlease.hdf5.checksum import combine, crc32
from shmlease.hdf5.chunk_encoding import plain_bytes
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.provenance import Source, format_checksum
from shmlease.hdf5.sink import HDF5Sink
from shmlease.hdf5.staging import output_path
from shmlease.hdf5.verification import missing_parts
from shmlease.output_file import move_into_place

if TYPE_CHECKING:
    import h5py

__all__ = ["Part", "consolidate", "join", "parts_of"]

_READ_BYTES = 8 << 20  # at a time


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
        Where its rows came from.
    """

    path: str
    dataset: str
    dtype: str
    rows: int
    row_bytes: int
    sources: tuple[Source, ...]


def parts_of(path: str) -> list[Part]:
    """The datasets of the file at `path`.

    Raises
    ------
    SinkError
        It is not there, or no sink has written it.
    """
    with _opened(path) as file:
        return [_part(path, name, file[name]) for name in _listed(path, file)]


def _part(path: str, name: str, dataset: h5py.Dataset) -> Part:
    if dataset.attrs.get(provenance.TRANSPOSED) or dataset.dtype.hasobject:
        raise SinkError(
            f"{path}: {name!r} is transposed, or has strings of variable length: it cannot be joined", path=path
        )
    sources = provenance.decode_sources(dataset.attrs.get(provenance.SOURCES, "[]"))
    dtype = str(dataset.attrs[provenance.DTYPE])
    return Part(path, name, dtype, dataset.shape[0], _row_bytes(dataset), tuple(sources))


def join(out: str, datasets: Mapping[str, Sequence[Part]], *, overwrite: bool = False) -> None:
    """Make the file `out`, whose datasets are those parts end to end; the files they are in must stay where they are.

    Raises
    ------
    SinkError
        The parts of a dataset differ in dtype or row shape; or there is a file already.
    """
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    place = output_path(out, overwrite=overwrite)
    beside = f"{place}.joined-{os.getpid()}"
    try:
        with h5py.File(beside, "w", libver="latest") as file:
            for name, parts in datasets.items():
                _join_dataset(file, name, parts, os.path.dirname(place))
            file.attrs[provenance.VERSION] = shmlease.__version__
            file.attrs[provenance.DATASETS] = msgspec.json.encode(sorted(datasets)).decode()
        with open(beside, "rb") as made:
            os.fsync(made.fileno())
            move_into_place(made.fileno(), beside, str(place))
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


def _join_dataset(file: h5py.File, name: str, parts: Sequence[Part], directory: str) -> None:
    import h5py  # noqa: PLC0415 - see above

    checksum, row = 0, 0
    sources: list[Source] = []
    shapes: list[tuple[tuple[int, ...], Any, dict[str, Any]]] = []
    for part in parts:
        with _opened(part.path) as opened:
            dataset = opened[part.dataset]
            shapes.append((dataset.shape, dataset.dtype, dict(dataset.attrs)))
    (shape, dtype, first), rows = shapes[0], sum(shape[0] for shape, *_ in shapes)
    layout = h5py.VirtualLayout((rows, *shape[1:]), dtype)
    for part, (part_shape, part_dtype, attributes) in zip(parts, shapes, strict=True):
        if part_shape[1:] != shape[1:] or part_dtype != dtype:
            raise SinkError(
                f"dataset {name!r} is {dtype} {shape[1:]} in {parts[0].path} and {part_dtype} {part_shape[1:]} in "
                f"{part.path}; give types with lengths, such as name:S16",
                dataset=name,
            )
        stop = row + part_shape[0]
        if part_shape[0]:
            relative = os.path.relpath(os.path.realpath(part.path), directory)
            layout[row:stop] = h5py.VirtualSource(relative, part.dataset, part_shape)
        crc = int(str(attributes[provenance.CHECKSUM]).removeprefix("crc32:"), base=16)
        nbytes = part_shape[0] * dtype.itemsize * math.prod(shape[1:])
        checksum = combine(checksum, crc, nbytes)
        sources += [replace(source, start=source.start + row, stop=source.stop + row) for source in part.sources]
        row = stop
    joined = file.create_virtual_dataset(name, layout)
    joined.attrs.update({key: value for key, value in first.items() if not key.startswith(provenance.PREFIX)})
    joined.attrs[provenance.VERSION] = shmlease.__version__
    joined.attrs[provenance.ROWS] = rows
    joined.attrs[provenance.DTYPE] = first[provenance.DTYPE]
    joined.attrs[provenance.CHECKSUM] = format_checksum(checksum)
    joined.attrs[provenance.SOURCES] = provenance.encode_sources(sources)


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
    with _opened(path) as file, HDF5Sink(out, compression=compression, overwrite=overwrite) as sink:
        for name in _listed(path, file):
            dataset = file[name]
            _require_parts(path, dataset)
            checksum = 0
            for block in _blocks(dataset):
                checksum = crc32(plain_bytes(block), checksum)
                sink.append(name, block, labels=_labels(dataset.dtype))
            recorded = str(dataset.attrs[provenance.CHECKSUM])
            if format_checksum(checksum) != recorded:
                raise SinkError(
                    f"{path}: rows of {name!r} have {format_checksum(checksum)}, and {recorded} is recorded; "
                    "shmlease verify says which",
                    dataset=name,
                )
            for each in _part(path, name, dataset).sources:
                sink.source(
                    name,
                    path=each.path,
                    rows=(each.start, each.stop),
                    size_bytes=each.size_bytes,
                    digest=each.digest,
                    **each.details,
                )
            attributes = {key: value for key, value in dataset.attrs.items() if not key.startswith(provenance.PREFIX)}
            sink.attributes(name).update(attributes)


def _require_parts(path: str, dataset: h5py.Dataset) -> None:
    missing = missing_parts(path, dataset)
    if missing:
        raise SinkError(f"{path}: {missing[0]}, where rows of {dataset.name!r} are, is not there", path=path)


def _blocks(dataset: h5py.Dataset) -> Iterator[Any]:
    step = max(1, _READ_BYTES // max(1, _row_bytes(dataset)))
    dtype = parse_dtype(dataset.attrs[provenance.DTYPE])  # h5py's own carries what it read as metadata, of no use here
    for start in range(0, max(dataset.shape[0], 1), step):
        block = dataset[start : start + step]
        yield block.view(dtype) if block.dtype == dtype else block


def _opened(path: str) -> h5py.File:
    import h5py  # noqa: PLC0415 - see above

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise SinkError(f"{path}: cannot be read as HDF5: {str(error).splitlines()[0]}", path=path) from error


def _listed(path: str, file: h5py.File) -> list[str]:
    try:
        return msgspec.json.decode(file.attrs[provenance.DATASETS], type=list[str])
    except (KeyError, TypeError, msgspec.DecodeError):
        raise SinkError(f"{path}: has no record of shmlease's", path=path) from None


def _labels(dtype: Any) -> dict[str, list[str]]:
    """The labels of the fields that are enumerations, or of the type itself."""
    import h5py  # noqa: PLC0415 - see above

    values = {name: h5py.check_enum_dtype(dtype[name] if name else dtype) for name in dtype.names or ("",)}
    return {name: sorted(numbers, key=numbers.__getitem__) for name, numbers in values.items() if numbers}


def _row_bytes(dataset: h5py.Dataset) -> int:
    return int(dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
