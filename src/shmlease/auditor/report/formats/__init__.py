"""The formats of a report: one module for each, imported when it is needed.

A module of a format has one function, ``render(report, style) -> str``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.errors import LeaseError

__all__ = ["FORMATS", "Style", "render"]

# format -> its module
FORMATS: Final[dict[str, str]] = {
    "text": "shmlease.auditor.report.formats.text",
    "json": "shmlease.auditor.report.formats.as_json",
    "sarif": "shmlease.auditor.report.formats.sarif",
    "junit": "shmlease.auditor.report.formats.junit",
    "github": "shmlease.auditor.report.formats.github",
    "html": "shmlease.auditor.report.html",
    "trace": "shmlease.auditor.report.trace",
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a report for people looks; `verbose` shows all evidence, unused suppressions and gaps in which no leak can hide."""

    colour: bool = False
    width_columns: int = 100
    verbose: bool = False


def render(report: Report, format: str, style: Style | None = None) -> str:
    """`report` in one of `FORMATS`, ending in a newline.

    Raises
    ------
    LeaseError
        There is no such format.
    """
    if format not in FORMATS:
        raise LeaseError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}", format=format)
    text: str = importlib.import_module(FORMATS[format]).render(report, style or Style())
    return text
