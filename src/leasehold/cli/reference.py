"""The command line reference, docs/cli.md, made from the commands themselves: `python -m leasehold.cli.reference`."""

from __future__ import annotations

import click

from leasehold.cli import cli

__all__ = ["reference"]


def reference() -> str:
    """The whole reference as Markdown."""
    parts = [
        "# Command line\n",
        "Made from the commands by `python -m leasehold.cli.reference`; a test compares it with them. Data goes to stdout, talk and",
        "progress to stderr; `NO_COLOR` is honoured. `python -m leasehold` is the same as `leasehold`.\n",
    ]
    parent = click.Context(cli, info_name="leasehold")
    for name in cli.list_commands(parent):
        command = cli.get_command(parent, name)
        if command is None:
            continue
        context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
        parts += [f"## leasehold {name}\n", "```text", command.get_help(context), "```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
