"""`shmlease audit`: what leaked in shared memory, who created it, and what could not be seen."""

from __future__ import annotations

import os
import sys

import click

from shmlease.auditor.audit import audit
from shmlease.auditor.report.formats import FORMATS, Style, render
from shmlease.auditor.report.formats.github import add_to_summary
from shmlease.cli.audit_options import AuditOptions, audit_options, style_for
from shmlease.output_file import check_output, write_output

__all__ = ["command"]


@click.command("audit")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", help="The format of the report.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write the report to a file instead of stdout.")
@click.option("--path", "paths", multiple=True, metavar="DIRECTORY", help="Audit this directory; may be repeated.")
@audit_options
def command(options: AuditOptions, form: str, output: str | None, paths: tuple[str, ...]) -> None:
    """Report what leaked in shared memory, who created it, and what could not be seen.

    Exit codes: 0 nothing leaked; 23 something leaked; 2 usage error; 125 no leak was found, something could not be seen,
    and --strict was given.
    """
    for path in (output, options.new_baseline):
        if path is not None:
            check_output(path)
    configuration = options.load()
    baseline = options.read_baseline(configuration)
    report = audit(paths=paths or configuration.paths, **configuration.audit_arguments)
    if options.record(report):
        return
    report = baseline.apply(report)
    if output is None:
        style = style_for(sys.stdout, verbose=options.verbose)
        click.echo(render(report, form, style), nl=False, color=style.colour)
    else:
        write_output(output, render(report, form, Style(verbose=options.verbose)))
        verdict = render(report, "text").splitlines()[-1]
        click.echo(f"{verdict}; the report is in {output}", err=True)
    if form == "github":
        add_to_summary(report, os.environ)
    sys.exit(report.exit_code(strict=configuration.strict))
