"""A cluster of Dask's under SIGKILLs; `python tests/process/dask_kills.py --kills N` does as many as one likes."""

from __future__ import annotations

from pathlib import Path

import dask_kills
import pytest


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_results_are_right_or_an_error_says_so_and_nothing_is_left_whoever_is_killed(tmp_path: Path) -> None:
    outcome = dask_kills.run(200, 1, tmp_path)
    assert outcome.faults == []
    assert {"worker", "registry", "scheduler"} <= set(outcome.kills)
