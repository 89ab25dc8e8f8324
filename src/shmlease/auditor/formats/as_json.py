"""The report as JSON, whole: `Report.from_json` reads it back."""

from __future__ import annotations

from shmlease.auditor.formats.style import Style
from shmlease.core.findings import Report

__all__ = ["render"]


def render(report: Report, style: Style) -> str:  # noqa: ARG001 - the form's signature
    """`report` as JSON."""
    return report.to_json().decode() + "\n"
