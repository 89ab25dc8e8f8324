"""Clocks tell the time and wait alike, whether time passes by itself or when somebody waits."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from seams_under_test import simulated_system

from shmlease.system.clock import Clock, SystemClock
from shmlease.testing.memory_transport import FakeClock


class ClockConformance:
    """What a `Clock` must do; a subclass has a fixture `clock`."""

    def test_time_does_not_go_back(self, clock: Clock) -> None:
        seen = [clock.now_ns() for _ in range(100)]
        assert seen == sorted(seen)

    def test_who_waits_has_waited_at_least_so_long(self, clock: Clock) -> None:
        for seconds in (0.0, 0.001, 0.01):
            before_ns = clock.now_ns()
            clock.wait_s(seconds)
            assert clock.now_ns() - before_ns >= seconds * 1e9

    def test_time_is_in_nanoseconds(self, clock: Clock) -> None:
        before_ns = clock.now_ns()
        clock.wait_s(0.02)
        assert 20_000_000 <= clock.now_ns() - before_ns < 20_000_000_000, "however loaded the machine is"

    def test_two_deadlines_come_in_their_order(self, clock: Clock) -> None:
        first_ns, second_ns = clock.now_ns() + 1_000_000, clock.now_ns() + 2_000_000
        clock.wait_s(0.001)
        assert clock.now_ns() >= first_ns
        clock.wait_s(0.001)
        assert clock.now_ns() >= second_ns


class TestSystemClock(ClockConformance):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()

    def test_it_is_the_clock_of_all_processes(self, clock: Clock) -> None:
        before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert before_ns <= clock.now_ns() <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class TestFakeClock(ClockConformance):
    @pytest.fixture
    def clock(self) -> Clock:
        return FakeClock()


class TestSimulatedClock(ClockConformance):
    @pytest.fixture
    def clock(self) -> Iterator[Clock]:
        with simulated_system() as system:
            yield system.machine
