"""The report as JSON, whole: `Report.from_json` reads it back."""

from __future__ import annotations

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.formats import Style

__all__ = ["render"]


def render(report: Report, style: Style) -> str:  # noqa: ARG001 - the format's signature
    """`report` as JSON."""
    return report.to_json().decode() + "\n"
