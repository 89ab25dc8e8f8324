"""The life of a sink: it opens a new file or what an interrupted run left, and ends completed or aborted.

A forked child that inherits a sink gives up file and lock at once: it can neither write into its parent's file nor keep
another process from it.
"""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from shmlease import __version__
from shmlease.errors import LeaseWarning, SinkError
from shmlease.hdf5 import provenance, write_ahead_log
from shmlease.hdf5.catalog import Catalog
from shmlease.hdf5.chunk_encoding import EncodedChunk
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.file_object import FileObject
from shmlease.hdf5.layout import describe_dtype
from shmlease.hdf5.recovery import Recovery, small_array_progress
from shmlease.hdf5.staging import StagingDirectory, explained
from shmlease.hdf5.store import Store
from shmlease.hdf5.variable_strings import write_variable

__all__ = ["Session"]


class Session:
    """One HDF5 file under way.

    Attributes
    ----------
    catalog : Catalog
        Its datasets.
    attributes : dict
        Of the file.
    recovery : Recovery
        What is left of an interrupted run.
    completed : Completed
        What that run had done.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool, resume: bool, keep_partial: bool) -> None:
        self._is_open = False
        self._keep_partial = keep_partial
        self._staging = StagingDirectory(path, overwrite=overwrite)
        self._file = FileObject(self._staging.data_fd)
        self._log = write_ahead_log.WriteAheadLog(self._staging.log_fd)
        self.output = self._staging.output
        try:
            with explained("begin the file", self.output):
                if not resume:
                    self._staging.clear()
                self._store = Store(self._file, self._log, label=str(self.output))
                self._recover()
        except BaseException:
            if self._staging.is_empty():
                self._staging.remove()
            self._release()
            raise
        self._is_open = True
        _sessions.add(self)
        # at exit h5py must find the file closed; what was registered last runs first, so this comes after h5py's own
        atexit.unregister(_abort_all)
        atexit.register(_abort_all)

    def _recover(self) -> None:
        self.recovery = Recovery()
        try:
            self._store.replay(self.recovery)
            checkpoint = self.recovery.last_checkpoint()
            self.completed = self.recovery.rewind(checkpoint)
            self.catalog = Catalog(self.recovery.datasets, self.log)
            self.attributes = self.recovery.attributes
            if self.datasets:
                self.log(write_ahead_log.Resume(checkpoint))
        except BaseException as error:
            self._file.fail(error)
            self._store.close()
            raise

    @property
    def datasets(self) -> dict[str, DatasetState]:
        """The datasets of the file by name."""
        return self.catalog.datasets

    @property
    def is_open(self) -> bool:
        """Whether the file is under way, and this process is the one that makes it."""
        return self._is_open

    def require_open(self) -> None:
        """Raise unless the file is under way and sound.

        Raises
        ------
        SinkError
            The sink is closed, or writing has failed before.
        """
        if not self._is_open:
            raise SinkError(
                f"{self.output}: this sink is closed, or was opened by the parent of this process; open another",
                path=str(self.output),
            )
        self._store.require_sound()

    def log(self, record: write_ahead_log.Record) -> None:
        """Append to the write-ahead log."""
        self._store.log(record)

    def finish(self, state: DatasetState, chunk_shape: tuple[int, ...]) -> None:
        """Note that a dataset takes no more rows, and the chunks it gets if it has none yet."""
        self.log(write_ahead_log.Finish(state.name, chunk_shape))
        state.finish(chunk_shape)

    def put_small(self, record: write_ahead_log.SmallArray) -> None:
        """Store a whole small array."""
        self.catalog.require_free(record.name)
        self._store.put_small(record)
        self.datasets[record.name] = small_array_progress(record)

    def put_chunk(self, state: DatasetState, index: int, chunk: EncodedChunk, payload: memoryview) -> None:
        """Store a chunk, or compare it with the one that is stored."""
        if state.is_stored(index):
            state.require_same(index, chunk.pieces)
        else:
            self._store.put_chunk(state, index, chunk, payload)

    def read_rows(self, state: DatasetState, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Rows that are stored."""
        return self._store.read_rows(state, start, stop)

    def pending_rows(self, state: DatasetState) -> np.ndarray[Any, Any]:
        """The rows of the chunk that an interrupted run was filling."""
        codec = state.codec
        start = state.cursor - state.cursor % codec.chunk_rows if codec.row_bytes else state.cursor
        if start == state.cursor:
            return np.empty((0, *codec.grid.trailing), codec.dtype)
        if state.rows_stored >= state.cursor:
            return self.read_rows(state, start, state.cursor)
        logged = self.recovery.remainder(state.name)
        return np.frombuffer(logged, codec.dtype).reshape(-1, *codec.grid.trailing)

    def complete(self) -> None:
        """Store the attributes, and give the file its name."""
        attributes: dict[str | None, Mapping[str, Any]] = {
            None: self.attributes
            | {
                provenance.VERSION: __version__,
                provenance.DATASETS: msgspec.json.encode(sorted(self.datasets)).decode(),
            }
        }
        for name, state in self.datasets.items():
            attributes[name] = state.attributes | _provenance(state)
        self._store.finish(attributes, self.datasets.values())
        self._staging.require_place()
        try:
            self._file.seal()
        except OSError as error:
            self._file.fail(error)
            self._store.require_sound()
        self._publish()
        self._is_open = False
        self._release()

    def _publish(self) -> None:
        """Move the file to its place; with strings of variable length, after it was written again."""
        if not any(state.declared.variable for state in self.datasets.values()):
            self._staging.publish()
            return
        fd = self._staging.open_rewritten()
        target = FileObject(fd)
        try:
            with explained("write strings of variable length", self.output):
                write_variable(str(self._staging.data_path), target, self.datasets.values())
                target.seal()
            self._staging.publish(fd)
        finally:
            target.close()

    def abort(self, *, keep_partial: bool | None = None) -> None:
        """Give up: nothing is put under the output's name. The partial file stays when it is to be kept."""
        self._is_open = False
        keep = self._keep_partial if keep_partial is None else keep_partial
        try:
            self._file.fail(SinkError(f"{self.output}: the sink was aborted"))
            self._store.close()
            if not keep:
                self._staging.remove()
        finally:
            self._release()

    def abort_unclosed(self) -> None:
        """Give up a file that nobody closed, and say so."""
        if self._is_open:
            self.abort()
            warnings.warn(
                f"{self.output}: an HDF5Sink was never closed, so nothing was put there; use it in a with statement",
                LeaseWarning,
                stacklevel=3,
            )

    def abandon(self) -> None:
        """Leave file and lock to the parent of this process."""
        self._is_open = False
        self._release()

    def _release(self) -> None:
        _sessions.discard(self)
        self._file.close()
        self._log.close()


def _provenance(state: DatasetState) -> dict[str, Any]:
    sources = state.sources_checked()
    return {
        provenance.VERSION: __version__,
        provenance.ROWS: state.rows_stored if state.declared.rows is None else state.declared.rows,
        provenance.DTYPE: describe_dtype(state.codec.dtype),
        provenance.CHECKSUM: provenance.format_checksum(state.checksum.value),
        **({provenance.TRANSPOSED: 1} if state.declared.transposed else {}),
        **({provenance.SOURCES: provenance.encode_sources(sources)} if sources else {}),
    }


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _abandon_all() -> None:
    for session in list(_sessions):
        session.abandon()


def _abort_all() -> None:
    for session in list(_sessions):
        session.abort_unclosed()


os.register_at_fork(after_in_child=_abandon_all)
