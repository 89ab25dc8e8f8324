"""The files of a run that a reader of the user's reads: their arrays become the datasets of groups.

Rules:

- A group has one file, or all. Its files add rows in their order; a file that is read ahead waits, two steps at most.
- A step of a reader gives whole chunks where the rows before it are known, else rows, which a task of their own encodes.
- A file is closed once all of it has been added: then its sources are noted, and what fills no chunk goes to the
  write-ahead log, so that a run can be resumed there. A file that was not closed is read again, and what is stored of it
  is compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from shmlease.client.lease import Lease
from shmlease.client.ticket import Ticket
from shmlease.errors import IngestError, SinkError
from shmlease.hdf5 import HDF5Sink
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.growing_dataset import GrowingDataset
from shmlease.ingestion.held_leases import HeldLeases
from shmlease.ingestion.load_plan import LoadPlan
from shmlease.ingestion.load_progress import LoadProgress
from shmlease.ingestion.loading_file import Group, LoadingFile
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.reader import Failure, StepLimit
from shmlease.ingestion.report import FileReport
from shmlease.ingestion.tasks import Encoded, Load, Loaded, LoadedBlock
from shmlease.ingestion.work import EncodeWork, HeldPart, LoadWork

__all__ = ["LoadJob"]

_AHEAD = 2  # steps of a file that may wait for files before it


class LoadJob:
    """The making of all datasets of a run.

    Parameters
    ----------
    plan, sink, registry, bad_rows
        Of the run.
    limit, chunks_a_task : StepLimit, int
        How much a step of a reader gives, and how many chunks are encoded at once.
    most_open : int
        Files that are read at once.
    position : mapping, optional
        Where an interrupted run had come to, as `position` gave it.
    """

    name = "reader"
    counts_files: ClassVar[bool] = True
    in_turn: ClassVar[bool] = False

    def __init__(
        self,
        plan: LoadPlan,
        sink: HDF5Sink,
        registry: Memory,
        bad_rows: BadRows,
        limit: StepLimit,
        chunks_a_task: int,
        most_open: int,
        position: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._plan = plan
        self._sink = sink
        self._registry = registry
        self._bad_rows = bad_rows
        self._limit = limit
        self._chunks_a_task = chunks_a_task
        self._most_open = most_open
        self._attributes = dict(attributes or {})
        self._finished_before = sink.completed().finished
        self.progress = LoadProgress(plan, sink, position)
        self._to_open = iter([index for index in range(len(plan.paths)) if not self.progress.is_done(index)])
        self._next_index: int | None = next(self._to_open, None)
        self._files: dict[int, LoadingFile] = {}  # opened and not closed
        self._groups: dict[str, Group] = {}  # begun and not finished
        self._owners: dict[GrowingDataset, Group] = {}
        self._held = HeldLeases(registry)
        self._numbers = itertools.count()
        self.has_stored = self.wants_checkpoint = False
        if self.progress.kept_bytes:
            bad_rows.resume(plan.groups[0], self.progress.kept_bytes)
        if self._next_index is not None and plan.is_joined:
            self._group_of(self._next_index)

    # --- dispatching -------------------------------------------------------------------------------------------------

    @property
    def has_input(self) -> bool:
        """Whether a reader has more to give, now or later."""
        return self._next_index is not None or any(not file.is_read for file in self._files.values())

    @property
    def is_finished(self) -> bool:
        """Whether every dataset is complete."""
        return self._next_index is None and not self._files and not self._groups

    def next_work(self) -> LoadWork | None:
        """The next step of a reader; None while all of them are busy, or wait for files before theirs."""
        reading = [file for file in self._files.values() if not file.is_read]
        for file in reading:
            if not file.is_asked and len(file.waiting) < _AHEAD:
                file.is_asked = True
                return LoadWork(self, file)
        has_room = len(reading) < self._most_open and len(self._files) < 2 * self._most_open  # those read ahead wait
        if has_room and self._next_index is not None:
            return self._open(self._next_index)
        return None

    def _open(self, index: int) -> LoadWork:
        self._group_of(index)
        file = self._files[index] = LoadingFile(index, self._plan.paths[index])
        self._next_index = next(self._to_open, None)
        file.is_asked = True
        return LoadWork(self, file)

    def _group_of(self, index: int) -> Group:
        name = self._plan.groups[index]
        group = self._groups.get(name)
        if group is None:
            files = range(len(self._plan.paths)) if self._plan.is_joined else range(index, index + 1)
            group = self._groups[name] = Group(name, files, index)
            for array in self.progress.arrays if self._plan.is_joined else ():  # that an interrupted run had begun
                dtype, shape = self._sink.contents()[group.path_of(array)]
                self._declare(group, array, dtype, shape[1:])
        return group

    def load_task(self, file: LoadingFile) -> Load:
        """What to ask of the worker that reads a file."""
        group = self._groups[self._plan.groups[file.index]]
        is_next = group.next == file.index and not file.waiting
        start_rows = {array: dataset.rows for array, dataset in group.datasets.items()} if is_next else None
        return Load(
            self._plan.reader,
            file.path,
            file.opening,
            self._plan.compression,
            self._limit,
            file.taken,
            start_rows,
            is_alone=len(group.files) == 1,
        )

    # --- results --------------------------------------------------------------------------------------------------------

    def take_loaded(self, work: LoadWork, loaded: Loaded) -> list[EncodeWork]:
        """Take what a step gave; gives the chunks that can be encoded now.

        Raises
        ------
        TicketError
            A ticket has run out; nothing was taken.
        IngestError
            The reader failed, and so the run is to fail.
        """
        file = work.file
        leases = self._held.redeem(block.any_ticket for block in loaded.blocks)
        for block in loaded.blocks:
            file.take(block)
        file.is_asked = False
        if loaded.is_end:
            file.is_read = file.session.is_over = True
            file.failure, file.file_crc32 = loaded.failure, loaded.file_crc32
        if loaded.blocks or loaded.is_end:
            file.waiting.append((loaded, leases))
        return self._settle(self._groups[self._plan.groups[file.index]])

    def take_lost(self, work: LoadWork, why: str) -> list[EncodeWork]:
        """Take that a reader has killed every worker that called it."""
        file = work.file
        file.is_asked = False
        file.is_read = file.session.is_over = True
        file.failure = Failure(why, why)
        return self._settle(self._groups[self._plan.groups[file.index]])

    def _settle(self, group: Group) -> list[EncodeWork]:
        """Add what has come, in the order of the files."""
        works: list[EncodeWork] = []
        while (file := self._files.get(group.next)) is not None:
            while file.waiting:
                loaded, leases = file.waiting.popleft()
                for block, lease in zip(loaded.blocks, leases, strict=True):
                    try:
                        works += self._add(group, file, block, lease)
                    except SinkError as error:
                        raise IngestError(f"{file.path}: {error}", path=file.path) from error
            if not file.is_read:
                break
            self._close(group, file)
            del self._files[file.index]
            group.next += 1
            if group.next == group.files.stop:
                works += self._end(group)
        return works

    def _add(self, group: Group, file: LoadingFile, block: LoadedBlock, lease: Lease | None) -> list[EncodeWork]:
        name = group.path_of(block.name)
        if not name:
            raise IngestError(f"{file.path}: an array without a name needs a group; name one (into)", path=file.path)
        if block.is_whole and block.encoded is None:
            array = np.empty(block.shape, block.dtype) if lease is None else lease.array
            self._sink.write(name, array, self._attributes | block.attributes)
            self.has_stored = True
            self._held.release(lease)
            file.ranges[name] = (0, block.shape[0] if block.shape else 1)
            return []
        if block.is_whole:
            assert block.encoded is not None
            rows = block.shape[0]
            self._sink.declare(name, block.dtype, block.shape[1:], rows=rows)
            self._sink.attributes(name).update(self._attributes | block.attributes)
            self._store(name, block.encoded, lease)
            if name not in self._finished_before:
                self._sink.finish(name, rows=rows)
            file.ranges[name] = (0, rows)
            return []
        dataset = self._declare(group, block.name, block.dtype, block.shape[1:])
        self._sink.attributes(name).update(block.attributes)
        start = dataset.rows
        works: list[EncodeWork] = []
        if block.encoded is not None:
            self._store(name, block.encoded, lease)
            dataset.add_stored(block.shape[0])
        elif lease is not None:
            works = self._encode_works(dataset, dataset.add(HeldPart(lease), block.shape[0]))
        file.ranges[name] = (file.ranges.get(name, (start, 0))[0], dataset.rows)
        dataset.release_unused(self._held.release)
        return works

    def _declare(self, group: Group, array: str, dtype: Any, trailing: tuple[int, ...]) -> GrowingDataset:
        dataset = group.datasets.get(array)
        name = group.path_of(array)
        if dataset is None:
            number = next(self._numbers)
            dataset = group.datasets[array] = GrowingDataset(number, name, dtype, trailing, self._sink, self._registry)
            self._owners[dataset] = group
            for part in dataset.parts:
                self._held.add(part.lease)
            self._sink.attributes(name).update(self._attributes)
        else:
            self._sink.declare(name, dtype, trailing)  # refuses rows of another kind
        return dataset

    def _store(self, name: str, encoded: Encoded, lease: Lease | None) -> None:
        self.has_stored = True
        for index, place, chunk in encoded.chunks:
            self._sink.append_encoded(name, index, chunk, encoded.payload(lease, place, chunk))
        self._held.release(lease)

    def _close(self, group: Group, file: LoadingFile) -> None:
        """All of a file has been added."""
        failure = file.failure
        if failure is not None:
            place = file.index - group.files.start
            self._bad_rows.take_failure(group.name, place, file.path, failure, self._plan.reader.name)
        self.progress.close(file.index, file.ranges, file.file_crc32, None if failure is None else failure.reason)
        if file.index + 1 < group.files.stop:  # else the last chunks come first
            for dataset in group.datasets.values():
                dataset.log_pending()
            self._settled(group, [file.index])

    def _settled(self, group: Group, indices: Sequence[int]) -> None:
        rows = {dataset.name: dataset.rows for dataset in group.datasets.values()}
        self.progress.settle(indices, rows, group.datasets, self._bad_rows.kept_bytes(group.name))
        self.wants_checkpoint = True

    def _end(self, group: Group) -> list[EncodeWork]:
        """No file follows: the last chunks."""
        group.is_ending = True
        works: list[EncodeWork] = []
        for dataset in group.datasets.values():
            works += self._encode_works(dataset, dataset.finish())
        self._finish(group)
        return works

    def _encode_works(self, dataset: GrowingDataset, chunks: Sequence[Any]) -> list[EncodeWork]:
        step = self._chunks_a_task
        return [EncodeWork(self, dataset, chunks[start : start + step]) for start in range(0, len(chunks), step)]

    def take_encoded(self, work: EncodeWork, encoded: Encoded) -> None:
        """Store chunks."""
        dataset = work.source
        assert isinstance(dataset, GrowingDataset)
        self._store(dataset.name, encoded, *self._held.redeem([encoded.ticket]))
        dataset.done(list(work.chunks), self._held.release)
        self._finish(self._owners[dataset])

    def _finish(self, group: Group) -> None:
        if not group.is_ending or any(dataset.chunks_open for dataset in group.datasets.values()):
            return
        for dataset in group.datasets.values():
            if dataset.name not in self._finished_before:
                self._sink.finish(dataset.name, rows=dataset.rows)
            del self._owners[dataset]
        self._bad_rows.finish(group.name, [self._plan.paths[index] for index in group.files])
        self._settled(group, group.files[-1:])
        del self._groups[group.name]

    # --- the rest -----------------------------------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """Bytes of the segments that this process holds."""
        return self._held.size_bytes

    @property
    def rows(self) -> int:
        """Rows settled so far."""
        under_way = sum(stop - start for file in self._files.values() for start, stop in file.ranges.values())
        return self.progress.rows + under_way

    @property
    def bytes_done(self) -> int:
        """Bytes of files settled so far."""
        return self.progress.bytes_done

    @property
    def reports(self) -> list[FileReport]:
        """What became of the files that were settled."""
        return self.progress.reports

    def row_counts(self) -> dict[str, int]:
        """For a checkpoint: the rows of the datasets that have more of them since the last one."""
        self.wants_checkpoint = False
        return self.progress.take_moved()

    def position(self) -> dict[str, Any]:
        """For a checkpoint: where the files have come to."""
        return self.progress.position()

    def take_end(self) -> list[EncodeWork]:
        """What can be encoded before anything has come: nothing."""
        return []

    def reclaim_tickets(self, tickets: Sequence[Ticket]) -> None:
        """Use up tickets that a dead worker was given, so that nothing waits for it."""
        self._held.use_up(tickets)

    def abandon(self) -> None:
        """Release everything."""
        self._held.release_all()
