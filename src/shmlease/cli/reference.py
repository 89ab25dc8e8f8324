"""Reference pages generated from the code: docs/cli.md from the commands, docs/rules.md from the auditor's rules, and
docs/states.md from the tables of states.

python -m shmlease.cli.reference docs
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

import click

from shmlease.auditor.judge.rules import RULES
from shmlease.cli import cli
from shmlease.core.transitions import LEASE_TRANSITIONS, SEGMENT_TRANSITIONS
from shmlease.output_file import write_output

__all__ = ["PAGES", "commands", "rules", "states"]


def commands() -> str:
    """The command line."""
    parts = [
        "# Command line\n",
        "Generated from the commands by `python -m shmlease.cli.reference docs`; a test compares them. Data goes to "
        "stdout, messages",
        "and progress to stderr; `NO_COLOR` is honoured. `python -m shmlease` is the same as `shmlease`.\n",
    ]
    parent = click.Context(cli, info_name="shmlease")
    for name in cli.list_commands(parent):
        command = cli.get_command(parent, name)
        if command is None:
            continue
        context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
        parts += [f"## shmlease {name}\n", "```text", command.get_help(context), "```\n"]
    return "\n".join(parts)


def rules() -> str:
    """The rules of the auditor."""
    lines = [
        "# Rules of the auditor\n",
        "Generated from `shmlease/auditor/judge/rules.py`. Errors and warnings count as leaks (exit code 23); notes do "
        "not.\n",
        "| id | name | severity | meaning | fix |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {rule.id} | {rule.name} | {rule.severity.value} | {rule.description} | {rule.remedy} |"
        for rule in RULES.values()
    ]
    return "\n".join(lines) + "\n"


def states() -> str:
    """The lives of segments and leases."""
    lines = [
        "# States\n",
        "Generated from `shmlease/core/transitions.py`: nothing else changes a state. What ends has no row in the lease "
        "table.\n",
    ]
    for title, table in (("A segment", SEGMENT_TRANSITIONS), ("A lease", LEASE_TRANSITIONS)):
        lines += [f"## {title}\n", "| from | what happens | to |", "|---|---|---|"]
        lines += [f"| {state} | {event} | {after or 'ended'} |" for (state, event), after in table.items()]
        lines.append("")
    return "\n".join(lines)


PAGES: Final[dict[str, Callable[[], str]]] = {"cli.md": commands, "rules.md": rules, "states.md": states}

if __name__ == "__main__":
    for name, page in PAGES.items():
        write_output(os.path.join(sys.argv[1], name), page())
