"""A slice of what `make kill-sweep` does: kills at chosen system calls leave nothing, hang nobody, spoil nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parent.parent)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": TESTS}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)


def test_kills_at_chosen_system_calls_leave_nothing_hang_nobody_and_spoil_nothing() -> None:
    done = run("-m", "kill_sweep", "--points", "40", "--seed", "8", "--lanes", "2")
    if done.returncode == 2:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = re.search(r"^(\d+) points, 0 failures", done.stdout, re.MULTILINE)
    assert summary is not None
    assert int(summary[1]) > 35
    assert set(re.findall(r"kills of \w+/(\w+)", done.stdout)) == {"client", "registry", "successor", "starter"}


# Sees a bug that shows only when somebody is killed: runs in which nobody is come first, and go well.
FIND = """
import random
from kill_sweep import roles, tracing
from kill_sweep.points import Point
from kill_sweep.sweep import find_points, run_points

if not tracing.is_possible():
    raise SystemExit(2)
roles.PATIENCE_S = 1.0  # a planted bug uses it up
points = random.Random(8).sample(find_points([Point("hand_over", {victim!r})], lanes=1), 12)
{bug}
print(sum(bool(outcome.failures) for outcome in run_points(points, lanes=2)))
"""
LATE = """
from shmlease.system.ledger import Ledger
commit = Ledger.commit
def late(self, changes):
    held_back, self.held_back = getattr(self, "held_back", []), changes
    if held_back:
        commit(self, held_back)
Ledger.commit = late
"""
DEAF = """
from shmlease.core.table import Table
Table.holder_died = lambda self, client, now_ns: None
"""


@pytest.mark.parametrize(("bug", "victim"), [(LATE, "registry"), (DEAF, "client")], ids=["late_commit", "death_ignored"])
def test_a_planted_bug_is_found(bug: str, victim: str) -> None:
    done = run("-W", "ignore", "-c", FIND.format(bug=bug, victim=victim))
    if done.returncode == 2:
        pytest.skip("this system does not let a process trace another")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
