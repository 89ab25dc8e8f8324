"""`shmlease selftest`: plants every kind of leak, and a clean twin of each, and sees whether the auditor is right."""

from __future__ import annotations

import os
import sys
from collections import Counter

import click
import msgspec

from shmlease.auditor.judge.rules import rule_ids
from shmlease.auditor.run.isolation import enter_isolation
from shmlease.errors import UnsupportedPlatformError
from shmlease.system.interpreter import module_command
from shmlease.system.shm_root import require_shared_memory
from shmlease.verification.selftest import PLANTS, Outcome, Trial, selftest

__all__ = ["command"]

_COLOURS = {Outcome.DETECTED: "green", Outcome.CLEAN: "green", Outcome.MISSED: "red", Outcome.FALSE_ALARM: "red"}
_NAME_COLUMNS = max(len(plant.name) for plant in PLANTS)


@click.command("selftest")
@click.option("--rule", "rules", multiple=True, metavar="RULE", help="Plant only leaks of this rule; may be repeated.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Turn this rule off: its leaks should then be missed.")
@click.option("--json", "as_json", is_flag=True, help="Write the trials as JSON.")
@click.option("--isolate/--no-isolate", default=True, help="Plant in a private /dev/shm, where the system allows it.")
def command(rules: tuple[str, ...], ignore: tuple[str, ...], as_json: bool, isolate: bool) -> None:
    """Plant every kind of leak and see it detected.

    Everything that was planted is removed again. Exit code 0 if every leak that could be planted was detected and no clean
    twin was reported, 1 otherwise.
    """
    chosen, unseen = rule_ids(rules), rule_ids(ignore)
    if isolate:
        _begin_again_in_isolation()
    plants = [plant for plant in PLANTS if not rules or plant.rule in chosen]
    trials: list[Trial] = []
    for trial in selftest(plants, ignore=unseen):
        trials.append(trial)
        if not as_json:
            click.echo(_row(trial))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(trials), indent=2).decode())
    else:
        click.echo(_verdict(trials))
    sys.exit(0 if all(trial.is_passed for trial in trials) else 1)


def _begin_again_in_isolation() -> None:
    """Run this command in namespaces of its own; return only where the system does not allow it.

    It is executed anew, because the first process in a user namespace can do more than an ordinary user.
    """
    try:
        enter_isolation()
    except UnsupportedPlatformError as refusal:
        click.echo(f"shmlease: planting in the system's own /dev/shm, for {refusal}", err=True)
        require_shared_memory()
        return
    arguments = sys.argv[sys.argv.index("selftest") + 1 :]
    command = module_command("shmlease", "selftest", "--no-isolate", *arguments)
    os.execv(command[0], command)  # noqa: S606 - this program, again


def _row(trial: Trial) -> str:
    leak, twin = (click.style(f"{o.value:<12}", fg=_COLOURS.get(o, "yellow")) for o in (trial.leak, trial.twin))
    row = f"{trial.rule}  {trial.name:<{_NAME_COLUMNS}}  {leak}  twin {twin}"
    return f"{row}  {trial.reason}" if trial.reason else row.rstrip()


def _verdict(trials: list[Trial]) -> str:
    leaks, twins = Counter(trial.leak for trial in trials), Counter(trial.twin for trial in trials)
    planted = leaks[Outcome.DETECTED] + leaks[Outcome.MISSED]
    clean = twins[Outcome.CLEAN] + twins[Outcome.FALSE_ALARM]
    text = (
        f"{leaks[Outcome.DETECTED]} of {planted} planted leaks detected, {twins[Outcome.FALSE_ALARM]} of {clean} clean "
        f"twins reported; {leaks[Outcome.NOT_PLANTED]} leaks could not be planted here"
    )
    return click.style(text, fg="green" if all(trial.is_passed for trial in trials) else "red", bold=True)
