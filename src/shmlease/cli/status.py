"""`shmlease status`: the lease tables of this user's registries, read from their ledgers."""

from __future__ import annotations

import json
import sys

import click

from shmlease.cli.prometheus import as_prometheus
from shmlease.cli.table_json import as_json
from shmlease.cli.tables import as_text, console_for_tables, look

__all__ = ["command"]


@click.command()
@click.option("--id", "registry", default=None, help="Show only this registry.")
@click.option("--all", "has_all", is_flag=True, help="Show spares and warm segments as well.")
@click.option("--json", "as_machine", is_flag=True, help="Write everything as JSON.")
@click.option("--prometheus", "as_metrics", is_flag=True, help="Write figures in Prometheus' text format.")
def command(registry: str | None, has_all: bool, as_machine: bool, as_metrics: bool) -> None:
    """Show the lease table of this user's registries.

    It is read from shared memory without asking the registry, so this works for a stopped or dead registry as well. Exit
    code 1 if the registry named by --id does not exist.
    """
    if as_machine and as_metrics:
        raise click.UsageError("--json and --prometheus are two forms of the same: give one of them")
    looks = look(registry)
    if as_machine:
        json.dump(as_json(looks), sys.stdout, indent=2)
        click.echo()
    elif as_metrics:
        click.echo(as_prometheus(looks), nl=False)
    else:
        console_for_tables().print(as_text(looks, registry, has_all=has_all))
    if registry is not None and not looks:
        sys.exit(1)
