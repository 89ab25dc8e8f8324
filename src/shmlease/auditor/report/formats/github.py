"""The report as annotations of a GitHub Actions run, and as Markdown for the summary of its step.

GitHub shows about ten annotations a step, so the worst ten are annotated and all are in the summary.

Source: "Workflow commands for GitHub Actions"; the escapes are those of its toolkit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from shmlease.auditor.judge.findings import Finding, Report
from shmlease.auditor.judge.rules import Severity
from shmlease.output_file import append_output
from shmlease.units import format_bytes, format_count

__all__ = ["add_to_summary", "annotation", "announce", "render", "summary"]

_ANNOTATIONS: Final = 10
_COMMANDS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def render(report: Report) -> str:
    """The workflow commands that annotate the run with the findings of `report`."""
    lines = [annotation(finding) for finding in report.findings[:_ANNOTATIONS]]
    rest = len(report.findings) - _ANNOTATIONS
    if rest > 0:
        lines.append(f"::notice title=shmlease::{rest} more findings are in the summary of this step")
    return "".join(f"{line}\n" for line in lines)


def announce(report: Report, write: Callable[[str], object], environment: Mapping[str, str]) -> bool:
    """Annotate the run and add to the summary of its step, if this is one of GitHub Actions; whether it is.

    Parameters
    ----------
    report : Report
        What to announce.
    write : callable
        Writes text where the runner reads workflow commands: to stdout.
    environment : mapping
        Of this process.

    Raises
    ------
    LeaseError
        The summary cannot be written.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return False
    write(render(report))
    add_to_summary(report, environment)
    return True


def add_to_summary(report: Report, environment: Mapping[str, str]) -> None:
    """Append `report` to the summary of the step, if there is one.

    Raises
    ------
    LeaseError
        It cannot be written.
    """
    path = environment.get("GITHUB_STEP_SUMMARY")
    if path:
        append_output(path, summary(report))


def annotation(finding: Finding) -> str:
    """The workflow command that annotates the run, and the line of code where it is known, with `finding`."""
    properties = {"title": f"{finding.rule} {finding.definition.name}"}
    place = finding.creator.reported_at if finding.creator else None
    if place is not None:
        properties = {"file": place.file, "line": str(place.line), **properties}
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    facts = "".join(f"\n{fact.text} [{fact.source}]" for fact in finding.evidence)
    message = _data(f"{finding.message}{facts}\nTo fix it: {finding.remedy}")
    return f"::{_COMMANDS[finding.severity]} {written}::{message}"


def summary(report: Report) -> str:
    """`report` as Markdown, for the file that $GITHUB_STEP_SUMMARY names."""
    verdict = "No leaks" if report.is_clean else format_count(len(report.leaks), "leak")
    lines = [f"### shmlease audit: {verdict}", ""]
    if report.findings:
        lines += ["| rule | finding | memory | created at | confidence |", "|---|---|---:|---|---|"]
        for finding in report.findings:
            place = finding.creator.place if finding.creator and finding.creator.place else ""
            rule = f"{finding.rule} {finding.definition.name}"
            memory = format_bytes(finding.cost_bytes)
            cells = map(_cell, (rule, finding.message, memory, str(place), finding.confidence.value))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if report.suppressed:
        lines += [f"{format_count(len(report.suppressed), 'finding was', 'findings were')} suppressed.", ""]
    lines += [f"- not seen: {_cell(f'{gap.what}: {gap.why}')}" for gap in report.coverage.gaps]
    return "\n".join(lines) + "\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
    return " ".join(escaped.split())
