"""The state machine is worth its time: bugs planted one at a time are found."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rig import planted_bugs
from shmlease.testing.stateful import RegistryMachine, close_forkservers

# Found within seconds each; the others are for `make stress`.
QUICK = {"the_writer_takes_the_segment_with_it", "publications_are_lost"}


class Infected(RegistryMachine):
    preload = ("rig.planted_bugs",)
    agree_within_s = 1.0  # which a planted bug uses up
    registries: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.registries.append(self.id)


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Iterator[str]:
    with planted_bugs.planted(request.param):
        yield request.param
        close_forkservers()
    while Infected.registries:
        planted_bugs.remove_what_is_left(Infected.registries.pop())


@pytest.mark.filterwarnings("ignore::shmlease.LeaseWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "planted",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.stress) for name in planted_bugs.NAMES],
    indirect=True,
)
def test_is_found(planted: str) -> None:
    count = settings(
        max_examples=200,
        stateful_step_count=50,
        phases=[Phase.generate],
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        report_multiple_bugs=False,
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever promise breaks first
        run_state_machine_as_test(Infected, settings=count)
    print(f"{planted}: {str(caught.value).splitlines()[0][:200]}")
    del caught
    gc.collect()  # the machines that failed have not closed their registries, and say so: here, where that is no news
