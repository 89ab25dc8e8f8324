"""The simulation holds what it promises: repeatable, no broken promise, and nothing left of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation import EPISODE_STEPS, run_episode, simulate
from simulation.episode import Episode

# Episodes that broke a promise once, each with what was wrong then; all of it is mended.
TESTS = Path(__file__).parents[1]
SEEDS = json.loads((Path(__file__).parent / "simulation_seeds.json").read_text())


@pytest.mark.parametrize(("seed", "what"), SEEDS.items(), ids=SEEDS)
def test_what_was_mended_stays_mended(seed: str, what: str) -> None:
    outcome = run_episode(seed, EPISODE_STEPS)
    assert not outcome.violation, f"{what}\n" + "\n".join(outcome.trace[-40:])


def test_no_promise_is_broken_in_forty_thousand_steps() -> None:
    verdict = simulate(40_000, "suite")
    assert not verdict.failures, verdict.failures[0].violation
    assert verdict.steps >= 40_000
    assert verdict.counts["registry processes"] > verdict.episodes, "none was succeeded"


@pytest.mark.stress
def test_no_promise_is_broken_in_a_million_steps() -> None:
    verdict = simulate(1_000_000, "million", jobs=os.cpu_count() or 1)
    assert not verdict.failures, verdict.failures[0].violation


def course_of(seed: str, root: Path) -> tuple[int, float, list[tuple[int, int, str, str]]]:
    episode = Episode(seed, 800, str(root))
    outcome = episode.run()
    assert not outcome.violation
    return outcome.steps, outcome.simulated_s, list(episode.machine.trace)


def test_a_seed_decides_every_step(tmp_path_factory: pytest.TempPathFactory) -> None:
    courses = [course_of("again", tmp_path_factory.mktemp("root")) for _ in range(2)]
    assert courses[0] == courses[1]
    assert courses[0] != course_of("other", tmp_path_factory.mktemp("root"))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulation", *arguments], capture_output=True, text=True, check=False, cwd=TESTS
    )


def test_command_gives_its_verdict_as_json() -> None:
    done = command("--steps", "5000", "--seed", "cli", "--jobs", "1", "--json")
    verdict = json.loads(done.stdout)
    assert done.returncode == 0
    assert verdict["seed"] == "cli"
    assert verdict["steps"] >= 5000
    assert verdict["failures"] == []


def test_command_replays_an_episode() -> None:
    done = command("--replay", "cli:0", "--episode-steps", "500")
    assert done.returncode == 0
    assert "no promise was broken" in done.stdout
