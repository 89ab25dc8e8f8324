"""From the records of an interrupted run to the state in which it can go on.

A checkpoint says how many rows of each dataset had been handed over at one moment. It holds when all these rows are still
there: in stored chunks, or as a remainder in the write-ahead log. A run resumes at the last checkpoint that holds. Chunks
stored beyond it stay; when their rows come again they are compared, not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, assert_never

from shmlease.hdf5 import write_ahead_log
from shmlease.hdf5.attributes import decode_attribute
from shmlease.hdf5.checksum import crc32
from shmlease.hdf5.dataset import DatasetState
from shmlease.hdf5.provenance import Source

__all__ = ["Completed", "Recovery"]


@dataclass(frozen=True, slots=True)
class Completed:
    """What an interrupted run had done, as `HDF5Sink.completed` returns it.

    Attributes
    ----------
    rows : mapping of str to int
        For each dataset, the row to go on with: those before it need not be handed over again.
    position : object
        What the checkpoint was given as `position`; None when the run starts from the beginning.
    sources : mapping of str to tuple of Source
        For each dataset, the sources whose rows are all there.
    finished : frozenset of str
        Datasets that take no more rows.
    """

    rows: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    position: Any = None
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=lambda: MappingProxyType({}))
    finished: frozenset[str] = frozenset()

    def has(self, dataset: str, path: str) -> bool:
        """Whether all rows that `dataset` gets from the source at `path` are there."""
        return any(source.path == path for source in self.sources.get(dataset, ()))


class Recovery:
    """Folds the records of a write-ahead log, in order.

    Attributes
    ----------
    datasets : dict of str to DatasetState
    attributes : dict
        Of the file.
    """

    def __init__(self) -> None:
        self.datasets: dict[str, DatasetState] = {}
        self.attributes: dict[str, Any] = {}
        self._checkpoints: list[write_ahead_log.Checkpoint] = []
        self._remainders: dict[str, list[write_ahead_log.Remainder]] = {}
        self._finished_after: dict[str, int] = {}  # checkpoints, by dataset

    def fold(self, record: write_ahead_log.Record) -> None:
        """Take in one record; chunks and small arrays are in the file by then."""
        match record:
            case write_ahead_log.Start() | write_ahead_log.Closing():
                pass
            case write_ahead_log.Dataset():
                self.datasets[record.name] = DatasetState(record)
            case write_ahead_log.SmallArray():
                self.datasets[record.name] = small_array_progress(record)
            case write_ahead_log.Chunk():
                pass  # `Store.put_chunk` has noted it
            case write_ahead_log.Remainder():
                self._take_remainder(record)
            case write_ahead_log.Checkpoint():
                self._checkpoints.append(record)
            case write_ahead_log.SourceRange():
                self.datasets[record.name].sources.append(source_of(record))
            case write_ahead_log.Attribute():
                target = self.attributes if record.name is None else self.datasets[record.name].attributes
                if record.value is None:
                    target.pop(record.key, None)
                else:
                    target[record.key] = decode_attribute(record.value)
            case write_ahead_log.Finish():
                self.datasets[record.name].finish(record.chunk_shape)
                self._finished_after[record.name] = len(self._checkpoints)
            case write_ahead_log.Resume():
                self.rewind(record.checkpoint)
            case _:
                assert_never(record)

    def last_checkpoint(self) -> int:
        """Number of the last checkpoint that holds, counted from 1; 0 when none does."""
        number, failing = 0, set[str]()
        for place, checkpoint in enumerate(self._checkpoints, start=1):
            for name, rows in checkpoint.rows.items():
                (failing.discard if self._holds(name, rows) else failing.add)(name)
            if not failing:
                number = place
        return number

    def rewind(self, checkpoint: int) -> Completed:
        """Go back to the checkpoint of this number, and say what is complete at it."""
        del self._checkpoints[checkpoint:]
        rows = dict.fromkeys(self.datasets, 0)
        for earlier in self._checkpoints:
            rows.update(earlier.rows)
        for name, state in self.datasets.items():
            if state.declared.rows is not None:
                rows[name] = state.declared.rows if state.finished else 0
            state.cursor = rows[name]
            state.sources = [source for source in state.sources if source.stop <= state.cursor]
            state.finished = state.finished and state.rows_stored == state.cursor and self._counts_as_finished(state)
            stop_byte = state.cursor * state.codec.row_bytes
            self._remainders[name] = [
                remainder for remainder in self._remainders.get(name, ()) if _end(remainder) <= stop_byte
            ]
        return Completed(
            rows=MappingProxyType(rows),
            position=self._checkpoints[-1].position if self._checkpoints else None,
            sources=MappingProxyType({name: tuple(state.sources) for name, state in self.datasets.items()}),
            finished=frozenset(name for name, state in self.datasets.items() if state.finished),
        )

    def _counts_as_finished(self, state: DatasetState) -> bool:
        """Whether a checkpoint follows its end: the caller who counts rows may have had more to do than hand them over."""
        if not state.declared.encoded or state.declared.rows is not None:
            return True
        return self._finished_after.get(state.name, 0) < len(self._checkpoints)

    def remainder(self, name: str) -> bytes:
        """The rows that the write-ahead log keeps of the chunk that `name` was filling."""
        return b"".join(remainder.data for remainder in self._remainders.get(name, ()))

    def _take_remainder(self, record: write_ahead_log.Remainder) -> None:
        remainders = self._remainders.setdefault(record.name, [])
        if remainders and _end(remainders[-1]) != record.start_byte:
            remainders.clear()  # of an earlier chunk, which is stored
        remainders.append(record)

    def _holds(self, name: str, rows: int) -> bool:
        state = self.datasets.get(name)
        if state is None:
            return False
        if state.rows_stored >= rows:
            return True
        remainders = self._remainders.get(name, [])
        return any(_end(remainder) == rows * state.codec.row_bytes for remainder in remainders) and (
            remainders[0].start_byte <= state.checksum.size_bytes
        )


def _end(remainder: write_ahead_log.Remainder) -> int:
    return remainder.start_byte + len(remainder.data)


def small_array_progress(record: write_ahead_log.SmallArray) -> DatasetState:
    """The state of a dataset that is written whole, without chunks."""
    rows = record.shape[0] if record.shape else 1
    state = DatasetState(
        write_ahead_log.Dataset(record.name, record.dtype, tuple(record.shape[1:]), (), "none", rows, encoded=False)
    )
    state.checksum.extend([(len(record.data), crc32(record.data))])
    state.cursor, state.finished = rows, True
    state.attributes.update((key, decode_attribute(value)) for key, value in record.attributes.items())
    return state


def source_of(record: write_ahead_log.SourceRange) -> Source:
    """The source that a record describes."""
    return Source(record.start, record.stop, record.path, record.size_bytes, record.digest, details=record.details)
