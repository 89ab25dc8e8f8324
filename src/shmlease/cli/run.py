"""`shmlease run`: a command, and what it leaked. Stdout is the command's; the report goes to stderr and to files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

import click

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.printable import printable
from shmlease.auditor.report.formats import render
from shmlease.auditor.report.formats.github import announce
from shmlease.auditor.report.output import format_of, write_file
from shmlease.auditor.run.adopted import SOURCE as ADOPTION
from shmlease.auditor.run.command import SETTLE_S, Adopting, CommandNotStartedError, LeftName, Run, run
from shmlease.cli.audit_options import AuditOptions, audit_options, duration_option, style_for
from shmlease.errors import LeaseError
from shmlease.output_file import check_output
from shmlease.units import format_bytes

__all__ = ["command"]

_ISOLATE = (
    "Give the command a /dev/shm of its own, or let it share the system's. By default its own, where the system allows "
    "that and the command is not to use a registry that runs outside."
)
_MOST_NAMED: Final = 5
_ADOPT = (
    "Put leases behind multiprocessing.shared_memory in every Python program that the command starts. Names last until "
    "they are unlinked, or the run ends; then what is left is removed, and listed."
)
_SETTLE = "How long to wait for processes that the command leaves running."
_OUTPUT = (
    "Also write the report to FILE: .html, .json, .sarif, .xml (JUnit), .trace.json (Perfetto) or .txt; may be repeated."
)


@click.command("run", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
@click.argument("program", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--isolate/--no-isolate", default=None, help=_ISOLATE)
@click.option("--hook/--no-hook", default=True, help="Record where Python code creates segments.  [default: hook]")
@click.option("--adopt", is_flag=True, help=_ADOPT)
@duration_option("--settle", "settle_s", default=f"{SETTLE_S:g}s", help=_SETTLE)
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE", help=_OUTPUT)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing if nothing leaked.")
@audit_options
def command(
    options: AuditOptions,
    program: tuple[str, ...],
    isolate: bool | None,
    hook: bool,
    adopt: bool,
    settle_s: float,
    outputs: tuple[str, ...],
    quiet: bool,
) -> None:
    """Run COMMAND and report what it leaked in shared memory.

    COMMAND can be any program; it need not be Python or know of shmlease. Its input, output, signals and exit code stay its
    own. Where its exit code is 0, the exit code is 0 if nothing leaked, 23 if something leaked, and 125 if no leak was
    found, something could not be seen, and --strict was given. 127 means that there is no such command, 126 that it cannot
    be executed, and 128 plus a number that this signal ended it.
    """
    if adopt and not hook:
        raise click.UsageError("--adopt works through the hook that --no-hook leaves out")
    for path in outputs:
        format_of(path)
    for path in (*outputs, *([options.new_baseline] if options.new_baseline else [])):
        check_output(path)  # before the command runs, which may take hours
    configuration = options.load()
    baseline = options.read_baseline(configuration)
    try:
        finished = run(
            program,
            isolate=isolate,
            hook=hook,
            settle_s=settle_s,
            adopting=_adopting() if adopt else None,
            audit_arguments=configuration.audit_arguments,
        )
    except CommandNotStartedError as error:
        click.echo(f"shmlease: {error}", err=True)
        sys.exit(error.exit_code)
    if options.record(finished.report):
        sys.exit(finished.returncode)
    if not quiet:
        _print_adoption(finished)
    report = baseline.apply(finished.report)
    if not (quiet and report.is_clean):
        _print(report, finished.why_shared, verbose=options.verbose)
    writes: list[Callable[[], object]] = [partial(write_file, report, path) for path in outputs]
    if report.findings:
        writes.append(partial(announce, report, sys.stderr.write, os.environ))
    failures = [write for write in writes if not _is_done(write)]
    code = finished.returncode or report.exit_code(strict=configuration.strict)
    sys.exit(code or (2 if failures else 0))


def _adopting() -> Callable[[], AbstractContextManager[Adopting]]:
    from shmlease.cli.adoption import Adoption  # noqa: PLC0415 - the client, and numpy, which other runs do without

    return Adoption


def _print_adoption(finished: Run) -> None:
    if finished.left:
        click.echo(f"shmlease: {_left_in_words(finished.left)}", err=True)
    for gap in finished.report.coverage.gaps:
        if gap.source == ADOPTION:
            click.echo(f"shmlease: {printable(gap.what)}: {printable(gap.why)}", err=True)


def _left_in_words(left: Sequence[LeftName]) -> str:
    count = f"{len(left)} segments" if len(left) > 1 else "1 segment"
    names = ", ".join(
        f"{one.name} ({format_bytes(one.size_bytes)}{f', made at {one.place}' if one.place else ''})"
        for one in left[:_MOST_NAMED]
    )
    more = ", ..." if len(left) > _MOST_NAMED else ""
    return f"{count} of the command had not been unlinked and ended with the run: {names}{more}"


def _print(report: Report, why_shared: str, *, verbose: bool) -> None:
    style = style_for(sys.stderr, verbose=verbose)
    text = render(report, "text", style)
    if why_shared and (verbose or not report.is_clean):
        text += f"the command shared /dev/shm with the rest of the system: {why_shared}\n"
    click.echo(text, err=True, nl=False, color=style.colour)


def _is_done(write: Callable[[], object]) -> bool:
    """Whether an output could be written; one that cannot must not prevent the others, or change the command's
    exit code.
    """
    try:
        write()
    except LeaseError as error:
        click.echo(f"shmlease: {error}", err=True)
        return False
    return True
