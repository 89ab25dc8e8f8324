"""The report as JSON, whole: `Report.from_json` reads it back."""

from __future__ import annotations

from shmlease.auditor.judge.findings import Report

__all__ = ["render"]


def render(report: Report) -> str:
    """`report` as JSON."""
    return report.to_json().decode() + "\n"
