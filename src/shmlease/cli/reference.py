"""Reference pages generated from the code: docs/cli.md from the commands, docs/rules.md from the auditor's rules, and
docs/states.md, with its diagrams, from the tables of states.

python -m shmlease.cli.reference docs
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import click

from shmlease.auditor.judge.rules import RULES
from shmlease.cli import cli
from shmlease.core.transitions import LEASE_TRANSITIONS, SEGMENT_TRANSITIONS, LeaseState, SegmentState
from shmlease.output_file import write_output
from shmlease.pages.diagrams import diagram_of
from shmlease.pages.rendering import render_diagram

__all__ = ["PAGES", "commands", "lease_diagram", "rules", "segment_diagram", "states"]

_ENDED: Final = "ended"


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
        picture = title.lower().replace(" ", "-")
        lines += [f"## {title}\n", f"![States of {title.lower()}](states/{picture}.svg)\n"]
        lines += ["| from | what happens | to |", "|---|---|---|"]
        lines += [f"| {state} | {event} | {after or _ENDED} |" for (state, event), after in table.items()]
        lines.append("")
    return "\n".join(lines)


def segment_diagram() -> str:
    """The states of a segment, as a picture."""
    places = {
        SegmentState.CREATING: (0.0, 0.0),
        SegmentState.FILLING: (1.5, 0.0),
        SegmentState.PUBLISHED: (3.0, 0.0),
        SegmentState.RESERVED: (0.75, 1.2),
        SegmentState.WARM: (2.25, 1.2),
        SegmentState.RETIRING: (1.5, 2.4),
        _ENDED: (0.0, 2.8),
    }
    # around the boxes of reserved and warm segments
    bends: dict[tuple[str, str], float] = {
        (SegmentState.CREATING, SegmentState.RETIRING): -0.18,
        (SegmentState.PUBLISHED, SegmentState.RETIRING): 0.2,
    }
    return _diagram("States of a segment", SEGMENT_TRANSITIONS.items(), places, bends)


def lease_diagram() -> str:
    """The states of a lease, as a picture."""
    places = {
        LeaseState.RESERVED: (0.0, 0.0),
        LeaseState.HELD: (1.5, 0.0),
        LeaseState.DETACHED: (3.0, 0.0),
        LeaseState.LINGERING: (2.25, 1.2),
        _ENDED: (1.5, 2.4),
    }
    bends: dict[tuple[str, str], float] = {
        (LeaseState.DETACHED, _ENDED): 0.2,
        (LeaseState.RESERVED, LeaseState.HELD): 0.0,
    }
    return _diagram("States of a lease", LEASE_TRANSITIONS.items(), places, bends)


def _diagram(
    title: str,
    table: Iterable[tuple[tuple[str, str], str | None]],
    places: Mapping[str, tuple[float, float]],
    bends: Mapping[tuple[str, str], float],
) -> str:
    transitions = [(str(state), str(event), str(after or _ENDED)) for (state, event), after in table]
    return render_diagram(diagram_of(title, transitions, places, bends)) + "\n"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "cli.md": commands,
    "rules.md": rules,
    "states.md": states,
    "states/a-segment.svg": segment_diagram,
    "states/a-lease.svg": lease_diagram,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        write_output(os.path.join(sys.argv[1], name), page())
