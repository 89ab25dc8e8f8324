"""`shmlease top`: the lease tables, live; once where stdout is no terminal."""

from __future__ import annotations

import time

import click
from rich.console import Console
from rich.live import Live

from shmlease.cli.tables import as_text, look
from shmlease.units import parse_duration

__all__ = ["command"]


@click.command()
@click.option("--id", "registry", default=None, help="Show only this registry.")
@click.option("--every", default="500ms", show_default=True, help="How often to update.")
def command(registry: str | None, every: str) -> None:
    """Watch this user's registries until Ctrl-C; show them once where stdout is no terminal."""
    console = Console(highlight=False)
    try:
        interval_s = parse_duration(every)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--every") from None
    if not console.is_terminal:
        console.print(as_text(look(registry), registry))
        return
    with Live(as_text(look(registry), registry), console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                live.update(as_text(look(registry), registry), refresh=True)
        except KeyboardInterrupt:
            pass
