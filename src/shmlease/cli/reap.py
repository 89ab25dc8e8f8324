"""`shmlease reap`: removes what is proved to be nobody's, and lists what it left alone with the reason."""

from __future__ import annotations

import click
import msgspec

from shmlease.auditor.configuration import load_configuration
from shmlease.auditor.judge.printable import printable
from shmlease.auditor.reap import Reaping, reap
from shmlease.units import format_bytes

__all__ = ["command"]


@click.command("reap")
@click.option("--yes", is_flag=True, help="Remove; without it, only tell what would be removed.")
@click.option("--older-than", default="0s", metavar="DURATION", help="Leave alone what was used more recently.")
@click.option("--path", "paths", multiple=True, metavar="DIRECTORY", help="Reap this directory; may be repeated.")
@click.option("--config", metavar="FILE", help="Instead of the nearest shmlease.toml or pyproject.toml.")
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")
def command(yes: bool, older_than: str, paths: tuple[str, ...], config: str | None, as_json: bool) -> None:
    """Remove the segments and the dead registries that are proved to be nobody's.

    Each is removed while the kernel vouches that nobody has it open. What is set aside by a suppression is left alone.
    """
    configuration = load_configuration(config)
    try:
        reaping = reap(
            yes=yes,
            paths=paths or configuration.paths,
            older_than=older_than,
            suppressions=configuration.suppressions,
            default_suppressions=configuration.default_suppressions,
        )
    except ValueError as error:  # a duration that is none
        raise click.UsageError(str(error)) from error
    click.echo(msgspec.json.encode(reaping).decode() if as_json else _told(reaping))


def _told(reaping: Reaping) -> str:
    done = "would remove" if reaping.dry else "removed"
    lines = [f"{done} {printable(one.path)} ({format_bytes(one.resident_bytes)}, {one.rule})" for one in reaping.removed]
    lines += [f"left alone {printable(one.path)} ({one.rule}): {printable(one.reason)}" for one in reaping.declined]
    total = format_bytes(sum(one.resident_bytes for one in reaping.removed))
    again = "; run it again with --yes to do so" if reaping.dry and reaping.removed else ""
    lines.append(f"{done} {len(reaping.removed)} ({total}), left alone {len(reaping.declined)}{again}")
    return "\n".join(lines)
