"""Shards of an ingest as one file: each shard has the rows of some of the inputs, or of parts of them, in order.

The file has the datasets, names and records that one ingest of all inputs would have made. Its rows lie in the shards;
only what says where malformed lines are is written anew, since it counts from the beginning of a shard there. Names of
tables and groups follow from all inputs, so they may be others in a shard: a dataset is known by the path of its sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
import numpy as np

from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.file_parts import part_of
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.provenance import PREFIX, Source
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
    """What is one table in the output, or one group of what a reader gave.

    Attributes
    ----------
    paths : list of str
        Its inputs, in order.
    columns : dict of str to list of Part
        Its datasets, or one under an empty name.
    rejected : list of (int, Part, Part)
        Numbers of shards, and their malformed lines: where these are, and their text.
    """

    paths: list[str]
    columns: dict[str, list[Part]] = field(default_factory=dict)
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


def join_shards(
    out: str,
    shards: Sequence[str],
    into: str | None,
    *,
    is_columnar: bool = False,
    rejected: str | None = None,
    groups: Mapping[str, str] | None = None,
) -> JoinedShards:
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
    rejected : str, optional
        Where shards keep what did not become rows: the file to write what says where that is.
    groups : mapping of str to str, optional
        Where a reader gave the datasets: the group of each path.

    Raises
    ------
    SinkError
        Shards do not fit together, one is missing or has no records, or there is a file already.
    """
    written = [_Shard.read(path, has_rejected=rejected is not None) for path in shards]
    is_grouped = is_columnar or groups is not None
    tables = _tables(written, groups or _table_names(written, into), into, is_grouped=is_grouped)
    before = _lines_before(written)
    datasets = {
        _joined_name(name, column): parts for name, table in tables.items() for column, parts in table.columns.items()
    }
    if rejected is not None and any(table.rejected for table in tables.values()):
        _write_rejected(rejected, tables, before)
        for part in parts_of(rejected):
            datasets[part.dataset] = [part]
        for name, table in tables.items():
            if table.rejected:
                datasets[f"{_REJECTED}{name}/text"] = [text for _, _, text in table.rejected]
    if groups is not None:
        datasets = {name: _with_all_attributes(parts) for name, parts in datasets.items()}
    sources = join(out, datasets)
    if groups is not None:
        return JoinedShards(_array_reports(tables), _path_reports(groups, sources), before)
    return JoinedShards(
        tuple(_dataset_report(name, table) for name, table in tables.items()),
        tuple(report for name, table in tables.items() for report in _file_reports(name, table, sources)),
        before,
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    """The datasets of a shard, and apart from them what did not become rows."""

    parts: list[Part]
    rejected: dict[str, Part]

    @classmethod
    def read(cls, path: str, *, has_rejected: bool) -> _Shard:
        parts = parts_of(path)
        rejected = {part.dataset: part for part in parts if has_rejected and part.dataset.startswith(_REJECTED)}
        return cls([part for part in parts if part.dataset not in rejected], rejected)


def _table_names(written: list[_Shard], into: str | None) -> dict[str, str]:
    """The table of each file of text."""
    paths = dict.fromkeys(source.path or "" for shard in written for part in shard.parts for source in part.sources)
    return dict.fromkeys(paths, into) if into else dict(zip(paths, dataset_names(list(paths)), strict=True))


def _tables(written: list[_Shard], names: Mapping[str, str], into: str | None, *, is_grouped: bool) -> dict[str, _Table]:
    paths: dict[str, list[str]] = {}
    for path, name in names.items():
        paths.setdefault(name, []).append(path)
    tables: dict[str, _Table] = {}

    def table_of(path: str | None) -> _Table:
        name = names[path or ""]
        return tables.setdefault(name, _Table(paths[name]))

    for number, shard in enumerate(written):
        for part in shard.parts:
            column = _column(part.dataset, into, is_grouped=is_grouped)
            table_of(part.sources[0].path).columns.setdefault(column, []).append(part)
        for dataset, lines in shard.rejected.items():
            if dataset.endswith("/lines"):
                text = shard.rejected[dataset.removesuffix("lines") + "text"]
                table_of(_files_of(lines)[0]).rejected.append((number, lines, text))
    return tables


def _column(dataset: str, into: str | None, *, is_grouped: bool) -> str:
    """What a dataset is called within its table."""
    if into is None:
        return dataset.partition("/")[2] if is_grouped else ""
    return dataset.removeprefix(into).removeprefix("/")


def _joined_name(name: str, column: str) -> str:
    return "/".join(filter(None, (name, column)))


def _files_of(lines: Part) -> list[str]:
    """The files that malformed lines count."""
    return msgspec.json.decode(lines.attributes["files"], type=list[str])


def _with_all_attributes(parts: list[Part]) -> list[Part]:
    """The parts, the first of them with the attributes that a reader gave with any."""
    attributes = dict(parts[0].attributes)
    for part in parts[1:]:
        attributes |= {key: value for key, value in part.attributes.items() if not key.startswith(PREFIX)}
    return [parts[0]._replace(attributes=attributes), *parts[1:]]


def _lines_before(written: list[_Shard]) -> dict[tuple[int, str], int]:
    before: dict[tuple[int, str], int] = {}
    lines: dict[str, int] = {}
    for number, shard in enumerate(written):
        of_shard = {
            source.path: found for each in shard.parts for source in each.sources if (found := part_of(source)) is not None
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
        here = _files_of(lines)
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


def _array_reports(tables: dict[str, _Table]) -> tuple[DatasetReport, ...]:
    """Of the datasets that a reader gave."""
    reports = []
    for name, table in tables.items():
        for column, parts in table.columns.items():
            first, rows = parts[0], sum(part.rows for part in parts) if parts[0].has_rows else parts[0].rows
            reports.append(DatasetReport(_joined_name(name, column), str(parse_dtype(first.dtype)), rows, first.row_bytes))
    return tuple(sorted(reports, key=lambda each: each.name))


def _path_reports(groups: Mapping[str, str], sources: Mapping[str, list[Source]]) -> tuple[FileReport, ...]:
    """Of the paths that a reader read: where their rows are. Which of them failed, the reports of the shards say."""
    found: dict[str, dict[str, Source]] = {path: {} for path in groups}
    for name, each in sources.items():
        for source in each:
            if source.path in found:
                found[source.path][name] = source
    reports = []
    for path, places in found.items():
        name, start_row = groups[path], 0
        if len(places) == 1:
            ((name, source),) = places.items()
            start_row = source.start
        rows = sum(source.stop - source.start for source in places.values())
        size_bytes = next((source.size_bytes for source in places.values()), None)
        reports.append(FileReport(path, name, start_row, rows, rejected=0, size_bytes=size_bytes or 0))
    return tuple(reports)
