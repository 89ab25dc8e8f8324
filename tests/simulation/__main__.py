"""``python -m simulation``: simulate, and exit 0 only if no promise was broken."""

from __future__ import annotations

import json
import os
import secrets
import sys

import click

from simulation.run import EPISODE_STEPS, Failure, Verdict, run_episode, simulate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--steps", default=1_000_000, show_default=True, type=click.IntRange(1), help="Steps to take at least.")
@click.option("--seed", default=None, help="Decides everything; drawn, and printed, if not given.")
@click.option("--episode-steps", default=EPISODE_STEPS, show_default=True, type=click.IntRange(1), help="Steps a registry.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--failures", default=1, show_default=True, type=click.IntRange(1), help="Broken promises to stop at.")
@click.option("--replay", default=None, metavar="SEED", help="Live through this one episode again, and show all of it.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON.")
def main(
    steps: int, seed: str | None, episode_steps: int, jobs: int, failures: int, replay: str | None, *, as_json: bool
) -> None:
    """Simulate registries and their clients, with crashes at any system call, and check the promises."""
    if replay is not None:
        outcome = run_episode(replay, episode_steps)
        for line in outcome.trace:
            click.echo(line)
        click.echo(outcome.violation or f"no promise was broken in {outcome.steps} steps")
        sys.exit(1 if outcome.violation else 0)
    seed = secrets.token_hex(4) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    verdict = simulate(
        steps,
        seed,
        episode_steps=episode_steps,
        jobs=jobs,
        failures=failures,
        on_progress=_show if sys.stderr.isatty() else None,
    )
    click.echo(_json(verdict, seed) if as_json else _words(verdict))
    sys.exit(1 if verdict.failures else 0)


def _show(steps: int, broken: int) -> None:
    click.echo(f"\r{steps:>12,} steps, {broken} broken promises", nl=False, err=True)


def _json(verdict: Verdict, seed: str) -> str:
    return json.dumps(
        {
            "seed": seed,
            "steps": verdict.steps,
            "episodes": verdict.episodes,
            "simulated_s": round(verdict.simulated_s, 3),
            "wall_s": round(verdict.wall_s, 3),
            "steps_a_minute": round(verdict.steps_a_minute),
            "counts": dict(sorted(verdict.counts.items())),
            "failures": [{"seed": f.seed, "episode_steps": f.steps, "violation": f.violation} for f in verdict.failures],
        },
        indent=2,
    )


def _words(verdict: Verdict) -> str:
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(verdict.counts.items()))
    lines = [
        f"{verdict.steps:,} steps in {verdict.episodes:,} episodes, {verdict.simulated_s:,.0f} simulated seconds in "
        f"{verdict.wall_s:,.1f}: {verdict.steps_a_minute:,.0f} steps a minute",
        counts,
        *(line for failure in verdict.failures for line in _failure(failure)),
    ]
    return "\n".join([*lines, "" if verdict.failures else "no promise was broken"]).rstrip()


def _failure(failure: Failure) -> list[str]:
    return [
        "",
        *failure.trace[-60:],
        failure.violation,
        f"again: python -m simulation --episode-steps {failure.steps} --replay {failure.seed}",
    ]


if __name__ == "__main__":
    main()
