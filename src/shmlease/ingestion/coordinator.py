"""Drives a run: dispatches work while shared memory allows, and collects results, until every dataset is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, assert_never

import msgspec

from shmlease.errors import LeaseError, TicketError
from shmlease.hdf5.columnar_sink import AnySink
from shmlease.ingestion.budget import Budget
from shmlease.ingestion.pool_protocol import WorkerLostError, WorkerPool, retry
from shmlease.ingestion.readers import HeldText
from shmlease.ingestion.report import FileReport
from shmlease.ingestion.tasks import Encoded, Loaded, ParsedPiece
from shmlease.ingestion.work import EncodeWork, LoadWork, ParseWork, ReadWork
from shmlease.text.blocks import Piece

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from shmlease.ingestion.dataset_job import DatasetJob
    from shmlease.ingestion.load_job import LoadJob

__all__ = ["TICK_S", "Coordinator"]

# Of text or rows. A checkpoint costs some 50 us, a fiftieth of what it takes to make these rows.
_CHECKPOINT_EVERY_BYTES = 1 << 20
TICK_S: Final = 0.1
Job: TypeAlias = "DatasetJob | LoadJob"
AnyWork = ParseWork | ReadWork | EncodeWork | LoadWork


class _Done(msgspec.Struct):
    """What is known of jobs that are finished."""

    rows: int = 0
    bytes_done: int = 0
    has_stored: bool = False
    reports: list[FileReport] = msgspec.field(default_factory=list)

    def take(self, job: Job) -> None:
        """Add one."""
        self.rows += job.rows
        self.bytes_done += job.bytes_done
        self.has_stored |= job.has_stored
        self.reports += job.reports


class Coordinator:
    """The run of some jobs.

    Parameters
    ----------
    jobs : iterator of DatasetJob or LoadJob
        What is to be made, in this order; each is asked for when there is room to begin it.
    run_key : dict
        Names files and options; kept in every checkpoint.
    on_tick : callable
        Called some ten times a second.
    """

    def __init__(
        self,
        jobs: Iterator[Job],
        pool: WorkerPool,
        sink: AnySink,
        budget: Budget,
        readers: int,
        run_key: dict[str, Any],
        on_tick: Callable[[Coordinator], None],
    ) -> None:
        self._to_come = jobs
        self._jobs: list[Job] = []  # begun and not finished
        self._done = _Done()
        self._pool = pool
        self._sink = sink
        self._budget = budget
        self._most_readers = readers
        self._readers: ThreadPoolExecutor | None = None  # until a file is read as a stream
        self._run_key = run_key
        self._on_tick = on_tick
        self._under_way = 0  # dispatched and not done
        self._reserved_bytes = 0  # for them
        self._settled_bytes = 0  # since the last checkpoint
        self._counts: dict[str, int] = {}  # rows of the datasets that were finished since the last checkpoint
        self.text_bytes = 0

    def run(self) -> None:
        """Do it all."""
        next_tick_s = time.monotonic()
        try:
            while self._dispatch():
                for work, outcome in self._pool.wait(TICK_S):
                    self._receive(work, outcome)
                if time.monotonic() >= next_tick_s:
                    next_tick_s = time.monotonic() + TICK_S
                    self._on_tick(self)
            if self._counts:
                self._checkpoint()
        finally:
            if self._readers is not None:
                self._readers.shutdown(cancel_futures=True)

    def _dispatch(self) -> bool:
        """Dispatch what there is room for; False when all is done."""
        for job in self._jobs:
            self._dispatch_from(job)
        while self._admits(self._budget.parse_bytes) and (begun := next(self._to_come, None)) is not None:
            self._jobs.append(begun)
            self._submit_all(begun.take_end())  # it may be one that an interrupted run had brought to its end
            self._dispatch_from(begun)
            if begun.is_finished:
                self._finish(begun)
        return bool(self._jobs)

    def _dispatch_from(self, job: Job) -> None:
        most_bytes = self._budget.step_bytes if job.in_turn else self._budget.block_bytes
        while job.has_input and self._admits(self._budget.reserved_bytes(most_bytes)):
            work = job.next_work()
            if work is None:
                break
            text_bytes = work.text_bytes if isinstance(work, ParseWork) else self._budget.block_bytes
            self._submit(work, self._budget.reserved_bytes(text_bytes))

    def _admits(self, size_bytes: int) -> bool:
        """Whether a block may be begun: somebody is free for it, and there is room for it."""
        if not self._under_way:
            return True
        if not self._pool.wants_work:
            return False
        held = sum([job.held_bytes for job in self._jobs])
        return held + self._reserved_bytes + size_bytes <= self._budget.limit_bytes

    def _submit(self, work: AnyWork, reserved_bytes: int) -> None:
        work.reserved_bytes = reserved_bytes
        self._reserved_bytes += reserved_bytes
        self._under_way += 1
        if isinstance(work, ReadWork):
            self._submit_read(work)
        else:
            self._pool.submit(work, first=isinstance(work, EncodeWork))

    def _submit_read(self, work: ReadWork) -> None:
        if self._readers is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - few files are read as streams

            self._readers = ThreadPoolExecutor(self._most_readers, thread_name_prefix="shmlease-reader")
        self._readers.submit(self._read, work)

    def _read(self, work: ReadWork) -> None:
        try:
            outcome: Any = work.reader.read()
        except BaseException as error:
            outcome = error
        self._pool.deliver(work, outcome)

    def _receive(self, work: AnyWork, outcome: object) -> None:
        try:
            self._process(work, outcome)
        except (WorkerLostError, TicketError) as error:
            if isinstance(work, ReadWork):
                raise
            try:
                retry(self._pool, work, error)
            except LeaseError as given_up:
                if not isinstance(work, LoadWork):
                    raise
                works = work.job.take_lost(work, str(given_up))
                self._end(work)
                self._submit_all(works)
                self._note(work.job)

    def _process(self, work: AnyWork, outcome: object) -> None:
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(work, ReadWork):
            self._end(work)
            if outcome is None:
                work.job.take_end_of_file(work)
                self._submit_all(work.job.take_end())
            elif isinstance(outcome, Piece):
                self._submit(work.job.take_piece(work, outcome), work.reserved_bytes)
            else:
                assert isinstance(outcome, HeldText)
                self._submit(work.job.take_text(work, outcome), work.reserved_bytes - outcome.size_bytes)
        elif isinstance(work, ParseWork):
            assert isinstance(outcome, ParsedPiece)
            works = work.job.take_parsed(work, outcome)
            self._end(work)
            self.text_bytes += outcome.text_bytes
            rows_bytes = sum(part.rows for part in outcome.parts) * work.source.context.table.schema.dtype.itemsize
            self._settled_bytes += max(rows_bytes, outcome.text_bytes)
            self._submit_all(works)
        elif isinstance(work, LoadWork):
            assert isinstance(outcome, Loaded)
            works = work.job.take_loaded(work, outcome)
            self._end(work)
            self.text_bytes += sum(block.size_bytes for block in outcome.blocks)
            self._submit_all(works)
        elif isinstance(work, EncodeWork):
            assert isinstance(outcome, Encoded)
            work.job.take_encoded(work, outcome)
            self._end(work)
        else:
            assert_never(work)
        self._note(work.job)

    def _note(self, job: Job) -> None:
        """Finish a job, or make a checkpoint, if it is time."""
        if job.is_finished:
            self._finish(job)
        if self._settled_bytes >= _CHECKPOINT_EVERY_BYTES or job.wants_checkpoint:
            self._checkpoint()

    def _end(self, work: AnyWork) -> None:
        self._under_way -= 1
        self._reserved_bytes -= work.reserved_bytes

    def _submit_all(self, works: Iterable[EncodeWork]) -> None:
        for work in works:
            self._submit(work, self._budget.encode_bytes)

    def _finish(self, job: Job) -> None:
        if job.counts_files:
            self._checkpoint()  # its position says which files are done
        self._counts.update(job.row_counts())
        self._jobs.remove(job)
        self._done.take(job)

    def _checkpoint(self) -> None:
        self._settled_bytes = 0
        for job in self._jobs:
            self._counts.update(job.row_counts())
        positions = {job.name: position for job in self._jobs if (position := job.position())}
        self._sink.checkpoint({**self._run_key, "open": positions}, rows=self._counts)
        self._counts = {}

    @property
    def rows(self) -> int:
        """Rows settled so far."""
        return self._done.rows + sum(job.rows for job in self._jobs)

    @property
    def bytes_done(self) -> int:
        """Bytes of files settled so far."""
        return self._done.bytes_done + sum(job.bytes_done for job in self._jobs)

    @property
    def files_done(self) -> int:
        """Files settled so far."""
        return len(self._done.reports) + sum(len(job.reports) for job in self._jobs)

    def reports(self) -> list[FileReport]:
        """What became of the files that were settled."""
        return self._done.reports

    @property
    def has_stored(self) -> bool:
        """Whether anything has reached the file."""
        return self._done.has_stored or any(job.has_stored for job in self._jobs)

    def abandon(self) -> None:
        """Release everything."""
        for job in self._jobs:
            job.abandon()
