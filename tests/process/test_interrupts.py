"""An exception from a signal handler, at every point where one can come, ends the call and leaves everything in order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

import shmlease
from rig.interrupted_calls import ARRAY, CALLS, Call, descriptors, in_use, nothing_is_left, prepared
from rig.interrupts import Interrupt, Interrupter
from rig.until import until

each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)


@pytest.fixture(scope="module")
def registry() -> Iterator[shmlease.Registry]:
    with shmlease.Registry("64MiB", warm="8MiB") as registry:
        with registry.share(ARRAY) as lease, registry.redeem(lease.ticket()):
            pass  # from here on the descriptors that a client keeps are open
        yield registry


def interrupted(registry: shmlease.Registry, call: Call, *at: int) -> list[str]:
    """Interrupt `call` at the points whose numbers are `at`; where those were."""
    before, descriptors_before = in_use(registry), descriptors(registry)
    interrupter, has_arrived = Interrupter(*at), False
    try:
        with prepared(call, registry) as action:
            try:
                interrupter.run(action)
            except Interrupt:
                has_arrived = True
            assert has_arrived == bool(interrupter.raised), "it was swallowed"
        nothing_is_left(registry, before, descriptors_before)
    except BaseException as error:
        raise AssertionError(f"after an interrupt at {' and '.join(interrupter.raised)}: {error}") from error
    return interrupter.raised


@each_call
def test_interrupt_at_any_point_ends_the_call_and_leaves_nothing(
    registry: shmlease.Registry, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    number = 1
    while interrupted(registry, call, number):
        number += 1
    assert capfd.readouterr().err == "", "nor does it make the registry complain"
    print(f"{number - 1} points in {call.__name__}")
    assert number > 1 or call.__name__ == "death_of_the_last_view", (
        "where no Python code runs, there is nothing to interrupt"
    )


@each_call
def test_second_interrupt_while_the_first_is_on_its_way_leaves_nothing_either(
    registry: shmlease.Registry, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    number = 1
    while interrupted(registry, call, number, number + 1 + number % 5):
        number += 7
    assert capfd.readouterr().err == ""


@pytest.mark.stress
@each_call
def test_second_interrupt_at_any_point(registry: shmlease.Registry, call: Call) -> None:
    for later in range(1, 9):
        number = 1
        while interrupted(registry, call, number, number + later):
            number += 1


def registries() -> list[str]:
    """The directories of registries in /dev/shm."""
    return [name for name in os.listdir("/dev/shm") if name.startswith("shmlease-")]


def interrupted_life(when: Callable[[int], int], *, start: bool) -> int:
    """Interrupt the start of a registry, or its end, at the points that `when` tells; how many points there are."""
    before, descriptors_before, number = (
        (registries(), descriptors(), os.environ.get("SHMLEASE_REGISTRY")),
        descriptors(),
        0,
    )
    for count in itertools.count():
        number = when(count)
        interrupter, has_arrived, registry = Interrupter(number), False, None
        if not start:
            registry = shmlease.Registry("4MiB")
        try:
            registry = interrupter.run(registry.close if registry is not None else lambda: shmlease.Registry("4MiB"))
        except Interrupt:
            has_arrived = True
        where = interrupter.raised
        assert has_arrived == bool(where), f"swallowed at {where}"
        if registry is not None:
            registry.close()
        until(lambda: registries() == before[0], what=f"the end of the registry after an interrupt at {where}")
        assert os.environ.get("SHMLEASE_REGISTRY") == before[2]
        until(lambda: descriptors() <= descriptors_before, what=f"the descriptors after an interrupt at {where}")
        if not where:
            return interrupter.points
    raise AssertionError


@pytest.mark.parametrize("start", [True, False], ids=["start", "end"])
def test_interrupted_start_or_end_of_a_registry_leaves_no_process_and_no_directory(start: bool) -> None:
    """Each start is a process: every ninth point here, all of them in the stress run."""
    assert interrupted_life(lambda count: 1 + 9 * count, start=start) > 50


@pytest.mark.stress
@pytest.mark.parametrize("start", [True, False], ids=["start", "end"])
def test_start_or_end_of_a_registry_interrupted_at_every_point(start: bool) -> None:
    interrupted_life(lambda count: 1 + count, start=start)
