"""Chunks into HDF5 and into the write-ahead log, and the same again when a run is resumed.

HDF5 allots space in the order in which it is asked, and nothing else decides where. So a resumed run asks again, in the
order of the log, for all that is in the file already: HDF5 comes to the state it had, the chunks lie where it puts them,
and only its own structures are written anew. A chunk that would come to lie elsewhere is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from shmlease import __version__
from shmlease.errors import SinkError
from shmlease.exhaustion import require_allocatable
from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.checksum import crc32
from shmlease.hdf5.chunk_encoding import EncodedChunk
from shmlease.hdf5.creation import DatasetMaker, set_attribute
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.empty_file import empty_file
from shmlease.hdf5.file_object import FileObject
from shmlease.hdf5.filters import LIBVER, ROOM_BYTES
from shmlease.hdf5.layout import parse_dtype
from shmlease.hdf5.recovery import Recovery

__all__ = ["Store"]

_FORMAT = 2  # of the write-ahead log


class Store:
    """An HDF5 file under way, on a `FileObject`, with its write-ahead log."""

    def __init__(self, file: FileObject, log: write_ahead_log.WriteAheadLog, *, label: str) -> None:
        import h5py  # noqa: PLC0415 - importing shmlease must not import h5py

        require_allocatable(ROOM_BYTES)
        file.hold()
        self._start = write_ahead_log.Start(_FORMAT, __version__, h5py.version.hdf5_version)
        self._file = file
        self._log = log
        self._label = label
        self._datasets: dict[str, Any] = {}
        self._extents: dict[str, int] = {}
        # a raw data cache of 0 bytes: chunks go past it, and reading back must not see an older one
        file.write(empty_file())
        self._h5 = h5py.File(file, "r+", libver=LIBVER, rdcc_nbytes=0)
        self._maker = DatasetMaker(self._h5)

    def replay(self, recovery: Recovery) -> None:
        """Repeat what the log records, up to the first record that does not match the file.

        Raises
        ------
        SinkError
            The interrupted run was another version's, or HDF5 lays the file out differently now.
        """
        whole, began = 0, self._start
        for record, end in self._log.read():
            if isinstance(record, write_ahead_log.Start):
                began = record
            if began.format != self._start.format:
                raise self._not_resumable(began, "its write-ahead log is of another format")
            try:
                if isinstance(record, write_ahead_log.Closing) or not self._repeat(record, recovery):
                    break
            except SinkError as error:
                raise self._not_resumable(began, str(error)) from error
            recovery.fold(record)
            whole = end
        self._log.truncate(whole)
        if not whole:
            self.log(self._start)
        self._file.apply()

    def _not_resumable(self, began: write_ahead_log.Start, reason: str) -> SinkError:
        now = self._start
        return SinkError(
            f"{self._label}: the interrupted run cannot be resumed: {reason}; it was one of shmlease {began.shmlease} "
            f"with HDF5 {began.hdf5}, this is {now.shmlease} with {now.hdf5}; start again without resuming it",
            path=self._label,
        )

    def _repeat(self, record: write_ahead_log.Record, recovery: Recovery) -> bool:
        """Bring HDF5 to the state after `record`; False when the file does not hold what it describes."""
        if isinstance(record, write_ahead_log.SmallArray):
            self.put_small(record, again=True)
        if isinstance(record, write_ahead_log.Chunk):
            payload = self._file.read_disk(record.size_bytes, record.offset)
            if len(payload) != record.size_bytes or crc32(payload) != record.payload_crc32:
                return False
            chunk = EncodedChunk(record.size_bytes, record.filter_mask, record.payload_crc32, record.pieces)
            state = recovery.datasets[record.name]
            self.put_chunk(state, record.index, chunk, memoryview(payload), present_at=record.offset)
        return True

    def put_chunk(
        self, state: DatasetState, index: int, chunk: EncodedChunk, payload: memoryview, present_at: int | None = None
    ) -> None:
        """Store one encoded chunk; with `present_at` it lies in the file already and is only made known to HDF5."""
        dataset = self._dataset(state)
        codec, origin = state.codec, state.codec.grid.origin(index)
        if state.declared.rows is None:
            rows = origin[0] + max(1, chunk.data_bytes // codec.row_bytes)
            if rows > self._extents.get(state.name, 0):
                dataset.id.set_extent(codec.in_file((rows, *state.declared.trailing)))
                self._extents[state.name] = rows  # asking HDF5 for it takes 50 us
        self._file.await_payload(chunk.size_bytes, chunk.payload_crc32, present_at)
        dataset.id.write_direct_chunk(codec.in_file(origin), payload, chunk.filter_mask)
        self.require_sound()
        offset = self._file.payload_offset()
        state.stored(index, chunk.pieces)
        if present_at is None:
            self.log(
                write_ahead_log.Chunk(
                    state.name,
                    index,
                    offset,
                    chunk.size_bytes,
                    chunk.filter_mask,
                    chunk.payload_crc32,
                    chunk.pieces,
                )
            )

    def put_small(self, record: write_ahead_log.SmallArray, *, again: bool = False) -> None:
        """Store a whole array without chunks."""
        if not again:
            self.log(record)
        array = np.frombuffer(record.data, parse_dtype(record.dtype)).reshape(record.shape)
        self._datasets[record.name] = self._h5.create_dataset(record.name, data=array)
        self.require_sound()

    def read_rows(self, state: DatasetState, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Rows [start, stop), which are stored."""
        # HDF5 (2.0.0 at least) forgets the filter mask of the chunk it wrote last, and reads it wrong, until the dataset
        # was closed
        del self._datasets[state.name]
        dataset = self._datasets[state.name] = self._h5[state.name]
        rows: np.ndarray[Any, Any] = dataset[..., start:stop].T if state.codec.transposed else dataset[start:stop]
        self.require_sound()
        return rows

    def finish(self, attributes: Mapping[str | None, Mapping[str, Any]], datasets: Iterable[DatasetState]) -> None:
        """Create the datasets that got no chunk, set all attributes (of the file under None), and close HDF5's file."""
        for state in datasets:
            self._dataset(state)
        for name, values in attributes.items():
            target = self._h5 if name is None else self._datasets[name]
            for key, value in values.items():
                set_attribute(target, key, value)
        self.close()
        self.require_sound()

    def close(self) -> None:
        """Close HDF5's file; whether it is whole is the caller's to know."""
        self._datasets.clear()
        self._h5.close()

    def log(self, record: write_ahead_log.Record) -> None:
        """Append to the write-ahead log."""
        try:
            self._log.append(record)
        except BaseException as error:
            self._file.fail(error)
            self.require_sound()
            raise

    def require_sound(self) -> None:
        """Raise what went wrong, if anything did, since the file was opened.

        Raises
        ------
        SinkError
            The disk is full, or the file could not be written for another reason.
        """
        failure = self._file.failure
        if failure is None:
            return
        if isinstance(failure, SinkError) or not isinstance(failure, Exception):
            raise failure
        raise SinkError(
            f"{self._label}: writing failed: {failure}; nothing was put in its place",
            path=self._label,
            errno=getattr(failure, "errno", None),
        ) from failure

    def _dataset(self, state: DatasetState) -> Any:
        dataset = self._datasets.get(state.name)
        if dataset is None:
            dataset = self._datasets[state.name] = self._maker.make(state)
            self.require_sound()
        return dataset
