"""What the commands of the auditor share: the options of an audit, and how a report looks at a terminal."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, TextIO

import click

from shmlease.auditor.baseline import Baseline, read_baseline, write_baseline
from shmlease.auditor.configuration import Configuration, load_configuration
from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.rules import rule_ids
from shmlease.auditor.report.formats import Style
from shmlease.errors import LeaseError
from shmlease.units import format_count, parse_duration

__all__ = ["CONFIG", "AuditOptions", "audit_options", "duration_option", "style_for"]


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _rule_ids(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(sorted(rule_ids(texts)))
    except LeaseError as error:
        raise click.BadParameter(str(error)) from error


def duration_option(
    *names: str, help: str, default: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option whose value is a duration, in seconds when it arrives."""
    return click.option(
        *names, metavar="DURATION", callback=_seconds, help=help, default=default, show_default=default is not None
    )


CONFIG: Final = click.option(
    "--config", metavar="FILE", help="Read this file instead of the nearest shmlease.toml or pyproject.toml."
)
_OPTIONS: Final = (
    click.option(
        "--strict/--no-strict", default=None, help="Exit 125 if no leak was found but something could not be seen."
    ),
    click.option(
        "--rule",
        "rules",
        multiple=True,
        metavar="RULE",
        callback=_rule_ids,
        help="Run only this rule, given by id or name; may be repeated.",
    ),
    click.option(
        "--ignore",
        multiple=True,
        metavar="RULE",
        callback=_rule_ids,
        help="Do not run this rule, given by id or name; may be repeated.",
    ),
    duration_option("--overdue-after", help="Report leases that are held for longer, such as 1h."),
    click.option("--baseline", metavar="FILE", help="Suppress the leaks recorded in this file."),
    click.option("--write-baseline", "new_baseline", metavar="FILE", help="Record the leaks in this file as known."),
    CONFIG,
    click.option(
        "--default-suppressions/--no-default-suppressions",
        default=None,
        help="Suppress what well-known programs keep in shared memory by design.  [default: on]",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show all evidence, every suppression and every gap."),
)


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """The options that `audit` and `run` have in common, as they were given."""

    strict: bool | None
    rules: tuple[str, ...]
    ignore: tuple[str, ...]
    overdue_after: float | None
    baseline: str | None
    new_baseline: str | None
    config: str | None
    default_suppressions: bool | None
    verbose: bool

    def load(self) -> Configuration:
        """The project's configuration with these options in place of its settings.

        Raises
        ------
        LeaseError
            The configuration cannot be read.
        """
        return load_configuration(self.config).overridden(
            strict=self.strict,
            rules=list(self.rules),
            ignore=list(self.ignore),
            overdue_after=self.overdue_after,
            baseline=self.baseline,
            default_suppressions=self.default_suppressions,
        )

    def read_baseline(self, configuration: Configuration) -> Baseline:
        """The known leaks; none where they are about to be recorded.

        Raises
        ------
        LeaseError
            The file cannot be read.
        """
        return read_baseline(None if self.new_baseline else configuration.baseline)

    def record(self, report: Report) -> bool:
        """Whether the leaks were to be recorded only; they have been, then.

        Raises
        ------
        LeaseError
            The file cannot be written.
        """
        if self.new_baseline is None:
            return False
        count = write_baseline(self.new_baseline, report)
        click.echo(f"recorded {format_count(count, 'leak')} in {self.new_baseline}", err=True)
        return True


def audit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of an audit; it takes them as one `AuditOptions`, its first argument."""

    @functools.wraps(command)
    def with_options(**parameters: Any) -> None:
        options = AuditOptions(**{field.name: parameters.pop(field.name) for field in fields(AuditOptions)})
        command(options, **parameters)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), with_options)


def style_for(stream: TextIO, *, verbose: bool) -> Style:
    """How a report for people looks on `stream`."""
    colour = stream.isatty() and not os.environ.get("NO_COLOR")
    return Style(colour, shutil.get_terminal_size((100, 24)).columns, verbose)
