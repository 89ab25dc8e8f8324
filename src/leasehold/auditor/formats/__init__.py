"""The forms a report can take: one module for each, imported when it is asked for.

A module of a form has one function, ``render(report, style) -> str``.
"""

from __future__ import annotations

import importlib
from typing import Final

from leasehold.auditor.formats.style import Style
from leasehold.core.findings import Report
from leasehold.errors import LeaseholdError

__all__ = ["FORMATS", "Style", "render"]

# format -> its module
FORMATS: Final[dict[str, str]] = {
    "text": "leasehold.auditor.formats.text",
    "json": "leasehold.auditor.formats.as_json",
    "sarif": "leasehold.auditor.formats.sarif",
    "junit": "leasehold.auditor.formats.junit",
    "github": "leasehold.auditor.formats.github",
    "html": "leasehold.auditor.html",
    "trace": "leasehold.auditor.trace",
}


def render(report: Report, format: str, style: Style | None = None) -> str:
    """`report` in one of `FORMATS`, ending in a newline.

    Raises
    ------
    LeaseholdError
        There is no such format.
    """
    if format not in FORMATS:
        raise LeaseholdError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}", format=format)
    text: str = importlib.import_module(FORMATS[format]).render(report, style or Style())
    return text
