"""Reports into files; the end of the file's name says in which format."""

from __future__ import annotations

from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.formats import render
from shmlease.errors import LeaseError
from shmlease.output_file import write_output

__all__ = ["format_of", "write_file"]

# the end of a file's name -> the format; of two that match, the longer comes first
_ENDINGS: Final = {
    ".trace.json": "trace",
    ".html": "html",
    ".sarif": "sarif",
    ".json": "json",
    ".xml": "junit",
    ".txt": "text",
}


def format_of(path: str) -> str:
    """The format that the name of the file `path` asks for.

    Raises
    ------
    LeaseError
        No format has that ending.
    """
    name = next((name for ending, name in _ENDINGS.items() if path.endswith(ending)), None)
    if name is None:
        raise LeaseError(f"{path}: the name of a report must end in {', '.join(_ENDINGS)}", path=path)
    return name


def write_file(report: Report, path: str) -> None:
    """Write `report` to `path` in the format that its name asks for.

    Raises
    ------
    LeaseError
        No format has that ending, or the file cannot be written.
    """
    write_output(path, render(report, format_of(path)))
