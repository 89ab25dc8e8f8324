"""A first pass over all files for the lengths of their strings, by the same workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from shmlease.ingestion.pool_protocol import WorkerLostError, WorkerPool, retry
from shmlease.ingestion.tasks import LEAST_TASK_BYTES, TASK_BYTES, Context, Measure, Measured
from shmlease.text.blocks import BLOCK_BYTES, Piece, cut_table
from shmlease.text.header import Table

__all__ = ["measure"]


@dataclass(eq=False, slots=True)
class _MeasureWork:
    context: Context
    piece: Piece
    attempts: int = 0
    session: ClassVar[None] = None

    @property
    def weight(self) -> int:
        """Small files go together."""
        stop = self.piece.stop
        return TASK_BYTES if stop is None else min(max(stop - self.piece.offset, LEAST_TASK_BYTES), TASK_BYTES)

    def task(self) -> Measure:
        return Measure(self.context, self.piece)

    def lost(self) -> None:
        pass

    def __str__(self) -> str:
        return f"{self.context.table.path}: measuring its strings"


def measure(tables: Sequence[Table], pool: WorkerPool, on_tick: Callable[[], None]) -> dict[str, int]:
    """The longest cell of each string field over all tables, in bytes.

    Raises
    ------
    IngestError
        A file cannot be read.
    """
    # ids below 0: the tasks that follow have contexts of their own
    contexts = (Context(-1 - index, table, None, BLOCK_BYTES, BLOCK_BYTES, 0, "fail") for index, table in enumerate(tables))
    works = (_MeasureWork(context, piece) for context in contexts for piece in cut_table(context.table, BLOCK_BYTES))
    longest: dict[str, int] = {}
    under_way = 0
    while True:
        while pool.wants_work and (work := next(works, None)) is not None:
            pool.submit(work)
            under_way += 1
        if not under_way:
            return longest
        for work, outcome in pool.wait(0.1):
            if isinstance(outcome, WorkerLostError):
                retry(pool, work, outcome)
                continue
            under_way -= 1
            if isinstance(outcome, BaseException):
                raise outcome
            assert isinstance(outcome, Measured)
            for name, length in outcome.lengths.items():
                longest[name] = max(length, longest.get(name, 0))
        on_tick()
