"""Whether an HDF5 file is what was put into it: every dataset against its own record, and the sources against theirs.

The file is read the way any reader would, through h5py, and not by the code that wrote it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shmlease.errors import SinkError
from shmlease.exhaustion import explains_shortage, require_allocatable
from shmlease.hdf5 import provenance
from shmlease.hdf5.checksum import Checksum, crc32
from shmlease.hdf5.chunk_encoding import plain_bytes
from shmlease.hdf5.filters import ROOM_BYTES
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.provenance import Source, format_checksum
from shmlease.hdf5.variable_strings import fixed_strings, fixed_type
from shmlease.notebook import html_table
from shmlease.units import format_count

if TYPE_CHECKING:
    import h5py

__all__ = ["DatasetCheck", "Mismatch", "VerifyReport", "missing_parts", "verify"]

_READ_BYTES = 8 << 20  # at a time


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as recorded: of what, what was expected, what was seen."""

    subject: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.subject}: expected {self.expected}, seen {self.seen}"


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """One dataset as it was read.

    Attributes
    ----------
    name : str
    rows : int
        Found in the file.
    checksum : str or None
        Of the elements found; None where they cannot be read.
    recorded : bool
        Whether the dataset carries a record of shmlease's. One that does not was written by another program, and is not
        judged.
    sources : tuple of Source
        As recorded.
    mismatches : tuple of Mismatch
    """

    name: str
    rows: int
    checksum: str | None
    recorded: bool
    sources: tuple[Source, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()

    def __str__(self) -> str:
        verdict = "differs" if self.mismatches else "good" if self.recorded else "no record"
        origin = f"  {format_count(len(self.sources), 'source')}" if self.sources else ""
        return f"{format_count(self.rows, 'row')}  {self.checksum or '-'}  {verdict}{origin}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    path : str
    datasets : tuple of DatasetCheck
    sources_checked : int
        Source files whose size and digest were compared.
    mismatches : tuple of Mismatch
        All of them: of the file, of the datasets, of the source files.
    """

    path: str
    datasets: tuple[DatasetCheck, ...]
    sources_checked: int
    mismatches: tuple[Mismatch, ...] = field(default=())

    @property
    def is_good(self) -> bool:
        """Whether everything is as recorded."""
        return not self.mismatches

    @property
    def verdict(self) -> str:
        """In a word, or the number of mismatches."""
        return "good" if self.is_good else format_count(len(self.mismatches), "mismatch", "mismatches")

    def __str__(self) -> str:
        lines = [f"{check.name}  {check}" for check in self.datasets]
        lines += [f"mismatch: {mismatch}" for mismatch in self.mismatches]
        if self.sources_checked:
            lines.append(f"{format_count(self.sources_checked, 'source file')} compared")
        return "\n".join([*lines, f"{self.path}: {self.verdict}"])

    def __repr__(self) -> str:
        return f"<VerifyReport {self.path}: {self.verdict}, {format_count(len(self.datasets), 'dataset')}>"

    def _repr_html_(self) -> str:
        found = [("mismatch", str(mismatch)) for mismatch in self.mismatches]
        return html_table(f"{self.path}: {self.verdict}", [*((check.name, str(check)) for check in self.datasets), *found])


@explains_shortage("{path} cannot be verified")
def verify(path: str | os.PathLike[str], sources: str | os.PathLike[str] | None = None) -> VerifyReport:
    """Check a file that an `HDF5Sink` wrote.

    Parameters
    ----------
    path : path-like
        The HDF5 file.
    sources : path-like, optional
        Directory of the source files: those recorded with size and digest are read again and compared. A recorded path
        is looked up relative to it, then by its last part in it.

    Returns
    -------
    VerifyReport
        Attributes that the user set are not covered, and datasets that shmlease did not write are only listed.

    Raises
    ------
    SinkError
        The file does not open as HDF5, or carries no record of shmlease's.
    CapacityError
        Memory or descriptors have run out; the message says which limit.
    """
    import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

    require_allocatable(ROOM_BYTES)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SinkError(f"{path}: not a regular file", path=os.fspath(path))
        with open(path, "rb"):
            pass  # for the system's reason, should it refuse; HDF5's own is hard to read
        file = h5py.File(path, "r")
    except SinkError:
        raise
    except FileNotFoundError as error:
        raise SinkError(f"{path}: there is no such file", path=os.fspath(path)) from error
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise SinkError(f"{path}: cannot be read as HDF5: {reason}", path=os.fspath(path)) from error
    with file:
        try:
            listed = msgspec.json.decode(file.attrs[provenance.DATASETS], type=list[str])
        except (KeyError, OSError, TypeError, msgspec.DecodeError) as error:
            raise SinkError(
                f"{path}: has no record of shmlease's, so there is nothing to verify it against; "
                f"it was written by another program, or rewritten without its attributes",
                path=os.fspath(path),
            ) from error
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        missing = [Mismatch(name, "a dataset", "none") for name in listed if name not in found]
        missing += [
            Mismatch(f"{name} rows", f"the file {part}", "none")
            for name, dataset in found.items()
            for part in missing_parts(file.filename, dataset)
        ]
        checks = tuple(_check_dataset(name, dataset) for name, dataset in found.items())
    compared, differing = _check_sources(checks, Path(sources)) if sources is not None else (0, [])
    inside = [mismatch for check in checks for mismatch in check.mismatches]
    return VerifyReport(os.fspath(path), checks, compared, (*missing, *inside, *differing))


def missing_parts(path: str, dataset: h5py.Dataset) -> list[str]:
    """The files that a virtual dataset of the file at `path` is in, and that are not there: HDF5 reads zeros for them."""
    directory = os.path.dirname(os.path.realpath(path))
    named = {source.file_name for source in dataset.virtual_sources()} if dataset.is_virtual else set()
    return sorted(each for each in named if not os.path.isfile(os.path.join(directory, each)))


def _check_dataset(name: str, dataset: h5py.Dataset) -> DatasetCheck:
    rows = dataset.shape[0] if dataset.shape else 1
    try:
        attributes = dict(dataset.attrs)
        is_transposed = bool(attributes.get(provenance.TRANSPOSED))
        rows = dataset.shape[-1] if is_transposed else rows
        if provenance.CHECKSUM not in attributes:
            return DatasetCheck(name, rows, None, recorded=False)
        sources = provenance.decode_sources(attributes.get(provenance.SOURCES, "[]"))
        dtype = parse_dtype(attributes[provenance.DTYPE])
        expected_rows = int(attributes[provenance.ROWS])
    except (OSError, KeyError, ValueError, TypeError, SyntaxError, msgspec.DecodeError) as error:
        unreadable = Mismatch(name, "a readable record", f"{type(error).__name__}: {error}")
        return DatasetCheck(name, rows, None, recorded=True, mismatches=(unreadable,))
    mismatches = []
    if rows != expected_rows:
        mismatches.append(Mismatch(name, f"{expected_rows} rows", f"{rows}"))
    if fixed_type(dataset.dtype, dtype) != dtype:
        mismatches.append(Mismatch(name, f"dtype {dtype}", f"{dataset.dtype}"))
    checksum = Checksum()
    trailing = dataset.shape[:-1] if is_transposed else dataset.shape[1:]
    row_bytes = dtype.itemsize * int(np.prod(trailing, dtype=np.int64))
    try:
        for block in _blocks(dataset, rows, row_bytes, sources, is_transposed=is_transposed):
            data = plain_bytes(fixed_strings(block, dtype))
            checksum.extend([(data.size, crc32(data))])
    except (OSError, ValueError, TypeError) as error:
        reached = checksum.size_bytes // row_bytes
        mismatches.append(Mismatch(name, "readable rows", f"from row {reached} on: {error}"))
        return DatasetCheck(name, rows, None, recorded=True, sources=tuple(sources), mismatches=tuple(mismatches))
    seen = format_checksum(checksum.value)
    if seen != attributes[provenance.CHECKSUM]:
        mismatches.append(Mismatch(name, str(attributes[provenance.CHECKSUM]), seen))
    mismatches += _check_ranges(name, sources, checksum, row_bytes)
    return DatasetCheck(name, rows, seen, recorded=True, sources=tuple(sources), mismatches=tuple(mismatches))


def _blocks(
    dataset: h5py.Dataset, rows: int, row_bytes: int, sources: Iterable[Source], *, is_transposed: bool
) -> Iterator[np.ndarray[Any, Any]]:
    """The rows of the dataset in order, in blocks that end where a source does."""
    if not dataset.shape:
        yield np.asarray(dataset[()], dtype=dataset.dtype)
    elif row_bytes and rows:
        chunk_rows = dataset.chunks[-1 if is_transposed else 0] if dataset.chunks else 1
        step = max(1, _READ_BYTES // row_bytes // chunk_rows) * chunk_rows
        ends = {row for source in sources for row in (source.start, source.stop)}
        cuts = sorted({*range(0, rows, step), *(end for end in ends if 0 < end < rows)})
        for start, stop in zip(cuts, [*cuts[1:], rows], strict=True):
            yield dataset[..., start:stop].T if is_transposed else dataset[start:stop]


def _check_ranges(name: str, sources: list[Source], checksum: Checksum, row_bytes: int) -> Iterator[Mismatch]:
    for source in sources:
        value = checksum.between(source.start * row_bytes, source.stop * row_bytes)
        seen = "no such rows" if value is None else format_checksum(value)
        if source.checksum is not None and seen != source.checksum:
            subject = f"{name} rows {source.start} to {source.stop} ({source.path or 'no path'})"
            yield Mismatch(subject, source.checksum, seen)


def _check_sources(checks: Iterable[DatasetCheck], directory: Path) -> tuple[int, list[Mismatch]]:
    recorded: dict[tuple[str, int | None, str | None], None] = {}
    for check in checks:
        for source in check.sources:
            if source.path is not None and (source.size_bytes, source.digest) != (None, None):
                recorded[source.path, source.size_bytes, source.digest] = None
    mismatches = []
    for path, size_bytes, digest in recorded:
        candidates = [place for place in (directory / path, directory / Path(path).name) if place.is_file()]
        if not candidates:
            mismatches.append(Mismatch(f"source {path}", f"a file in {directory}", "none"))
            continue
        try:
            algorithm = "sha256" if digest is None else digest.partition(":")[0]
            seen_bytes, seen_digest = provenance.digest_file(candidates[0], algorithm)
        except OSError as error:
            mismatches.append(Mismatch(f"source {path}", "a readable file", str(error)))
            continue
        if size_bytes not in (None, seen_bytes):
            mismatches.append(Mismatch(f"source {path}", f"{size_bytes} bytes", f"{seen_bytes}"))
        elif digest not in (None, seen_digest):
            mismatches.append(Mismatch(f"source {path}", str(digest), seen_digest))
    return len(recorded), mismatches
