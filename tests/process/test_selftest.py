"""The selftest itself: everything is found, by root and by an ordinary user, and by no other detector than its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from isolated import isolated

from shmlease.auditor.judge.rules import RULES
from shmlease.verification.selftest import PLANTS, Outcome, Plant, selftest

NOBODY = 65534


def as_nobody() -> list[str]:
    """What to put before a command so that it runs as an ordinary user, who may still read this interpreter's files."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("only root, with setpriv of util-linux, can become another user")
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capability]
    if subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, check=False).returncode != 0:
        pytest.skip("another user cannot execute this interpreter")
    return words


def run_selftest(before: Sequence[str], cwd: Path, *options: str) -> list[dict[str, str]]:
    command = [*before, sys.executable, "-m", "shmlease", "selftest", "--json", *options]
    environment = {**os.environ, "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert finished.stdout, finished.stderr
    trials: list[dict[str, str]] = json.loads(finished.stdout)
    wrong = [trial for trial in trials if trial["leak"] == "missed" or trial["twin"] == "false alarm"]
    assert wrong == [], finished.stderr
    assert finished.returncode == 0
    return trials


def test_every_leak_is_detected_and_no_twin_reported(tmp_path: Path) -> None:
    trials = run_selftest([], tmp_path)
    assert [trial["rule"] for trial in trials] == [plant.rule for plant in PLANTS]
    detected = {trial["rule"] for trial in trials if trial["leak"] == "detected"}
    # what needs a privilege, or its absence, may not be plantable; everything else is, anywhere
    unplanted = {trial["rule"]: trial["reason"] for trial in trials if trial["rule"] not in detected}
    assert set(unplanted) <= {"LH004", "LH013", "LH017"}, unplanted
    assert all(trial["reason"] for trial in trials if trial["leak"] == "not planted")


def test_ordinary_user_detects_what_an_ordinary_user_can_plant(tmp_path: Path) -> None:
    before = as_nobody()
    tmp_path.chmod(0o777)

    @isolated
    def by_nobody() -> None:
        trials = run_selftest(before, tmp_path, "--no-isolate")
        assert sum(trial["leak"] == "detected" for trial in trials) >= 20

    by_nobody()


def plant_of(rule: str) -> Plant:
    """The first plant of that rule that needs no privilege."""
    privileged = ("hugetlbfs", "closed to us", "cannot be looked into")
    return next(plant for plant in PLANTS if plant.rule == rule and not any(word in plant.name for word in privileged))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_plant_goes_unseen_without_its_detector(rule: str) -> None:
    @isolated
    def unseen() -> None:
        (trial,) = selftest([replace(plant_of(rule), twin=None)], ignore=[rule])
        if trial.leak is Outcome.NOT_PLANTED:
            return
        assert trial.leak is Outcome.MISSED, trial
        assert not trial.is_passed

    unseen()


def test_every_rule_has_a_plant() -> None:
    assert {plant.rule for plant in PLANTS} == set(RULES)


def test_false_alarm_is_reported_with_what_was_said() -> None:
    orphan = plant_of("LH001")

    @isolated
    def told() -> None:
        (trial,) = selftest([Plant("twin that leaks", "LH001", orphan.leak, orphan.leak)])
        assert (trial.twin, trial.is_passed) == (Outcome.FALSE_ALARM, False)
        assert "has no holder" in trial.reason

    told()


def test_what_is_ignored_is_missed_and_fails_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shmlease", "selftest", "--rule", "LH001", "--ignore", "LH001"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert finished.returncode == 1
    assert "missed" in finished.stdout
    assert finished.stdout.splitlines()[-1].startswith("0 of 2 planted leaks detected, 0 of 2 clean twins reported")
