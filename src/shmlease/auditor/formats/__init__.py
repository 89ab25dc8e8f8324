"""The forms a report can take: one module for each, imported when it is asked for.

A module of a form has one function, ``render(report, style) -> str``.
"""

from __future__ import annotations

import importlib
from typing import Final

from shmlease.auditor.formats.style import Style
from shmlease.core.findings import Report
from shmlease.errors import LeaseError

__all__ = ["FORMATS", "Style", "render"]

# format -> its module
FORMATS: Final[dict[str, str]] = {
    "text": "shmlease.auditor.formats.text",
    "json": "shmlease.auditor.formats.as_json",
    "sarif": "shmlease.auditor.formats.sarif",
    "junit": "shmlease.auditor.formats.junit",
    "github": "shmlease.auditor.formats.github",
    "html": "shmlease.auditor.html",
    "trace": "shmlease.auditor.trace",
}


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
