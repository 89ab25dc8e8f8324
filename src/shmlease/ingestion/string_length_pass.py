"""A first pass over all files for the lengths of their strings, by the same workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shmlease.ingestion.tasks import Context, Measure, Measured
from shmlease.ingestion.worker_pool import Crew, WorkerLostError, do_again
from shmlease.text.blocks import Piece, cut_table

__all__ = ["measure"]


@dataclass(eq=False, slots=True)
class _MeasureWork:
    context: Context
    piece: Piece | None
    attempts: int = 0

    def task(self) -> Measure:
        return Measure(self.context, self.piece)

    def lost(self) -> None:
        pass

    def __str__(self) -> str:
        return f"{self.context.table.path}: measuring its strings"


def measure(contexts: Sequence[Context], crew: Crew, on_tick: Callable[[], None]) -> dict[str, int]:
    """The longest cell of each string field over all files, in bytes.

    Raises
    ------
    IngestError
        A file cannot be read.
    """
    works = (
        _MeasureWork(context, piece if piece.stop is not None else None)
        for context in contexts
        for piece in cut_table(context.table, context.block_bytes)
    )
    longest: dict[str, int] = {}
    under_way = 0
    while True:
        while crew.is_hungry and (work := next(works, None)) is not None:
            crew.submit(work)
            under_way += 1
        if not under_way:
            return longest
        for work, outcome in crew.wait(0.1):
            if isinstance(outcome, WorkerLostError):
                do_again(crew, work, outcome)
                continue
            under_way -= 1
            if isinstance(outcome, BaseException):
                raise outcome
            assert isinstance(outcome, Measured)
            for name, length in outcome.lengths.items():
                longest[name] = max(length, longest.get(name, 0))
        on_tick()
