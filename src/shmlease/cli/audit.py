"""`shmlease audit`: what leaked in shared memory, who made it, and what could not be seen."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace

import click

from shmlease.auditor.audit import audit
from shmlease.auditor.baseline import read_baseline, write_baseline
from shmlease.auditor.configuration import Configuration, load_configuration
from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.suppression import suppress_known
from shmlease.auditor.report.formats import FORMATS, Style, render
from shmlease.auditor.report.formats.github import add_to_summary
from shmlease.output_file import check_output, write_output

__all__ = ["command", "write_report"]


@click.command("audit")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", help="How to write the report.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write the report to a file instead of stdout.")
@click.option("--strict/--no-strict", default=None, help="Exit 125 when nothing was found but something was not seen.")
@click.option("--rule", "rules", multiple=True, metavar="RULE", help="Only this rule, by id or name; may be repeated.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Not this rule; may be repeated.")
@click.option("--path", "paths", multiple=True, metavar="DIRECTORY", help="Audit this directory; may be repeated.")
@click.option("--overdue-after", metavar="DURATION", help="Report leases that are held for longer, such as 1h.")
@click.option("--baseline", metavar="FILE", help="Set aside the findings that this file knows.")
@click.option("--write-baseline", "new_baseline", metavar="FILE", help="Write what leaks now as known, and exit 0.")
@click.option("--config", metavar="FILE", help="Instead of the nearest shmlease.toml or pyproject.toml.")
@click.option(
    "--default-suppressions/--no-default-suppressions", default=None, help="Set aside what others keep by design."
)
@click.option("-v", "--verbose", is_flag=True, help="All evidence, every suppression, every gap.")
def command(
    form: str,
    output: str | None,
    strict: bool | None,
    rules: tuple[str, ...],
    ignore: tuple[str, ...],
    paths: tuple[str, ...],
    overdue_after: str | None,
    baseline: str | None,
    new_baseline: str | None,
    config: str | None,
    default_suppressions: bool | None,
    verbose: bool,
) -> None:
    """Report what leaked in shared memory, who made it, and what could not be seen.

    Exit codes: 0 nothing leaked; 23 something did; 2 the call was wrong; 125 nothing was found, something could not be
    seen, and --strict was given.
    """
    for path in (output, new_baseline):
        if path is not None:
            check_output(path)
    configuration = load_configuration(config)
    report = _audit(configuration, rules, ignore, paths, overdue_after, default_suppressions)
    if new_baseline is not None:
        count = write_baseline(new_baseline, report)
        click.echo(f"{count} {'leak is' if count == 1 else 'leaks are'} known from now on: {new_baseline}", err=True)
        return
    known = baseline or configuration.baseline
    if known is not None:
        kept, aside = suppress_known(report.findings, read_baseline(known), known)
        report = replace(report, findings=kept, suppressed=(*report.suppressed, *aside))
    write_report(report, form, output, verbose=verbose)
    if output is not None:
        verdict = render(report, "text").splitlines()[-1]
        click.echo(f"{verdict}; the report is in {output}", err=True)
    sys.exit(report.exit_code(strict=configuration.strict if strict is None else strict))


def _audit(
    configuration: Configuration,
    rules: tuple[str, ...],
    ignore: tuple[str, ...],
    paths: tuple[str, ...],
    overdue_after: str | None,
    default_suppressions: bool | None,
) -> Report:
    try:
        return audit(
            paths=paths or configuration.paths,
            rules=rules or configuration.rules,
            ignore=ignore or configuration.ignore,
            suppressions=configuration.suppressions,
            default_suppressions=(
                configuration.default_suppressions if default_suppressions is None else default_suppressions
            ),
            overdue_after=overdue_after or configuration.overdue_after,
        )
    except ValueError as error:  # a duration that is none
        raise click.UsageError(str(error)) from error


def write_report(report: Report, form: str, output: str | None = None, *, verbose: bool = False) -> None:
    """Write `report` to `output` or stdout; in a GitHub step, also to its summary.

    Raises
    ------
    LeaseError
        A file cannot be written.
    """
    colour = output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    text = render(report, form, Style(colour, shutil.get_terminal_size((100, 24)).columns, verbose))
    if output is None:
        click.echo(text, nl=False, color=colour)
    else:
        write_output(output, text)
    if form == "github":
        add_to_summary(report, os.environ)
