"""`shmlease status`: the lease tables of this user's registries, read from their ledgers."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

from shmlease.cli.tables import as_json, as_text, look

__all__ = ["command"]


@click.command()
@click.option("--id", "registry", default=None, help="Show only this registry.")
@click.option("--json", "as_machine", is_flag=True, help="Write everything as JSON.")
def command(registry: str | None, as_machine: bool) -> None:
    """Show the lease table of this user's registries.

    It is read from shared memory without asking the registry, so this works for a stopped or dead registry as well. Exit
    code 1 if the registry named by --id does not exist.
    """
    looks = look(registry)
    if as_machine:
        json.dump(as_json(looks), sys.stdout, indent=2)
        click.echo()
    else:
        Console(highlight=False).print(as_text(looks, registry))
    if registry is not None and not looks:
        sys.exit(1)
