"""`shmlease reap`: removes what is proved to belong to nobody, and lists what it left alone with the reason."""

from __future__ import annotations

import click
import msgspec

from shmlease.auditor.configuration import load_configuration
from shmlease.auditor.judge.printable import printable
from shmlease.auditor.reap import Reaping, reap
from shmlease.cli.audit_options import CONFIG, duration_option
from shmlease.units import format_bytes

__all__ = ["command"]


@click.command("reap")
@click.argument("files", nargs=-1)
@click.option("--yes", is_flag=True, help="Remove; without this, only list what would be removed.")
@duration_option("--older-than", default="0s", help="Leave alone whatever was used more recently than this.")
@click.option("--path", "paths", multiple=True, metavar="DIRECTORY", help="Reap this directory; may be repeated.")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")
def command(
    files: tuple[str, ...], yes: bool, older_than: float, paths: tuple[str, ...], config: str | None, as_json: bool
) -> None:
    """Remove segments and dead registries that are proved to belong to nobody.

    Each is removed only while the kernel confirms that nobody has it open. What a suppression matches is left alone.
    So is what looks like an ordinary file, not a segment: its name has an extension, it lies in a directory, or
    other users may access it. If FILES are named, only these are removed, on the same proof, whatever they look like.
    """
    configuration = load_configuration(config)
    reaping = reap(
        yes=yes,
        files=files,
        paths=paths or configuration.paths,
        older_than=older_than,
        suppressions=configuration.suppressions,
        default_suppressions=configuration.default_suppressions,
    )
    click.echo(msgspec.json.encode(reaping).decode() if as_json else _text(reaping))


def _text(reaping: Reaping) -> str:
    done = "would remove" if reaping.dry else "removed"
    lines = [f"{done} {printable(one.path)} ({format_bytes(one.resident_bytes)}, {one.rule})" for one in reaping.removed]
    lines += [f"left alone {printable(one.path)} ({one.rule}): {printable(one.reason)}" for one in reaping.declined]
    total = format_bytes(sum(one.resident_bytes for one in reaping.removed))
    again = "; run it again with --yes to remove them" if reaping.dry and reaping.removed else ""
    lines.append(f"{done} {len(reaping.removed)} ({total}), left alone {len(reaping.declined)}{again}")
    return "\n".join(lines)
