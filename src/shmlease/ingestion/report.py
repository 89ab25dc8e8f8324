"""What an ingest did, as values: for the caller, for the summary, for --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shmlease.ingestion.summary import summary
from shmlease.notebook import html_table
from shmlease.units import format_bytes, format_count, format_duration

__all__ = ["DatasetReport", "FileReport", "IngestReport", "Progress", "Rejected"]

_SHOWN_REJECTED: Final = 10


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that did not become a row.

    Attributes
    ----------
    path : str
        The file.
    line : int
        Number of the line, from 1; 0 for a file that a reader could not read.
    column : str or None
        The field that could not be read; None when the line as a whole is wrong.
    text : str
        The offending cell, or the beginning of the line.
    reason : str
        What was seen and what was expected.
    """

    path: str
    line: int
    column: str | None
    text: str
    reason: str

    def __str__(self) -> str:
        where = self.path + (f":{self.line}: " if self.line else ": ") + (f"{self.column}: " if self.column else "")
        return where + self.reason + ("" if self.text in self.reason else f" ({self.text!r})")


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file.

    Attributes
    ----------
    path, dataset : str
        The file and where its rows went.
    start_row, rows : int
        Its first row in the dataset, and how many it has.
    rejected : int
        Lines that did not become rows.
    size_bytes : int
        Of the file as it lies on the disk.
    notes : mapping of str to int
        What was passed over or changed on purpose, by kind.
    """

    path: str
    dataset: str
    start_row: int
    rows: int
    rejected: int
    size_bytes: int
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """One dataset of the file: its name, dtype and number of rows."""

    name: str
    dtype: str
    rows: int
    row_bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    path : str
        The HDF5 file.
    datasets : tuple of DatasetReport
    files : tuple of FileReport
    rejected : tuple of Rejected
        The first lines that did not become rows; `rejected_count` has how many there were.
    size_bytes : int
        Of the HDF5 file.
    elapsed_s : float
    parser : str
        Which read the lines: ``native``, compiled from C, or ``numpy``.
    workers : int
    workers_replaced : int
        Workers that died and were replaced.
    shared_peak_bytes : int
        The most shared memory there was at once.
    capacity_bytes : int
        The most there could have been.
    resumed_rows : int
        Rows that an interrupted run had stored already.
    leaks : tuple of str
        What is left in shared memory of this run; empty when all is well.
    """

    path: str
    datasets: tuple[DatasetReport, ...]
    files: tuple[FileReport, ...]
    rejected: tuple[Rejected, ...]
    size_bytes: int
    elapsed_s: float
    parser: str
    workers: int
    workers_replaced: int
    shared_peak_bytes: int
    capacity_bytes: int
    resumed_rows: int
    leaks: tuple[str, ...]

    def __str__(self) -> str:
        return summary(self)

    def __repr__(self) -> str:
        rows, datasets = format_count(self.rows, "row"), format_count(len(self.datasets), "dataset")
        return f"<IngestReport {self.path}: {rows} in {datasets}, {format_count(self.rejected_count, 'line')} skipped>"

    def _repr_html_(self) -> str:
        datasets = [(each.name, f"{format_count(each.rows, 'row')} of {each.dtype}") for each in self.datasets]
        skipped = [("skipped", str(each)) for each in self.rejected[:_SHOWN_REJECTED]]
        took = f"{format_bytes(self.size_bytes)} in {format_duration(self.elapsed_s)}"
        return html_table(self.path, [*datasets, *skipped, ("written", took)])

    @property
    def rows(self) -> int:
        """Rows of all datasets."""
        return sum(each.rows for each in self.datasets)

    @property
    def rejected_count(self) -> int:
        """Lines of all files that did not become rows."""
        return sum(each.rejected for each in self.files)

    @property
    def input_bytes(self) -> int:
        """Size of all files."""
        return sum(each.size_bytes for each in self.files)

    @property
    def exit_code(self) -> int:
        """0 when every line became a row, 1 when some did not, 2 when something was left in shared memory."""
        return 2 if self.leaks else 1 if self.rejected_count else 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest is.

    Attributes
    ----------
    files_done, files : int
    rows : int
        Handed over to the file so far.
    bytes_done, bytes_total : int
        Of the files as they lie on the disk.
    text_bytes : int
        Parsed so far, decompressed.
    shared_bytes : int
        Shared memory in use now.
    elapsed_s : float
    """

    files_done: int
    files: int
    rows: int
    bytes_done: int
    bytes_total: int
    text_bytes: int
    shared_bytes: int
    elapsed_s: float
