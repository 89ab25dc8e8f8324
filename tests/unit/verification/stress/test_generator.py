"""A schedule is a function of its seed, and shrinks to what fails."""

from __future__ import annotations

from collections import Counter

import msgspec

from shmlease.verification.faults import FAULTS, Fault, FaultKind
from shmlease.verification.stress.generator import Schedule, Verb, fault, operation
from shmlease.verification.stress.shrink import shrink

KILL = Fault(FaultKind.KILL, 1, 0, 0.1, 1.0, 100)
STOP = Fault(FaultKind.STOP, 1, 0, 0.1, 2.0, 200)


def test_an_operation_depends_on_nothing_but_seed_client_and_number() -> None:
    assert operation(1, 2, 3, 4, 1000) == operation(1, 2, 3, 4, 1000)
    assert (
        len({operation(seed, client, number, 4, 1000) for seed in (1, 2) for client in (0, 1) for number in range(10)})
        == 40
    )


def test_a_workload_has_every_verb_and_every_size() -> None:
    drawn = [operation(1, 0, number, 4, 1 << 20) for number in range(3000)]
    assert Counter(op.verb for op in drawn).keys() == set(Verb)
    assert min(op.words for op in drawn) < 16
    assert max(op.words for op in drawn) > 1 << 18
    assert all(8 <= op.words <= 1 << 20 and 1 <= op.peer < 4 for op in drawn)


def test_faults_come_in_order_and_each_kind_at_least_once() -> None:
    at_s, kinds = 0.0, []
    for number in range(len(FAULTS)):
        due = fault(1, number, FAULTS, at_s, 0.25)
        assert due.at_s >= at_s
        at_s = due.at_s
        kinds.append(due.kind)
    assert set(kinds) == set(FAULTS)


def test_a_schedule_survives_being_written_down() -> None:
    schedule = Schedule(7, 1 << 20, {0: [(0, 10)], 1: [(3, 5)]}, [KILL])
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule) == schedule
    assert schedule.operations == 12


def test_a_failing_schedule_shrinks_to_the_fault_and_the_operations_that_fail() -> None:
    whole = Schedule(7, 1 << 20, {0: [(0, 1000)], 1: [(0, 1000)], 2: [(0, 1000)]}, [STOP, KILL, STOP, STOP])

    def fails(schedule: Schedule) -> bool:
        does = any(start <= 700 < end for start, end in schedule.ranges[1])
        return does and any(one.kind is FaultKind.KILL for one in schedule.faults)

    small = shrink(whole, fails, lambda: False)
    assert fails(small)
    assert [one.kind for one in small.faults] == [FaultKind.KILL]
    assert small.operations <= 8
    assert small.ranges[0] == small.ranges[2] == []


def test_shrinking_ends_when_its_time_is_up() -> None:
    whole = Schedule(7, 1 << 20, {0: [(0, 1000)]}, [KILL])
    asked = 0

    def is_time_up() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    shrink(whole, lambda schedule: True, is_time_up)
    assert asked <= 8


def test_a_candidate_that_fails_only_sometimes_is_tried_again() -> None:
    whole = Schedule(7, 1 << 20, {0: [(0, 4)]}, [KILL, STOP])
    tried: Counter[bytes] = Counter()

    def fails(schedule: Schedule) -> bool:
        tried[msgspec.json.encode(schedule)] += 1
        return tried[msgspec.json.encode(schedule)] == 2 and len(schedule.faults) == 1

    assert len(shrink(whole, fails, lambda: False).faults) == 1
