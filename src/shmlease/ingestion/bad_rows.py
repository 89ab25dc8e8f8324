"""Malformed lines: the run fails at the first, or they are skipped and counted, or kept in the file beside the rows.

Kept lines of dataset ``calls`` are two datasets: ``rejected/calls/lines`` has one row for each line (file, line, field,
reason, and where its text lies), ``rejected/calls/text`` is the bytes of all of them, each as it stands in its file. The
files that the first counts are named by its attribute ``files``, a JSON list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from shmlease.errors import IngestError
from shmlease.hdf5 import HDF5Sink
from shmlease.ingestion.report import Rejected
from shmlease.ingestion.tasks import EXAMPLES, OnError
from shmlease.text.parser import BadRow

if TYPE_CHECKING:
    from shmlease.ingestion.reader import Failure

__all__ = ["LINES", "BadRows"]

LINES = np.dtype(
    [("file", "<i4"), ("line", "<i8"), ("field", "S64"), ("reason", "S256"), ("start", "<i8"), ("stop", "<i8")]
)


class BadRows:
    """The malformed lines of one run."""

    def __init__(self, on_error: OnError, sink: HDF5Sink) -> None:
        self._on_error = on_error
        self._sink = sink
        self._kept: dict[str, int] = {}
        self.examples: list[Rejected] = []

    def resume(self, dataset: str, text_bytes: int) -> None:
        """Go on after `text_bytes` of kept text."""
        self._kept[dataset] = text_bytes

    def kept_bytes(self, dataset: str) -> int:
        """Text kept so far of what did not go into `dataset`."""
        return self._kept.get(dataset, 0)

    def take(self, dataset: str, file_index: int, path: str, bad: Sequence[BadRow]) -> None:
        """Deal with the bad lines of a file, in their order.

        Raises
        ------
        IngestError
            The run is to fail at the first of them.
        """
        if not bad:
            return
        if self._on_error == "fail":
            first = _rejected(path, bad[0])
            raise IngestError(
                f"{first}; --on-error skip leaves such lines out, quarantine keeps them in the file",
                path=path,
                line=first.line,
                field=first.column,
                text=first.text,
                reason=first.reason,
            )
        self.examples += [_rejected(path, each) for each in bad[: EXAMPLES - len(self.examples)]]
        if self._on_error == "quarantine":
            self._keep(dataset, file_index, bad)

    def take_failure(self, group: str, file_index: int, path: str, failure: Failure, reader: str) -> None:
        """Deal with a path that the user's reader could not read.

        Raises
        ------
        IngestError
            The run is to fail.
        """
        if self._on_error == "fail":
            raise IngestError(
                f"{path}: reader {reader} failed: {failure.reason}; --on-error skip leaves such files out",
                path=path,
                reason=failure.reason,
                traceback=failure.traceback,
            )
        self.take(group, file_index, path, [BadRow(0, 0, None, "", failure.reason, failure.traceback.encode())])

    def finish(self, dataset: str, paths: Sequence[str]) -> None:
        """Nothing more comes of a dataset, which was made of these files."""
        if self.kept_bytes(dataset):
            self._sink.attributes(f"rejected/{dataset}/lines")["files"] = msgspec.json.encode(paths).decode()

    def _keep(self, dataset: str, file_index: int, bad: Sequence[BadRow]) -> None:
        ends = self.kept_bytes(dataset) + np.cumsum([len(each.row) + 1 for each in bad])
        rows = np.zeros(len(bad), LINES)
        rows["file"] = file_index
        rows["line"] = [each.line for each in bad]
        rows["field"] = [(each.column or "").encode()[:64] for each in bad]
        rows["reason"] = [_cut(each.reason.encode(), 256) for each in bad]
        rows["stop"] = ends - 1
        rows["start"] = ends - 1 - [len(each.row) for each in bad]
        text = b"".join(each.row + b"\n" for each in bad)
        self._sink.append(f"rejected/{dataset}/lines", rows)
        self._sink.append(f"rejected/{dataset}/text", np.frombuffer(text, np.uint8))
        self._kept[dataset] = int(ends[-1])


def _rejected(path: str, bad: BadRow) -> Rejected:
    return Rejected(path, bad.line, bad.column, bad.text, bad.reason)


def _cut(text: bytes, size: int) -> bytes:
    return text if len(text) <= size else text[: size - 3] + b"..."
