"""The summary of an ingest in words: what `print(report)` and the command show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shmlease.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from shmlease.ingestion.report import IngestReport

__all__ = ["aligned", "summary"]

_MOST_FILES: Final = 40  # what a person reads; --json has all
_MOST_REJECTED: Final = 10


def summary(report: IngestReport) -> str:
    """For people: a line for each file, what was unusual, and the figures of the whole."""
    table = [("dataset", "rows", "skipped", "size", "file")]
    for each in report.files[:_MOST_FILES]:
        rejected = f"{each.rejected:,}" if each.rejected else ""
        table.append((each.dataset, f"{each.rows:,}", rejected, format_bytes(each.size_bytes), each.path))
    lines = aligned(table, right={1, 2, 3})
    if len(report.files) > _MOST_FILES:
        lines.append(f"... and {len(report.files) - _MOST_FILES} more files")
    without_rows = [each.path for each in report.files if not each.rows]
    if without_rows:
        lines.append(f"no rows: {', '.join(without_rows[:_MOST_REJECTED])}{' ...' * (len(without_rows) > _MOST_REJECTED)}")
    notes: dict[str, int] = {}
    for each in report.files:
        for kind, count in each.notes.items():
            notes[kind] = notes.get(kind, 0) + count
    lines += [f"note: {count:,} {kind}" for kind, count in sorted(notes.items())]
    lines += [f"skipped: {each}" for each in report.rejected[:_MOST_REJECTED]]
    if report.rejected_count > _MOST_REJECTED:
        lines.append(f"... and {report.rejected_count - _MOST_REJECTED:,} more lines were skipped")
    seconds = max(report.elapsed_s, 1e-9)
    datasets = format_count(len(report.datasets), "dataset")
    lines.append(
        f"{report.path}: {format_count(report.rows, 'row')} in {datasets}, {format_bytes(report.size_bytes)}; "
        f"{format_bytes(report.input_bytes)} of files in {format_duration(report.elapsed_s)} "
        f"({_rate(report.rows / seconds, 'rows')}, {_rate(report.input_bytes / seconds, 'B')})"
    )
    extra = [
        f"{format_bytes(report.shared_peak_bytes)} of shared memory at most",
        f"{format_count(report.workers, 'worker')}, {report.parser} {'reader' if ':' in report.parser else 'parser'}",
    ]
    if report.workers_replaced:
        extra.append(f"{format_count(report.workers_replaced, 'worker')} died and had to be replaced")
    extra += [f"{report.resumed_rows:,} rows were there from an interrupted run"] if report.resumed_rows else []
    extra += [] if report.leaks else ["nothing is left in shared memory"]
    return "\n".join([*lines, "; ".join(extra)])


def _rate(each_s: float, what: str) -> str:
    """A rate with as many digits as mean something: of a small run as well."""
    if what == "B":
        scale, unit = (1e6, "MB") if each_s >= 10e6 else (1e3, "kB") if each_s >= 10e3 else (1, "B")
        return f"{each_s / scale:,.0f} {unit}/s"
    return f"{each_s / 1e6:.2f} million {what}/s" if each_s >= 1e6 else f"{each_s:,.0f} {what}/s"


def aligned(table: Sequence[tuple[str, ...]], right: set[int]) -> list[str]:
    """Cells below each other; those of the columns `right` end below each other."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
