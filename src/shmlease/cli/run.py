"""`shmlease run`: a command, and what it leaked. Stdout is the command's; the report goes to stderr and to files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import click

from shmlease.auditor.baseline import read_baseline, write_baseline
from shmlease.auditor.configuration import Configuration, load_configuration
from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.rules import rule_of, unknown_rule
from shmlease.auditor.judge.suppression import suppress_known
from shmlease.auditor.report.formats import Style, render
from shmlease.auditor.report.formats.github import announce
from shmlease.auditor.report.output import form_of, write_file
from shmlease.auditor.run.command import SETTLE_S, CommandNotStartedError, run
from shmlease.errors import LeaseError
from shmlease.output_file import check_output
from shmlease.units import parse_duration

__all__ = ["command"]


def _checked_rules(context: click.Context, option: click.Parameter, rules: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no rule before the command runs."""
    for rule in rules:
        if rule_of(rule) is None:
            raise click.BadParameter(unknown_rule(rule), context, option)
    return rules


@click.command("run", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
@click.argument("program", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--isolate/--no-isolate",
    default=None,
    help="Give it a /dev/shm of its own, or let it share the system's. "
    "By default its own, where the system allows it and no registry that runs outside is to be used.",
)
@click.option("--hook/--no-hook", default=True, help="Record where in Python code segments are made.  [default: hook]")
@click.option(
    "--settle", default=f"{SETTLE_S:g}s", metavar="DURATION", show_default=True,
    help="How long to wait for what the command leaves running.",
)  # fmt: skip
@click.option(
    "-o", "--output", "outputs", multiple=True, metavar="FILE",
    help="Write the report to FILE as well: .html, .json, .sarif, .xml (JUnit), .trace.json (Perfetto), .txt; may be repeated.",
)  # fmt: skip
@click.option("--strict/--no-strict", default=None, help="Exit 125 when nothing was found but something was not seen.")
@click.option(
    "--rule", "rules", multiple=True, metavar="RULE", callback=_checked_rules,
    help="Only this rule, by id or name; may be repeated.",
)  # fmt: skip
@click.option("--ignore", multiple=True, metavar="RULE", callback=_checked_rules, help="Not this rule; may be repeated.")
@click.option("--overdue-after", metavar="DURATION", help="Report leases that are held for longer, such as 1h.")
@click.option("--baseline", metavar="FILE", help="Set aside the findings that this file knows.")
@click.option(
    "--write-baseline", "new_baseline", metavar="FILE",
    help="Write what leaks now as known; the exit code is the command's own.",
)  # fmt: skip
@click.option("--config", metavar="FILE", help="Instead of the nearest shmlease.toml or pyproject.toml.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when nothing leaked.")
@click.option("-v", "--verbose", is_flag=True, help="All evidence, every suppression, every gap.")
def command(
    program: tuple[str, ...],
    isolate: bool | None,
    hook: bool,
    settle: str,
    outputs: tuple[str, ...],
    strict: bool | None,
    rules: tuple[str, ...],
    ignore: tuple[str, ...],
    overdue_after: str | None,
    baseline: str | None,
    new_baseline: str | None,
    config: str | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run COMMAND and report what it leaked in shared memory.

    Any command: it need not be Python, nor know of shmlease. Its input, output, signals and exit code are its own; where that
    code is 0, the exit code is 0 when nothing leaked, 23 when something did, and 125 when something could not be seen and
    --strict was given. 127 means that there is no such command, 126 that it cannot be executed, 128 and a number that a signal
    ended it.
    """
    for path in outputs:
        form_of(path)
    for path in (*outputs, *([new_baseline] if new_baseline else [])):
        check_output(path)  # before the command runs, which may take hours
    configuration = load_configuration(config)
    settings = _settings(configuration, rules, ignore, overdue_after)
    known = None if new_baseline else baseline or configuration.baseline
    allowed = read_baseline(known) if known else {}
    try:
        finished = run(program, isolate=isolate, hook=hook, settle_s=_seconds("--settle", settle), settings=settings)
    except CommandNotStartedError as error:
        click.echo(f"shmlease: {error}", err=True)
        sys.exit(error.exit_code)
    report = finished.report
    if new_baseline is not None:
        count = write_baseline(new_baseline, report)
        click.echo(f"{count} {'leak is' if count == 1 else 'leaks are'} known from now on: {new_baseline}", err=True)
        sys.exit(finished.returncode)
    if known:
        kept, aside = suppress_known(report.findings, allowed, known)
        report = replace(report, findings=kept, suppressed=(*report.suppressed, *aside))
    if not (quiet and report.is_clean):
        _tell(report, finished.why_shared, verbose=verbose)
    writes: list[Callable[[], object]] = [partial(write_file, report, path) for path in outputs]
    if report.findings:
        writes.append(partial(announce, report, sys.stderr.write, os.environ))
    failures = [write for write in writes if not _is_done(write)]
    code = finished.returncode or report.exit_code(strict=configuration.strict if strict is None else strict)
    sys.exit(code or (2 if failures else 0))


def _is_done(write: Callable[[], object]) -> bool:
    """Whether an output could be written; one that cannot keeps neither the others nor the exit code of the command back."""
    try:
        write()
    except LeaseError as error:
        click.echo(f"shmlease: {error}", err=True)
        return False
    return True


def _settings(
    configuration: Configuration, rules: tuple[str, ...], ignore: tuple[str, ...], overdue_after: str | None
) -> dict[str, Any]:
    overdue = overdue_after or configuration.overdue_after
    return {
        "rules": rules or configuration.rules,
        "ignore": ignore or configuration.ignore,
        "suppressions": configuration.suppressions,
        "default_suppressions": configuration.default_suppressions,
        "overdue_after": None if overdue is None else _seconds("--overdue-after", overdue),
    }


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _tell(report: Report, why_shared: str, *, verbose: bool) -> None:
    """The report on stderr, for people."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    style = Style(colour, shutil.get_terminal_size((100, 24)).columns, verbose)
    text = render(report, "text", style)
    if why_shared and (verbose or not report.is_clean):
        text += f"the command shared /dev/shm with the rest of the system: {why_shared}\n"
    click.echo(text, err=True, nl=False, color=colour)
