"""A table as a group with one dataset for each of its fields, where a sink alone has one dataset of structured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from shmlease.hdf5.attributes import Attributes
from shmlease.hdf5.chunk_encoding import Codec, EncodedChunk
from shmlease.hdf5.chunking import ChunkPlan
from shmlease.hdf5.columns import AnyCodec, ColumnarCodec
from shmlease.hdf5.recovery import Completed
from shmlease.hdf5.sink import HDF5Sink

__all__ = ["AnySink", "ColumnarSink"]


class ColumnarSink:
    """The calls of a sink by which encoded chunks are stored, for tables whose columns are datasets.

    Column ``x`` of the table ``calls`` is the dataset ``calls/x``. What a run that was killed had done for some columns
    only is not done again for them. Names of other datasets mean what they mean to the sink.

    Parameters
    ----------
    sink : HDF5Sink
    columns : mapping of str to sequence of str
        The names of the columns of each table.
    chunk_bytes : int
        Size of the rows of a chunk, all columns together.
    compressions : mapping of str to str
        Of the columns that have one of their own.
    """

    def __init__(
        self,
        sink: HDF5Sink,
        columns: Mapping[str, Sequence[str]],
        chunk_bytes: int,
        compressions: Mapping[str, str] | None = None,
    ) -> None:
        self._sink = sink
        self._columns = columns
        self._chunk_bytes = chunk_bytes
        self._compressions = compressions or {}

    def _datasets(self, name: str) -> list[str]:
        return [f"{name}/{column}" for column in self._columns[name]] if name in self._columns else [name]

    def completed(self) -> Completed:
        """What the interrupted run that this sink resumes had done: of a table, what was done for all columns."""
        before = self._sink.completed()
        rows, sources, finished = dict(before.rows), dict(before.sources), set(before.finished)
        for name in self._columns:
            parts = self._datasets(name)
            if parts[0] not in before.rows:
                continue
            rows[name] = min(before.rows.get(part, 0) for part in parts)
            known = [before.sources.get(part, ()) for part in parts]
            sources[name] = tuple(each for each in known[0] if all(each in others for others in known))
            if before.finished.issuperset(parts):
                finished.add(name)
        return replace(before, rows=MappingProxyType(rows), sources=MappingProxyType(sources), finished=frozenset(finished))

    def declare(
        self,
        name: str,
        dtype: np.dtype[Any],
        trailing: Sequence[int] = (),
        labels: Mapping[str, Sequence[str]] | None = None,
        *,
        chunk_rows: int | None = None,
        transposed: bool = False,
        variable: Sequence[str] = (),
    ) -> AnyCodec:
        """Start the datasets of a table; returns what workers encode its chunks with."""
        if name not in self._columns:
            return self._sink.declare(
                name, dtype, trailing, labels, chunk_rows=chunk_rows, transposed=transposed, variable=variable
            )
        chunk_rows = chunk_rows or max(1, self._chunk_bytes // dtype.itemsize)
        codecs: list[tuple[str, Codec]] = []
        for column, dataset in zip(self._columns[name], self._datasets(name), strict=True):
            field = dtype[column]
            codec = self._sink.declare(
                dataset,
                field.base,
                field.shape,
                {"": labels[column]} if labels and column in labels else None,
                chunk_rows=chunk_rows,
                compression=self._compressions.get(column),
                variable=("",) if column in variable else (),
            )
            chunk_rows = codec.chunk_rows  # of the run that is resumed, which may have had another size
            codecs.append((column, codec))
        return ColumnarCodec(tuple(codecs))

    def attributes(self, name: str) -> Attributes | ColumnarAttributes:
        """The attributes of a table, to be set."""
        columns = {column: self._sink.attributes(f"{name}/{column}") for column in self._columns.get(name, ())}
        return ColumnarAttributes(columns) if columns else self._sink.attributes(name)

    def plan(self, name: str) -> ChunkPlan[Any]:
        """A plan of the chunks of a table: those that a column still needs."""
        plans: list[ChunkPlan[Any]] = [self._sink.plan(dataset) for dataset in self._datasets(name)]
        return ChunkPlan(
            plans[0].chunk_rows,
            start_row=min(plan.rows for plan in plans),
            is_stored=lambda index: all(plan.is_stored(index) for plan in plans),
        )

    def append_encoded(self, name: str, index: int, chunk: EncodedChunk, payload: Any) -> None:
        """Store an encoded chunk of a table."""
        place = 0
        for dataset, part in zip(self._datasets(name), chunk.columns or (chunk,), strict=True):
            self._sink.append_encoded(dataset, index, part, payload[place : place + part.size_bytes])
            place += part.size_bytes

    def source(self, name: str, **source: Any) -> None:
        """Note where rows came from, for each column; see `HDF5Sink.source`."""
        known = self._sink.completed().sources
        start, stop = source["rows"]
        for dataset in self._datasets(name):
            if not any(
                (source["path"], start, stop) == (each.path, each.start, each.stop) for each in known.get(dataset, ())
            ):
                self._sink.source(dataset, **source)

    def checkpoint(self, position: Any, *, rows: Mapping[str, int]) -> None:
        """See `HDF5Sink.checkpoint`; the rows of a table are those of its columns."""
        self._sink.checkpoint(
            position, rows={dataset: count for name, count in rows.items() for dataset in self._datasets(name)}
        )

    def finish(self, name: str, rows: int | None = None) -> None:
        """A table takes no more rows."""
        finished = self._sink.completed().finished
        for dataset in self._datasets(name):
            if dataset not in finished:
                self._sink.finish(dataset, rows)


class ColumnarAttributes:
    """The attributes of all columns of a table: ``FIELD.key`` is ``key`` of that column, any other one is of all."""

    def __init__(self, columns: Mapping[str, Attributes]) -> None:
        self._columns = columns

    def update(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes."""
        for key, value in attributes.items():
            owner = max((column for column in self._columns if key.startswith(f"{column}.")), key=len, default=None)
            for column in self._columns if owner is None else (owner,):
                self._columns[column][key if owner is None else key.removeprefix(f"{owner}.")] = value


AnySink = HDF5Sink | ColumnarSink
