"""Reports into files, in the form that the file's name asks for."""

from __future__ import annotations

import os
from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.formats import render
from shmlease.errors import LeaseError

__all__ = ["check_writable", "form_of", "write_file"]

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


def check_writable(path: str) -> None:
    """Refuse now what could not be written later, as far as it can be told without writing.

    Raises
    ------
    LeaseError
        The file could not be written.
    """
    directory = os.path.dirname(path) or os.curdir
    if not os.path.isdir(directory):
        raise LeaseError(f"cannot write {path}: there is no directory {directory}", path=path)
    if not os.access(path if os.path.exists(path) else directory, os.W_OK) or os.path.isdir(path):
        why = "it is a directory" if os.path.isdir(path) else "permission denied"
        raise LeaseError(f"cannot write {path}: {why}", path=path)


def write_file(report: Report, path: str) -> None:
    """Write `report` to `path` in the form that its name asks for.

    Raises
    ------
    LeaseError
        There is no such form, or the file cannot be written.
    """
    text = render(report, form_of(path))
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise LeaseError(f"cannot write {path}: {error.strerror}", path=path) from error
