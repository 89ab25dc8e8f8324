"""The promises hold over real processes, whatever they do and however they die."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from shmlease.testing.model import Holding
from shmlease.testing.stateful import RegistryMachine, close_forkservers, held, rule_for
from shmlease.testing.worker import Worker

COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.fixture(autouse=True)
def no_forkserver_outlives_its_test() -> Iterator[None]:
    yield
    close_forkservers()


def test_processes_agree_with_the_model_after_every_step() -> None:
    run_state_machine_as_test(
        RegistryMachine, settings=settings(max_examples=8, stateful_step_count=40, derandomize=True, **COMMON)
    )


def bytes_of(worker: Worker, key: int) -> int:
    """What the subclass below has its workers do."""
    return worker.leases[key].array.nbytes


def test_a_subclass_has_rules_of_its_own() -> None:
    asked = 0

    class Asking(RegistryMachine):
        capacity = "1MiB"

        @rule_for(holding=held)
        def ask(self, holding: Holding) -> None:
            nonlocal asked
            assert holding.worker.call(bytes_of, holding.key) == holding.content.nbytes
            asked += 1

    few = settings(max_examples=4, stateful_step_count=20, derandomize=True, phases=[Phase.generate], **COMMON)
    run_state_machine_as_test(Asking, settings=few)
    assert asked


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_ten_thousand_steps_without_a_violation() -> None:
    """SHMLEASE_STEPS sets another number; a failure is not shrunk, for each try takes seconds: its steps are printed."""
    wanted, done = int(os.environ.get("SHMLEASE_STEPS", "10000")), 0

    class Counting(RegistryMachine):
        def teardown(self) -> None:
            nonlocal done
            done += self.steps
            super().teardown()

    while done < wanted:
        count = settings(max_examples=20, stateful_step_count=100, phases=[Phase.generate], **COMMON)
        run_state_machine_as_test(Counting, settings=count)
    print(f"{done} steps")
