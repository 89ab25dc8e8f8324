"""The sink: arrays into one HDF5 file, which appears under its name when it is complete, and not before.

One public class, more than half of whose lines are its documentation, so it stays in one module.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from shmlease.errors import SinkError
from shmlease.exhaustion import explains_shortage
from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.appender import Appender
from shmlease.hdf5.attributes import Attributes, encode_attribute
from shmlease.hdf5.checksum import crc32
from shmlease.hdf5.chunk_encoding import Codec, EncodedChunk, plain_bytes
from shmlease.hdf5.chunking import ChunkPlan
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.filters import compression_named
from shmlease.hdf5.layout import describe_dtype, require_storable
from shmlease.hdf5.provenance import Source, digest_file
from shmlease.hdf5.recovery import Completed
from shmlease.hdf5.session import Session
from shmlease.notebook import html_table
from shmlease.units import format_count, parse_bytes

__all__ = ["HDF5Sink", "HoldsArray"]

Array = np.ndarray[Any, Any]

# Measured on rows of 26 bytes, two encoders, against 1 MiB: 256 KiB 1.07 times the time and 1.18 times the size,
# 512 KiB 1.06 and 1.05, 2 MiB 1.22 and 0.97 (the second-level cache of that machine has 2 MiB a core).
_CHUNK_BYTES = "1MiB"
# A chunked dataset takes about 3 KiB beyond its data; below this size deflate does not win that back.
_SMALL_BYTES = 16 << 10
# Rows are made safe by storing chunks; what fills none goes to the write-ahead log, uncompressed. Once for every 16 MiB of
# rows that is at most a sixteenth of them for each dataset under way, and 16 MiB are read again in less than a second.
_CHECKPOINT_EVERY_BYTES = 16 << 20


class HoldsArray(Protocol):
    """Whatever has its rows in `array`, such as a lease."""

    @property
    def array(self) -> Array: ...


class HDF5Sink:
    """Writes arrays into an HDF5 file.

    The file is made beside its name, in ``<path>.partial/``, and moved there, complete and durable, when the sink is
    closed without an error. Until then a file of that name stays what it was. A sink is a context manager, and belongs to
    one thread. It takes the memory of about four chunks an encoder, and of the rows of each dataset that fill no chunk yet.

    Parameters
    ----------
    path : path-like
        The file to make. A symbolic link is followed.
    compression : {"gzip", "none", "lzf", "zstd", "blosc2"}
        ``gzip`` is HDF5's own shuffle and deflate, which every reader of HDF5 has. ``lzf`` needs h5py to be read, the
        last two need the package hdf5plugin to be written and read.
    chunk_bytes : int or str
        Size of a chunk before compression.
    encoders : int, optional
        Threads that encode; by default as many as there are processors, and at most 8.
    overwrite : bool
        Replace the file that is at `path` when this one is complete; its mode and owner are kept. Otherwise a file there is
        an error.
    resume : bool
        Go on with what an interrupted run left in ``<path>.partial``, if it left something: see `completed`. Otherwise
        that is dropped.
    keep_partial : bool, optional
        After an error, leave the partial file to a later run with `resume`; by default as `resume` says. What a killed
        process leaves stays in any case.

    Raises
    ------
    SinkError
        There is a file already, or the file cannot be made there, another sink is making it, or the compression is not
        available.
    CapacityError
        From this and every other call: memory, descriptors or threads have run out; the message says which limit.
    """

    @explains_shortage("{path} cannot be written")
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compression: str = "gzip",
        chunk_bytes: int | str = _CHUNK_BYTES,
        encoders: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
        keep_partial: bool | None = None,
    ) -> None:
        compression_named(compression)
        self._compression = compression
        self._chunk_bytes = max(1, parse_bytes(chunk_bytes))
        self._session = Session(
            path, overwrite=overwrite, resume=resume, keep_partial=resume if keep_partial is None else keep_partial
        )
        try:
            self._rows = Appender(self._session, encoders)
        except BaseException:
            self._session.abort(keep_partial=True)
            raise
        self._position = self._session.completed.position
        self._appended_bytes = 0  # since the last checkpoint

    @property
    def path(self) -> Path:
        """Where the file will be."""
        return self._session.output

    def __repr__(self) -> str:
        return f"<HDF5Sink {self.path} {'open' if self._session.is_open else 'closed'}, {self._compression}>"

    def _repr_html_(self) -> str:
        datasets = [(name, format_count(state.cursor, "row")) for name, state in self._session.datasets.items()]
        state = "open" if self._session.is_open else "closed"
        return html_table(f"HDF5Sink {self.path}", [("state", state), ("compression", self._compression), *datasets])

    def completed(self) -> Completed:
        """What the interrupted run that this sink resumes had done; nothing when it resumes none.

        Hand over every dataset from row ``completed().rows[name]`` on. Rows stored beyond it are compared when they come
        again; other rows in their place are an error.
        """
        return self._session.completed

    @explains_shortage("{self.path} cannot be written")
    def append(
        self,
        name: str,
        rows: HoldsArray | Array,
        *,
        labels: Mapping[str, Sequence[str]] | None = None,
        transposed: bool = False,
        variable: Sequence[str] = (),
    ) -> None:
        """Append rows to a dataset, which the first call creates.

        The rows may be changed or released as soon as this returns.

        Parameters
        ----------
        name : str
            Path of the dataset in the file; groups on the way are made.
        rows : array or lease
            At least one axis, the first counting rows.
        labels, transposed, variable : optional
            As of `declare`.

        Raises
        ------
        SinkError
            The rows do not fit the dataset, the dataset takes no more, or the file cannot be written.
        DTypeError
            HDF5 has no such dtype.
        """
        array = _array(name, rows)
        if array.ndim == 0:
            raise SinkError(f"dataset {name!r}: a scalar has no rows to append; give an array of one axis or more")
        state = self._begin(name, array.dtype, array.shape[1:], labels=labels, transposed=transposed, variable=variable)
        state.require_growing()
        self._rows.append(state, array)
        self._appended_bytes += array.nbytes

    @explains_shortage("{self.path} cannot be written")
    def write(self, name: str, array: HoldsArray | Array, attributes: Mapping[str, Any] | None = None) -> None:
        """Write a whole dataset: any shape, also without axes or without elements.

        Parameters
        ----------
        name : str
            Path of the dataset in the file; groups on the way are made.
        array : array or lease
            Stored in C order, in chunks when it is large.
        attributes : mapping, optional
            Set on the dataset.

        Raises
        ------
        SinkError
            There is a dataset of that name with other contents, or the file cannot be written.
        DTypeError
            HDF5 has no such dtype.
        """
        values = _array(name, array)
        require_storable(values.dtype, name)
        self._session.require_open()
        known = self._session.datasets.get(name)
        encoded = {key: encode_attribute(key, value) for key, value in (attributes or {}).items()}
        if known is None and (values.ndim == 0 or values.nbytes <= _SMALL_BYTES):
            data = plain_bytes(values).tobytes()
            self._session.put_small(
                write_ahead_log.SmallArray(name, describe_dtype(values.dtype), values.shape, data, encoded)
            )
        elif known is not None and known.finished:
            known.require_equal(values)
            self.attributes(name).update(attributes or {})
        else:
            state = self._begin(name, values.dtype, values.shape[1:], rows=len(values))
            self.attributes(name).update(attributes or {})  # before its end, so that no kill parts them
            self._rows.write(state, values)
            self._session.finish(state, state.codec.grid.chunk_shape)

    def attributes(self, name: str | None = None) -> Attributes:
        """The attributes of a dataset, or of the file; they are stored when the sink is closed."""
        self._session.require_open()
        values = self._session.attributes if name is None else self._existing(name).attributes

        def changed(key: str, encoded: dict[str, Any] | None) -> None:
            self._session.log(write_ahead_log.Attribute(name, key, encoded))

        return Attributes(values, changed)

    @explains_shortage("{self.path} cannot be written")
    def source(
        self,
        name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        rows: tuple[int, int] | None = None,
        size_bytes: int | None = None,
        digest: str | None = None,
        **details: Any,
    ) -> Source:
        """Note where rows came from; it is kept in the file, see `shmlease.hdf5.provenance`.

        Parameters
        ----------
        name : str
            The dataset.
        path : path-like, optional
            The file they came from. Its size and digest are taken now, unless they are given.
        rows : tuple of int, optional
            First row, and the row after the last. By default all rows appended since the last source; then this makes a
            checkpoint as well when 16 MiB were appended since the last one.
        **details
            Whatever else is to be kept; JSON must have a form for it.
        """
        state = self._existing(name)
        if rows is None and state.declared.encoded:
            raise SinkError(f"dataset {name!r}: its chunks come encoded, so say which rows came from the source")
        start, stop = rows or (state.sources[-1].stop if state.sources else 0, state.cursor)
        if not 0 <= start <= stop or (stop > state.cursor and not state.declared.encoded):
            raise SinkError(f"dataset {name!r}: rows {start} to {stop} are not a range of its {state.cursor} rows")
        if path is not None and size_bytes is None and digest is None and os.path.isfile(path):
            size_bytes, digest = digest_file(path)
        source = Source(start, stop, None if path is None else os.fspath(path), size_bytes, digest, details=details)
        self._rows.mark(state, (start, stop))
        self._session.log(
            write_ahead_log.SourceRange(name, start, stop, source.path, source.size_bytes, source.digest, source.details)
        )
        state.sources.append(source)
        if rows is None:
            self._checkpoint_now_and_then()
        return source

    @explains_shortage("{self.path} cannot be written")
    def checkpoint(self, position: Any = None, *, rows: Mapping[str, int] | None = None) -> None:
        """Make everything handed over so far survive the death of this process.

        Parameters
        ----------
        position : object
            Whatever the caller needs to go on from here, of a form that JSON has; `completed` gives it back.
        rows : mapping of str to int, optional
            For datasets whose chunks come encoded: the rows handed over. A checkpoint counts once chunks hold them.
        """
        self._session.require_open()
        moved = self._rows.settle()
        self._session.log(write_ahead_log.Checkpoint({**moved, **(rows or {})}, position))
        self._position = position
        self._appended_bytes = 0

    @explains_shortage("{self.path} cannot be written")
    def finish(self, name: str, rows: int | None = None) -> None:
        """Store what is left of a dataset; it takes no more rows. Closing the sink does this for all.

        Parameters
        ----------
        rows : int, optional
            How many rows it must have, where its chunks come encoded.
        """
        state = self._existing(name)
        state.require_growing()
        self._rows.finish(state)
        state.require_whole(rows if state.declared.encoded else state.cursor)
        self._checkpoint_now_and_then()

    @explains_shortage("{self.path} cannot be written")
    def declare(
        self,
        name: str,
        dtype: np.dtype[Any],
        trailing: Sequence[int] = (),
        labels: Mapping[str, Sequence[str]] | None = None,
        *,
        rows: int | None = None,
        chunk_rows: int | None = None,
        compression: str | None = None,
        transposed: bool = False,
        variable: Sequence[str] = (),
    ) -> Codec:
        """Start a dataset whose chunks come encoded; returns what workers encode them with.

        Parameters
        ----------
        name : str
            Path of the dataset in the file.
        dtype : numpy.dtype
            Of one element.
        trailing : sequence of int
            Shape of one row.
        labels : mapping of str to sequence of str, optional
            Of integer fields that become enumerations in the file, their labels in the order of their numbers from 0; under
            an empty name those of a dtype without fields.
        rows : int, optional
            How many there will be, if that is known: a chunk is then no larger than they are.
        chunk_rows : int, optional
            Rows of a chunk; by default as many as the `chunk_bytes` of the sink hold.
        compression : str, optional
            Instead of that of the sink.
        transposed : bool
            Store rows along the last axis. They are handed over, counted and checked as rows all the same.
        variable : sequence of str
            Fields of fixed strings, in UTF-8, that have variable length in the file: it is written a second time when it is
            complete. An empty name is the dataset itself.
        """
        dtype = np.dtype(dtype)
        chunk_bytes = None if chunk_rows is None else chunk_rows * max(dtype.itemsize * math.prod(trailing), 1)
        if compression is not None:
            compression_named(compression)  # or it says which there are
        return self._begin(
            name,
            dtype,
            tuple(trailing),
            rows=rows,
            encoded=True,
            labels=labels,
            chunk_bytes=chunk_bytes,
            compression=compression,
            transposed=transposed,
            variable=variable,
        ).codec

    def pending(self, name: str) -> list[Array]:
        """Rows of a declared dataset that fill no chunk yet, of the run that is resumed, cut where its sources meet."""
        state = self._existing(name)
        rows = self._session.pending_rows(state)
        first = state.cursor - len(rows)
        cuts = sorted({source.stop - first for source in state.sources if first < source.stop < state.cursor} | {len(rows)})
        return [rows[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False) if start < stop]

    @explains_shortage("{self.path} cannot be written")
    def log_rows(self, name: str, start_row: int, parts: Sequence[Array]) -> None:
        """Keep rows of a declared dataset that fill no chunk yet, so that a checkpoint may count them.

        Parameters
        ----------
        name : str
            A dataset that was declared.
        start_row : int
            Of the first part: the row after those logged before, or the first of a chunk.
        parts : sequence of arrays
            The rows.
        """
        state = self._existing(name)
        data = b"".join(plain_bytes(part).tobytes() for part in parts)
        self._session.log(write_ahead_log.Remainder(name, start_row * state.codec.row_bytes, data))

    def contents(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """The datasets so far, by name: the type of an element, and the shape; a scalar has one row."""
        found = {}
        for name, state in self._session.datasets.items():
            rows = state.rows_stored if state.declared.rows is None else state.declared.rows
            found[name] = state.codec.dtype, (rows, *state.declared.trailing)
        return found

    def plan(self, name: str) -> ChunkPlan[Any]:
        """A plan of the chunks that a declared dataset still needs, from row ``completed().rows`` on."""
        state = self._existing(name)
        return ChunkPlan(state.codec.chunk_rows, start_row=state.cursor, is_stored=state.is_stored)

    @explains_shortage("{self.path} cannot be written")
    def append_encoded(self, name: str, index: int, chunk: EncodedChunk, payload: Any) -> None:
        """Store an encoded chunk of a declared dataset; chunks may come in any order.

        Parameters
        ----------
        name : str
            A dataset that was declared.
        index : int
            Of the chunk: its first row divided by the codec's `chunk_rows`.
        chunk : EncodedChunk
            From a `ChunkEncoder`. Only the last chunk of a dataset may hold fewer rows than a whole one.
        payload : buffer
            What the chunk was encoded into; it may be reused as soon as this returns.
        """
        state = self._existing(name)
        if not (state.finished and state.is_stored(index)):  # else it is compared
            state.require_growing()
        view = memoryview(payload).cast("B")[: chunk.size_bytes]
        if not state.declared.encoded:
            raise SinkError(f"dataset {name!r}: it is appended to; declare a dataset to store encoded chunks")
        state.require_place(index, chunk.data_bytes)
        if crc32(view) != chunk.payload_crc32:
            raise SinkError(f"dataset {name!r}: chunk {index} is not what was encoded; its buffer was reused too early")
        self._session.put_chunk(state, index, chunk, view)

    @explains_shortage("{self.path} cannot be written")
    def close(self) -> None:
        """Complete the file and give it its name; when that fails, nothing is put there.

        Raises
        ------
        SinkError
            The file cannot be completed.
        """
        if not self._session.is_open:
            return
        try:
            self._session.require_open()
            self._rows.settle()
            self._session.log(write_ahead_log.Closing())
            for name, state in self._session.datasets.items():
                if not state.finished:
                    self.finish(name)
            self._session.complete()
        except BaseException as error:
            self._abort_after(error)
            raise
        self._rows.close()

    def abort(self, *, keep_partial: bool | None = None) -> None:
        """Give up; nothing is put under the file's name.

        Parameters
        ----------
        keep_partial : bool, optional
            Instead of what the sink was made with.
        """
        self._rows.close()
        if self._session.is_open:
            self._session.abort(keep_partial=keep_partial)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abort_after(error)

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            session.abort_unclosed()

    def _abort_after(self, error: BaseException) -> None:
        try:
            self.abort()
        except BaseException as cleanup:
            raise BaseExceptionGroup("the sink failed, and so did giving up", [error, cleanup]) from None

    def _begin(
        self,
        name: str,
        dtype: np.dtype[Any],
        trailing: tuple[int, ...],
        *,
        rows: int | None = None,
        encoded: bool = False,
        labels: Mapping[str, Sequence[str]] | None = None,
        chunk_bytes: int | None = None,
        compression: str | None = None,
        transposed: bool = False,
        variable: Sequence[str] = (),
    ) -> DatasetState:
        self._session.require_open()
        return self._session.catalog.begin(
            name,
            dtype,
            trailing,
            rows=rows,
            encoded=encoded,
            compression=compression or self._compression,
            chunk_bytes=chunk_bytes or self._chunk_bytes,
            labels=labels or {},
            transposed=transposed,
            variable=variable,
        )

    def _checkpoint_now_and_then(self) -> None:
        if self._appended_bytes >= _CHECKPOINT_EVERY_BYTES:
            self.checkpoint(self._position)

    def _existing(self, name: str) -> DatasetState:
        self._session.require_open()
        return self._session.catalog.existing(name)


def _array(name: str, rows: HoldsArray | Array) -> Array:
    array = np.asarray(rows if isinstance(rows, np.ndarray) else getattr(rows, "array", rows))
    if np.ma.is_masked(rows):
        raise SinkError(f"dataset {name!r}: the array is masked, and HDF5 has no mask; fill it first", dataset=name)
    return array
