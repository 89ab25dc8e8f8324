"""What is to be done, as one value: which files, how they are read, into which datasets."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from shmlease.errors import DTypeError, IngestError
from shmlease.hdf5 import output_path
from shmlease.ingestion.budget import Budget
from shmlease.ingestion.dataset_names import dataset_names
from shmlease.ingestion.little_input import is_little
from shmlease.ingestion.plan_digest import digest_of
from shmlease.ingestion.readers import Input
from shmlease.ingestion.report import DatasetReport, FileReport
from shmlease.ingestion.tasks import Context, OnError
from shmlease.text.archives import expand_archives, member_of
from shmlease.text.formats import format_named
from shmlease.text.header import Table, open_table
from shmlease.text.native_parser import is_native
from shmlease.text.parser_choice import Parser
from shmlease.text.parts import table_part
from shmlease.text.pipes import STANDARD_INPUT
from shmlease.text.schema import Field, Schema
from shmlease.text.sources import FileState, PathLike, is_read_once, require_utf8_name, state_of
from shmlease.text.string_lengths import fit_needed_strings

__all__ = ["IngestPlan", "check_output_path", "plan_ingest", "schema_of"]

# Text of a compressed file for each of its bytes, about, where files are compared.
_PACKED_TEXT = 4


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """Files, and the dataset each goes to.

    Attributes
    ----------
    tables : tuple of Table
        The files, in order, each with the schema fitted to it.
    states : tuple of FileState
        Their sizes and the times when they were last changed.
    datasets : tuple of str
        Where each goes; the files of one dataset are neighbours.
    on_error : {"fail", "skip", "quarantine"}
        What becomes of malformed lines.
    parser : {"native", "numpy"}
        Which reads the lines.
    columnar : bool
        Each dataset is a group, with one dataset for each field.
    """

    tables: tuple[Table, ...]
    states: tuple[FileState, ...]
    datasets: tuple[str, ...]
    on_error: OnError
    parser: Parser
    columnar: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return self.schema.dtype

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        files = zip(self.tables, self.states, strict=True)
        return sum(state.size_bytes if table.part is None else table.part[1] - table.part[0] for table, state in files)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files."""
        return tuple(table.path for table in self.tables)

    @property
    def is_little(self) -> bool:
        """Whether workers would take longer to start than the files to read."""
        return is_little(self.paths) and all(table.compression == "plain" for table in self.tables)

    @property
    def schemas(self) -> list[Schema]:
        """As they were fitted to each file."""
        return [table.schema for table in self.tables]

    @property
    def schema(self) -> Schema:
        """As it was fitted to the first file."""
        return self.tables[0].schema

    def require_files(self, why: str) -> None:
        """Raise if one of the inputs can be read once only.

        Raises
        ------
        IngestError
            It is a pipe.
        """
        for table in self.tables:
            if is_read_once(table.path):
                raise IngestError(
                    f"{table.path}: a pipe can be read once, and {why}; write what it gives to a file", path=table.path
                )

    @property
    def columns(self) -> dict[str, list[str]]:
        """The names of the columns of each dataset that is a group of them."""
        return {name: table.schema.names for table, name in zip(self.tables, self.datasets, strict=True) if self.columnar}

    @property
    def needs_numpy(self) -> bool:
        """Whether the parser in C reads none of the files, because of their fields or how they are written."""
        return not any(is_native(table.schema) for table in self.tables)

    def inputs(self, budget: Budget) -> Iterator[tuple[str, list[Input]]]:
        """The datasets, each with its files."""
        numbered = enumerate(zip(self.tables, self.states, self.datasets, strict=True))
        for name, group in itertools.groupby(numbered, key=lambda each: each[1][2]):
            inputs = []
            for index, (table, state, _) in group:
                lease_rows = budget.lease_rows(table.schema)
                sizes = budget.block_bytes, budget.step_bytes, lease_rows
                context = Context(index, table, None, *sizes, self.on_error, self.parser)
                inputs.append(Input(index, context, state))
            yield name, inputs

    def in_turn(self, workers: int) -> frozenset[str]:
        """The datasets whose pieces are to be parsed in turn, each for the most part by one of so many workers.

        Those are so small beside what is still to come that none of them is what all others wait for at the end; the last
        one is parsed with the help of this process in any case. A pipe cannot be handed over.
        """
        sizes: Counter[str] = Counter()
        read_once = {name for table, name in zip(self.tables, self.datasets, strict=True) if is_read_once(table.path)}
        for table, state, name in zip(self.tables, self.states, self.datasets, strict=True):
            sizes[name] += state.size_bytes * (1 if table.compression == "plain" else _PACKED_TEXT)
        left = sizes.total()
        chosen = set()
        for name, size in sizes.items():
            if name not in read_once and size * max(workers, 2) <= left:
                chosen.add(name)
            left -= size
        return frozenset(chosen)

    def with_string_lengths(self, lengths: Mapping[str, int], *, all_strings: bool = True) -> IngestPlan:
        """The same plan with string fields just long enough, or those without a length; `lengths` in bytes, by field."""
        fitted = (fit_needed_strings(table.schema, lengths, all_strings=all_strings) for table in self.tables)
        return replace(
            self, tables=tuple(replace(table, schema=schema) for table, schema in zip(self.tables, fitted, strict=True))
        )

    def dataset_reports(self, files: Sequence[FileReport]) -> tuple[DatasetReport, ...]:
        """What the datasets hold, from what became of the files."""
        rows = dict.fromkeys(self.datasets, 0)
        for each in files:
            rows[each.dataset] += each.rows
        described, row_bytes = str(self.dtype), self.dtype.itemsize
        return tuple(DatasetReport(name, described, count, row_bytes) for name, count in rows.items())

    def digest(self) -> str:
        """A name for the plan, the same for the same files in the same state and the same schema."""
        return digest_of(self.tables, self.states, self.datasets, self.columnar)


def check_output_path(out: PathLike, paths: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output that is one of the files to read, or that could not be put there, before anything is done.

    Raises
    ------
    IngestError
        The output is one of the files to read.
    SinkError
        There is a file already and it is not to be overwritten, or no regular file can be put there.
    """
    there = os.stat(out) if os.path.exists(out) else None
    for path in paths:
        if there is not None and _is_same_file(path, there):
            raise IngestError(
                f"{os.fspath(out)}: is one of the files to read; choose another name for the output", path=path
            )
    output_path(out, overwrite=overwrite)


def _is_same_file(path: PathLike, other: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), other)
    except OSError:  # one of them is not there
        return False


def plan_ingest(
    paths: PathLike | Sequence[PathLike],
    schema: Schema,
    into: str | None = None,
    on_error: OnError = "fail",
    parser: Parser = "numpy",
    *,
    columnar: bool = False,
    ranges: Mapping[PathLike, tuple[int, int]] | None = None,
) -> IngestPlan:
    """Look at the beginning of every file.

    Raises
    ------
    IngestError
        There is no file, one is named twice, or one cannot be read with this schema.
    """
    if columnar and schema.matrix:
        raise DTypeError("a matrix is one dataset, and a columnar table one for each column; leave one of the two out")
    names = expand_archives([os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)])
    if not names:
        raise IngestError("no files are named; name at least one text file")
    seen: dict[str, str] = {}
    real_directory = lru_cache(os.path.realpath)
    for name in names:
        require_utf8_name(name)
        directory, base = os.path.split(name)
        is_plain = base not in ("", ".", "..") and not os.path.islink(name)
        real = os.path.join(real_directory(directory), base) if is_plain else os.path.realpath(name)
        if real in seen:
            raise IngestError(f"{name}: named twice" + (f", also as {seen[real]}" if seen[real] != name else ""), path=name)
        seen[real] = name
    tables, states = [], []
    parts = {os.fspath(path): part for path, part in (ranges or {}).items()}
    for name in names:
        table = open_table(name, schema)
        tables.append(table_part(table, *parts.pop(name)) if name in parts else table)
        states.append(state_of(name))
    for name in parts:
        raise IngestError(f"{name}: a range of it is given, and it is not one of the files to read", path=name)
    if into:
        require_utf8_name(into)
    datasets = [into] * len(names) if into else dataset_names(names)
    first: dict[str, Table] = {}
    for table, dataset in zip(tables, datasets, strict=True):
        _require_same(table, first.setdefault(dataset, table))
    for name, dataset in zip(names, datasets, strict=True):
        if on_error == "quarantine" and dataset.split("/")[0] == "rejected":
            raise IngestError(
                f"{name}: its dataset is {dataset!r}, and malformed lines are kept under rejected/; name another (into)",
                path=name,
            )
    return IngestPlan(tuple(tables), tuple(states), tuple(datasets), on_error, parser, columnar)


def require_present(names: Iterable[str]) -> None:
    """Raise unless every file is there: what is asked next, such as how it is to be read, matters only then.

    Raises
    ------
    IngestError
        A file is not there, or cannot be looked at.
    """
    for name in names:
        try:
            if name != STANDARD_INPUT and member_of(name) is None:
                os.stat(name)
        except OSError as error:
            raise IngestError(f"{name}: cannot be read: {error.strerror}", path=name) from error


def _require_same(table: Table, first: Table) -> None:
    """Raise unless two files fit into one dataset.

    Raises
    ------
    IngestError
        Their rows are of different types, or their units differ.
    """
    if table.schema.dtype != first.schema.dtype:
        raise IngestError(
            f"{table.path}: its rows are {table.schema.dtype}, those of {first.path} are {first.schema.dtype}; put them "
            "into different datasets",
            path=table.path,
        )
    units, others = ({key: value for key, value in each.attributes if "." in key} for each in (table, first))
    for key in sorted(units.keys() | others.keys()):
        if units.get(key) != others.get(key):
            raise IngestError(
                f"{table.path}: {key} is {units.get(key)!r}, and {others.get(key)!r} in {first.path}; put them into "
                "different datasets",
                path=table.path,
            )


def schema_of(
    layout: str | Schema | None,
    dtype: str | np.dtype[Any] | Sequence[Field] | None,
    columns: Sequence[int | str] | None,
    options: dict[str, Any],
    matrix: str | None = None,
) -> Schema:
    """The schema that the arguments of `ingest` mean.

    Raises
    ------
    IngestError, DTypeError
        They mean none.
    """
    if matrix is not None:
        if dtype is not None or len(columns or ()) > 1:
            raise DTypeError(
                "a matrix has one type and all columns, from the first of `columns` on; give no dtype beside it"
            )
        field = Field("values", f"*{matrix}", source=columns[0] if columns else 0)
        given = layout if isinstance(layout, Schema) else Schema() if layout is None else format_named(layout)
        layout, columns = replace(given, fields=(field,), matrix=True), None
    if layout is None and dtype is None:
        raise IngestError(
            "how are the files to be read? name their layout (--layout, layout=), give their fields (--dtype, dtype=), "
            "let `shmlease ingest --infer FILE` find out, or name a function that reads them (--reader, reader=)"
        )
    schema = layout if isinstance(layout, Schema) else Schema() if layout is None else format_named(layout)
    unknown = set(options) - {each.name for each in fields(Schema)} | {"fields"} & set(options)
    if unknown:
        raise TypeError(f"ingest() got an unexpected keyword argument {min(unknown)!r}")
    hashable: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    schema = replace(schema, **hashable)
    if dtype is not None:
        return schema.with_dtype(dtype, columns)
    if columns is not None:
        raise DTypeError("columns go with a dtype: name the fields that they fill, such as chr:S16,pos:i4")
    if not schema.fields:
        raise DTypeError(f"layout {layout!r} says how a table is written, not what it holds; give a dtype, or infer one")
    return schema
