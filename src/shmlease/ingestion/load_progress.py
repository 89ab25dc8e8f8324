"""How far the paths of a reader have come: which are done, where their rows are, and what a checkpoint keeps of that."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from shmlease.hdf5 import HDF5Sink
from shmlease.hdf5.provenance import format_checksum
from shmlease.ingestion.load_plan import LoadPlan
from shmlease.ingestion.report import FileReport

__all__ = ["LoadProgress"]


class LoadProgress:
    """The paths of one run.

    Parameters
    ----------
    plan, sink
        Of the run.
    position : mapping, optional
        Where an interrupted run had come to, as `position` gave it.

    Attributes
    ----------
    arrays : tuple of str
        Of the group that all paths share, those that the paths which are done had.
    kept_bytes : int
        Of that group, what is kept of failures.
    """

    def __init__(self, plan: LoadPlan, sink: HDF5Sink, position: Mapping[str, Any] | None) -> None:
        self._plan = plan
        self._sink = sink
        position = position or {}
        self._first = 0  # what comes before it is done
        self._done: set[int] = set()  # of those after it
        self._failed = set(_expanded(position.get("failed", ())))
        self.arrays: tuple[str, ...] = tuple(position.get("arrays", ()))
        self.kept_bytes: int = position.get("kept_bytes", 0)
        self._moved: dict[str, int] = {}
        self._known = {
            (name, source.path, source.start, source.stop)
            for name, sources in sink.completed().sources.items()
            for source in sources
        }
        ranges: dict[str, dict[str, tuple[int, int]]] = {}
        for name, path, start, stop in self._known:
            if path is not None:
                ranges.setdefault(path, {})[name] = start, stop
        self._reports: dict[int, FileReport] = {}
        for index in _expanded(position.get("done", ())):
            self._reports[index] = self._report(index, ranges.get(plan.paths[index], {}))
            self._mark(index)
        self.resumed_rows = self.rows

    def is_done(self, index: int) -> bool:
        """Whether a path needs no more."""
        return index < self._first or index in self._done

    def close(self, index: int, ranges: Mapping[str, tuple[int, int]], file_crc32: int | None, failure: str | None) -> None:
        """Note where the rows of a path are; all of them have been handed over, or are about to be."""
        plan, path = self._plan, self._plan.paths[index]
        plan.require_unchanged(index)
        state = plan.states[index]
        if failure is not None:
            self._failed.add(index)
        for name, (start, stop) in ranges.items():
            if (name, path, start, stop) not in self._known:
                self._sink.source(
                    name,
                    path=path,
                    rows=(start, stop),
                    size_bytes=None if state is None else state.size_bytes,
                    digest=None if file_crc32 is None else format_checksum(file_crc32),
                    reader=plan.reader.name,
                    **({} if failure is None else {"failed": failure}),
                )
        self._reports[index] = self._report(index, ranges)

    def settle(self, indices: Iterable[int], rows: Mapping[str, int], arrays: Iterable[str], kept_bytes: int) -> None:
        """These paths are done; a checkpoint may say so, and that the datasets have so many rows."""
        for index in indices:
            self._mark(index)
        self._moved.update(rows)
        self.arrays, self.kept_bytes = tuple(arrays), kept_bytes

    def take_moved(self) -> dict[str, int]:
        """The rows of the datasets that have more of them than when this was last asked."""
        moved, self._moved = self._moved, {}
        return moved

    def position(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "done": [[0, self._first], *_ranges(self._done)],
            "failed": _ranges(index for index in self._failed if self.is_done(index)),
            "arrays": self.arrays,
            "kept_bytes": self.kept_bytes,
        }

    @property
    def rows(self) -> int:
        """Of the paths that were read to their ends."""
        return sum(report.rows for report in self._reports.values())

    @property
    def bytes_done(self) -> int:
        """Of their files."""
        return sum(report.size_bytes for report in self._reports.values())

    @property
    def reports(self) -> list[FileReport]:
        """What became of them, in the order of the paths."""
        return [self._reports[index] for index in sorted(self._reports)]

    def _mark(self, index: int) -> None:
        self._done.add(index)
        while self._first in self._done:
            self._done.discard(self._first)
            self._first += 1

    def _report(self, index: int, ranges: Mapping[str, tuple[int, int]]) -> FileReport:
        state = self._plan.states[index]
        name, start = self._plan.groups[index], 0
        if len(ranges) == 1:
            ((name, (start, _)),) = ranges.items()
        rows = sum(stop - start for start, stop in ranges.values())
        size_bytes = 0 if state is None else state.size_bytes
        return FileReport(self._plan.paths[index], name, start, rows, int(index in self._failed), size_bytes)


def _expanded(ranges: Iterable[tuple[int, int]]) -> list[int]:
    return [index for start, stop in ranges for index in range(start, stop)]


def _ranges(indices: Iterable[int]) -> list[list[int]]:
    """Numbers as the ranges that they make, so that many take little room."""
    ordered = sorted(indices)
    runs = itertools.groupby(enumerate(ordered), key=lambda each: each[1] - each[0])
    found = [[index for _, index in run] for _, run in runs]
    return [[run[0], run[-1] + 1] for run in found]
