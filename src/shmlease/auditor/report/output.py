"""Reports into files, in the form that the file's name asks for."""

from __future__ import annotations

from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.formats import render
from shmlease.errors import LeaseError
from shmlease.output_file import write_output

__all__ = ["form_of", "write_file"]

# how a file's name ends -> the form that is written to it; of two that fit, the longer comes first
_ENDINGS: Final = {
    ".trace.json": "trace",
    ".html": "html",
    ".sarif": "sarif",
    ".json": "json",
    ".xml": "junit",
    ".txt": "text",
}


def form_of(path: str) -> str:
    """The form that the name of the file `path` asks for.

    Raises
    ------
    LeaseError
        It asks for none that there is.
    """
    form = next((form for ending, form in _ENDINGS.items() if path.endswith(ending)), None)
    if form is None:
        raise LeaseError(f"{path}: a report's file name is to end in {', '.join(_ENDINGS)}", path=path)
    return form


def write_file(report: Report, path: str) -> None:
    """Write `report` to `path` in the form that its name asks for.

    Raises
    ------
    LeaseError
        There is no such form, or the file cannot be written.
    """
    write_output(path, render(report, form_of(path)))
