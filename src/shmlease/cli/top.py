"""`shmlease top`: the lease tables, live; once where stdout is no terminal."""

from __future__ import annotations

import time

import click
from rich.live import Live

from shmlease.cli.tables import as_text, console_for_tables, look
from shmlease.units import parse_duration

__all__ = ["command"]


@click.command()
@click.option("--id", "registry", default=None, help="Show only this registry.")
@click.option("--every", default="500ms", show_default=True, help="How often to update.")
@click.option("--all", "has_all", is_flag=True, help="Show spares and warm segments as well.")
def command(registry: str | None, every: str, has_all: bool) -> None:
    """Watch this user's registries until Ctrl-C; show them once where stdout is no terminal."""
    console = console_for_tables()
    try:
        interval_s = parse_duration(every)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--every") from None
    looks = look(registry)
    if not console.is_terminal:
        console.print(as_text(looks, registry, has_all=has_all))
        return
    first = as_text(looks, registry, has_all=has_all, is_wide=True)
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                before, looks = looks, look(registry)
                live.update(as_text(looks, registry, has_all=has_all, before=before, is_wide=True), refresh=True)
        except KeyboardInterrupt:
            pass
