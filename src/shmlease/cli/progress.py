"""How far an ingest is, on a terminal: one line that is drawn over and over on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from shmlease.ingestion.report import Progress
from shmlease.units import format_bytes

__all__ = ["Display"]


class Display:
    """A context manager that gives the callable to tell of progress."""

    def __init__(self, console: Console | None = None) -> None:
        self._bar = Bar(
            TextColumn("{task.fields[files]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, files="", figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        rate = progress.text_bytes / max(progress.elapsed_s, 1e-9) / 1e6
        self._bar.update(
            self._task,
            completed=progress.bytes_done,
            total=progress.bytes_total,
            files=f"{progress.files_done}/{progress.files} files",
            figures=f"{progress.rows:,} rows  {rate:.0f} MB/s  {format_bytes(progress.shared_bytes)} shared",
        )
