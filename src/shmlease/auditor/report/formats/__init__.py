"""The formats of a report: one module for each, imported when it is needed.

The module of a format has one function, ``render(report) -> str``; that of ``text``, which is for people, takes a style as
well.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.errors import LeaseError

__all__ = ["FORMATS", "Style", "render"]

FORMATS: Final = ("text", "json", "sarif", "junit", "github", "html", "trace")


@dataclass(frozen=True, slots=True)
class Style:
    """How a report for people looks; `verbose` shows all evidence, unused suppressions and gaps in which no
    leak can hide.
    """

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
    module = importlib.import_module(f"{__name__}.{format}")
    text: str = module.render(report, style or Style()) if format == "text" else module.render(report)
    return text
