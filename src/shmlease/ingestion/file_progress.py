"""How far the files of one dataset have come: what was counted, where their rows end, and what a checkpoint keeps of that.

Lines are counted, malformed rows numbered and the ends of files noted strictly in file order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shmlease.errors import IngestError
from shmlease.hdf5.checksum import combine
from shmlease.hdf5.columnar_sink import AnySink
from shmlease.hdf5.file_parts import FilePart, part_of
from shmlease.hdf5.provenance import Source, checksum_of_file, format_checksum
from shmlease.ingestion.bad_rows import BadRows
from shmlease.ingestion.readers import Input, checksum_of_source
from shmlease.ingestion.report import FileReport
from shmlease.ingestion.tasks import ParsedPiece
from shmlease.text.blocks import count_lines
from shmlease.text.pipes import pipe_of
from shmlease.text.sources import is_read_once

__all__ = ["FileCounts", "FileProgress", "report_of"]


class FileCounts(msgspec.Struct):
    """How far a file was settled: what a checkpoint keeps, besides the rows themselves."""

    file: int = 0
    text_bytes: int = 0
    lines: int = 0
    crc32: int = 0
    start_row: int = 0
    rejected: int = 0
    kept_bytes: int = 0
    notes: dict[str, int] = msgspec.field(default_factory=dict)


class FileProgress:
    """The files of one dataset.

    Parameters
    ----------
    dataset, inputs, sink, bad_rows
        As of its job.
    position : mapping, optional
        Where an interrupted run had come to, as `position` gave it.

    Attributes
    ----------
    counts : FileCounts
        Of the file whose rows come next.
    reports : list of FileReport
        Of the files that are settled.
    """

    def __init__(
        self,
        dataset: str,
        inputs: Sequence[Input],
        sink: AnySink,
        bad_rows: BadRows,
        position: Mapping[str, Any] | None,
    ) -> None:
        self._dataset = dataset
        self._inputs = inputs
        self._sink = sink
        self._bad_rows = bad_rows
        self.counts = msgspec.convert(position or {}, FileCounts)
        bad_rows.resume(dataset, self.counts.kept_bytes)
        done = sink.completed().sources.get(dataset, ())
        self._known_sources = {(source.path, source.start, source.stop) for source in done}
        self.reports = [report_of(source, dataset) for source in done][: self.counts.file]
        self._crc32s: dict[int, int | None] = {}

    def take_crc32(self, source: Input, crc32: int | None) -> None:
        """Take the checksum of a compressed file, as it lies on the disk, if it is known."""
        self._crc32s[source.index] = crc32

    def take_parsed(self, source: Input, parsed: ParsedPiece, rows: int) -> None:
        """Count the next piece; `rows` are those of the dataset before it."""
        place = source.index - self._inputs[0].index
        self._close_files(before=place, rows=rows)
        counts = self.counts
        lines_before = _lines_before(source, parsed) + counts.lines
        self._bad_rows.take(self._dataset, place, source.path, [each.below(lines_before) for each in parsed.bad])
        counts.lines += parsed.lines
        counts.crc32 = combine(counts.crc32, parsed.crc32, parsed.text_bytes)
        counts.text_bytes += parsed.text_bytes
        counts.rejected += parsed.bad_count
        counts.notes = dict(Counter(counts.notes) + parsed.notes)

    def close(self, rows: int) -> None:
        """Note that all files end with so many rows of the dataset."""
        self._close_files(before=len(self._inputs), rows=rows)

    def finish(self) -> None:
        """The dataset has all its rows."""
        self._bad_rows.finish(self._dataset, [each.path for each in self._inputs])

    @property
    def bytes_done(self) -> int:
        """Of the files as they lie on the disk: those that were settled, and as much of the next as is known."""
        done = sum(report.size_bytes for report in self.reports)
        if self.counts.file < len(self._inputs):
            table = self._inputs[self.counts.file].context.table
            done += self.counts.text_bytes if table.compression == "plain" else 0
        return done

    def position(self) -> dict[str, Any]:
        """Where the files have come to, for a checkpoint."""
        self.counts.kept_bytes = self._bad_rows.kept_bytes(self._dataset)
        if self.counts == FileCounts():
            return {}
        position: dict[str, Any] = msgspec.to_builtins(self.counts)
        return position

    def _close_files(self, before: int, rows: int) -> None:
        while self.counts.file < before:
            counts, source = self.counts, self._inputs[self.counts.file]
            source.require_unchanged()
            start_row = counts.start_row
            size_bytes = pipe_of(source.path).size_bytes if is_read_once(source.path) else _size_bytes(source)
            if (source.path, start_row, rows) not in self._known_sources:
                self._sink.source(
                    self._dataset,
                    path=source.path,
                    rows=(start_row, rows),
                    **self._identity(source, counts, size_bytes),
                    lines=counts.lines,
                    rejected=counts.rejected,
                    notes=counts.notes,
                )
            self.reports.append(
                FileReport(
                    source.path, self._dataset, start_row, rows - start_row, counts.rejected, size_bytes, counts.notes
                )
            )
            self.counts = FileCounts(file=counts.file + 1, start_row=rows)

    def _identity(self, source: Input, counts: FileCounts, size_bytes: int) -> dict[str, Any]:
        """What a file, or the part of it that was read, is known by later."""
        crc32, part = self._crc32(source, counts), source.context.table.part
        if part is not None:
            lines = counts.lines + _lines_of_head(source)
            return {"size_bytes": None, "digest": None, "part": FilePart(*part, lines, crc32 or 0, source.state.size_bytes)}
        known = {"size_bytes": size_bytes, "digest": None if crc32 is None else format_checksum(crc32)}
        is_file = os.path.isfile(source.path)  # else nobody can look it up later
        return known if is_file else {"size_bytes": None, "digest": None, "read": known}

    def _crc32(self, source: Input, counts: FileCounts) -> int | None:
        """Of the file as it lies on the disk, if it does, or of the part of it that was read."""
        table = source.context.table
        if table.compression != "plain" or table.schema.ends_at:
            known = self._crc32s.pop(source.index, None)
            return checksum_of_source(source.path) if known is None else known
        start, stop = table.extent
        if start + counts.text_bytes != stop:
            raise IngestError(
                f"{source.path}: was read to byte {start + counts.text_bytes}, and its rows were to end with byte {stop}; "
                "it was changed meanwhile; run again when it no longer changes",
                path=source.path,
            )
        if table.part is not None and table.part[0] > 0:
            return counts.crc32
        return combine(checksum_of_file(source.path, table.data_offset), counts.crc32, counts.text_bytes)


def _size_bytes(source: Input) -> int:
    """Of a file as it lies on the disk, or of the part of it that is read."""
    part = source.context.table.part
    return source.state.size_bytes if part is None else part[1] - part[0]


def _lines_of_head(source: Input) -> int:
    """How many lines come before the rows in what is read of a file."""
    table = source.context.table
    return 0 if table.part is not None and table.part[0] > 0 else table.data_line - 1


def _lines_before(source: Input, parsed: ParsedPiece) -> int:
    """How many lines come before the rows of a file.

    Lines of a part count from its first, since nobody but who has read all before it knows how many these are. They are
    counted for the error that ends a run.
    """
    if parsed.bad and source.context.on_error == "fail":
        return count_lines(source.context.table, source.context.table.extent[0]) - 1
    return _lines_of_head(source)


def report_of(source: Source, dataset: str) -> FileReport:
    """What became of a file, from the record that an interrupted run kept of it."""
    details, part = source.details, part_of(source)
    size_bytes = source.size_bytes if part is None else part.stop - part.start
    return FileReport(
        source.path or "",
        dataset,
        source.start,
        source.stop - source.start,
        details.get("rejected", 0),
        size_bytes or 0,
        details.get("notes", {}),
    )
