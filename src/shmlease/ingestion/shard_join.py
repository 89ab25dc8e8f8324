"""Shards of an ingest as one file: each shard has the rows of some of the inputs, or of parts of them, in order.

The file has the datasets, names and records that one ingest of all inputs would have made. Its rows lie in the shards;
only what says where malformed lines are is written anew, since it counts from the beginning of a shard there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
import numpy as np

from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.file_parts import part_of
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.provenance import Source
from shmlease.hdf5.virtual import Part, join, opened, parts_of
from shmlease.ingestion.bad_rows import LINES
from shmlease.ingestion.dataset_names import dataset_names
from shmlease.ingestion.file_progress import report_of
from shmlease.ingestion.report import DatasetReport, FileReport, Rejected

__all__ = ["JoinedShards", "join_shards"]

_REJECTED: Final = "rejected/"
_ROWS: Final = 20_000  # of LINES, at a time


@dataclass(slots=True)
class _Table:
    """What is one table in the output.

    Attributes
    ----------
    columns : dict of str to list of Part
        Its datasets, or one under an empty name.
    paths : list of str
        Its inputs, in order.
    rejected : list of (int, Part, Part)
        Numbers of shards, and their malformed lines: where these are, and their text.
    """

    columns: dict[str, list[Part]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    rejected: list[tuple[int, Part, Part]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JoinedShards:
    """What is in the file.

    Attributes
    ----------
    datasets : tuple of DatasetReport
    files : tuple of FileReport
    lines_before : dict of (int, str) to int
        Lines of a file that earlier shards have, by number of the shard and path.
    """

    datasets: tuple[DatasetReport, ...]
    files: tuple[FileReport, ...]
    lines_before: dict[tuple[int, str], int]

    def in_file(self, shard: int, rejected: Rejected) -> Rejected:
        """A malformed line as that of its file."""
        before = self.lines_before.get((shard, rejected.path), 0)
        return replace(rejected, line=rejected.line + before) if before else rejected


def join_shards(out: str, shards: Sequence[str], into: str | None, *, is_columnar: bool, rejected: str) -> JoinedShards:
    """Make the file `out` of these shards.

    Parameters
    ----------
    out : str
    shards : sequence of str
        Their paths, in the order of the inputs.
    into : str or None
        As of `ingest`.
    is_columnar : bool
        Tables are groups of columns.
    rejected : str
        Where to write what says where malformed lines are, if there are any.

    Raises
    ------
    SinkError
        Shards do not fit together, one is missing or has no records, or there is a file already.
    """
    written = [parts_of(path) for path in shards]
    tables = _tables(written, into, is_columnar=is_columnar)
    before = _lines_before(written)
    datasets = {
        f"{name}/{column}" if column else name: parts
        for name, table in tables.items()
        for column, parts in table.columns.items()
    }
    if any(table.rejected for table in tables.values()):
        _write_rejected(rejected, tables, before)
        for part in parts_of(rejected):
            datasets[part.dataset] = [part]
        for name, table in tables.items():
            if table.rejected:
                datasets[f"{_REJECTED}{name}/text"] = [text for _, _, text in table.rejected]
    sources = join(out, datasets)
    return JoinedShards(
        tuple(_dataset_report(name, table) for name, table in tables.items()),
        tuple(report for name, table in tables.items() for report in _file_reports(name, table, sources)),
        before,
    )


def _tables(written: list[list[Part]], into: str | None, *, is_columnar: bool) -> dict[str, _Table]:
    paths = dict.fromkeys(source.path or "" for part in _rows_of(written, into) for source in part.sources)
    names = dict.fromkeys(paths, into) if into else dict(zip(paths, dataset_names(list(paths)), strict=True))
    tables: dict[str, _Table] = {}
    for number, parts in enumerate(written):
        of_shard: dict[str, _Table] = {}
        for part in _rows_of([parts], into):
            own = into or (part.dataset.partition("/")[0] if is_columnar else part.dataset)
            here = [source.path or "" for source in part.sources]
            table = of_shard[own] = tables.setdefault(str(names[here[0]]), _Table())
            table.columns.setdefault(part.dataset[len(own) + 1 :], []).append(part)
            table.paths += [path for path in here if path not in table.paths]
        by_name = {part.dataset: part for part in parts}
        for own, table in of_shard.items():
            if f"{_REJECTED}{own}/lines" in by_name:
                table.rejected.append((number, by_name[f"{_REJECTED}{own}/lines"], by_name[f"{_REJECTED}{own}/text"]))
    return tables


def _rows_of(written: list[list[Part]], into: str | None) -> Iterator[Part]:
    """The datasets that have rows, and not malformed lines."""
    for parts in written:
        for part in parts:
            if not part.dataset.startswith(_REJECTED) or (into and f"{part.dataset}/".startswith(f"{into}/")):
                yield part


def _lines_before(written: list[list[Part]]) -> dict[tuple[int, str], int]:
    before: dict[tuple[int, str], int] = {}
    lines: dict[str, int] = {}
    for number, parts in enumerate(written):
        of_shard = {
            source.path: found for each in parts for source in each.sources if (found := part_of(source)) is not None
        }
        for path, part in of_shard.items():
            before[number, path or ""] = lines.get(path or "", 0)
            lines[path or ""] = before[number, path or ""] + part.lines
    return before


def _write_rejected(path: str, tables: dict[str, _Table], before: dict[tuple[int, str], int]) -> None:
    with HDF5Sink(path, encoders=1, overwrite=True) as sink:
        for name, table in tables.items():
            text_bytes, dataset = 0, f"{_REJECTED}{name}/lines"
            for number, lines, text in table.rejected:
                for rows in _renumbered(number, lines, table.paths, before, text_bytes):
                    sink.append(dataset, rows)
                text_bytes += text.rows
            if table.rejected:
                sink.attributes(dataset)["files"] = msgspec.json.encode(table.paths).decode()


def _renumbered(
    number: int, lines: Part, paths: list[str], before: dict[tuple[int, str], int], text_bytes: int
) -> Iterator[np.ndarray[Any, Any]]:
    """The malformed lines of a shard, as those of the files that `paths` names, behind so much text."""
    with opened(lines.path) as file:
        dataset = file[lines.dataset]
        here = msgspec.json.decode(dataset.attrs["files"], type=list[str])
        places = np.array([paths.index(path) for path in here])
        lines_before = np.array([before.get((number, path), 0) for path in here])
        for start in range(0, lines.rows, _ROWS):
            rows = dataset[start : start + _ROWS].astype(LINES)
            rows["line"] += lines_before[rows["file"]]
            rows["file"] = places[rows["file"]]
            rows["start"] += text_bytes
            rows["stop"] += text_bytes
            yield rows


def _dataset_report(name: str, table: _Table) -> DatasetReport:
    columns = {column: parts[0] for column, parts in table.columns.items()}
    rows = sum(part.rows for part in next(iter(table.columns.values())))
    if "" in columns:
        return DatasetReport(name, columns[""].dtype, rows, columns[""].row_bytes)
    types = {column: parse_dtype(part.dtype) for column, part in columns.items()}
    shapes = {column: (part.row_bytes // types[column].itemsize,) for column, part in columns.items()}
    dtype = np.dtype([(column, types[column], () if shapes[column] == (1,) else shapes[column]) for column in columns])
    return DatasetReport(name, str(dtype), rows, dtype.itemsize)


def _file_reports(name: str, table: _Table, sources: dict[str, list[Source]]) -> list[FileReport]:
    column = next(iter(table.columns))
    return [report_of(source, name) for source in sources[f"{name}/{column}" if column else name]]
