"""Making a failing schedule small: less and less is left out as long as it still fails.

Runs of real processes do not repeat exactly, so that a candidate that passes proves little: each is tried more than once,
and what is kept is only what was seen to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from msgspec.structs import replace

from shmlease.verification.faults import Fault
from shmlease.verification.stress.generator import Schedule

__all__ = ["shrink"]

T = TypeVar("T")
# Fewer operations than these are not split further: they take less time than starting a registry.
_SMALLEST_RANGE: Final = 8


def shrink(
    schedule: Schedule, fails: Callable[[Schedule], bool], is_time_up: Callable[[], bool], tries: int = 2
) -> Schedule:
    """The smallest schedule found that fails.

    Parameters
    ----------
    schedule : Schedule
        One that failed.
    fails : callable
        Whether a schedule fails, by running it.
    is_time_up : callable
        Asked before each run.
    tries : int
        How often a candidate may pass before it is given up.
    """
    smallest, is_smaller = schedule, True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(smallest):
            if is_time_up():
                return smallest
            if any(fails(candidate) for _ in range(tries) if not is_time_up()):
                smallest, is_smaller = candidate, True
                break
    return smallest


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    """What is one step smaller, the largest steps first."""
    for ranges in _halved_ranges(schedule):
        yield replace(schedule, ranges=ranges, faults=_in_time(schedule, ranges))
    for faults in _without(schedule.faults):
        yield replace(schedule, faults=faults)
    for client in sorted(schedule.ranges):
        # the client stays, so that the numbers of its peers mean the same, but has nothing to do
        if schedule.ranges[client] and sum(map(bool, schedule.ranges.values())) > 1:
            yield replace(schedule, ranges={**schedule.ranges, client: []})


def _halved_ranges(schedule: Schedule) -> Iterator[dict[int, list[tuple[int, int]]]]:
    """Only the later half of what every client does; only the earlier one."""
    if max((end - start for ranges in schedule.ranges.values() for start, end in ranges), default=0) < _SMALLEST_RANGE:
        return
    for is_later in (True, False):
        halves = {}
        for client, ranges in schedule.ranges.items():
            halves[client] = [_half(start, end, is_later=is_later) for start, end in ranges]
        yield halves


def _half(start: int, end: int, *, is_later: bool) -> tuple[int, int]:
    middle = (start + end) // 2
    return (middle, end) if is_later else (start, middle)


def _in_time(schedule: Schedule, ranges: dict[int, list[tuple[int, int]]]) -> list[Fault]:
    """The faults, at the same share of a shorter run."""
    before = max(schedule.operations, 1)
    after = sum(end - start for some in ranges.values() for start, end in some)
    return [replace(fault, after_operations=fault.after_operations * after // before) for fault in schedule.faults]


def _without(items: list[T]) -> Iterator[list[T]]:
    """`items` without a half, a quarter, ... and at last without one."""
    size = len(items) // 2
    while size:
        for start in range(0, len(items), size):
            yield items[:start] + items[start + size :]
        size //= 2
    if len(items) == 1:
        yield []
