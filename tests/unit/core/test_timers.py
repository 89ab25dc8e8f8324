"""Timers: what is due is handled once, and what no longer matters does not pile up."""

from __future__ import annotations

from shmlease.core.timers import Timers


def test_each_kind_and_key_that_is_due_is_handled_once() -> None:
    timers, handled = Timers(), []
    timers.handle("ticket", lambda key, now_ns: handled.append((key, now_ns)), lambda entries: entries)
    for deadline_ns, key in ((5, 1), (3, 1), (4, 2), (9, 3)):
        timers.at(deadline_ns, "ticket", key)
    assert timers.next_ns() == 3
    timers.run_due(5)
    assert handled == [(1, 5), (2, 5)]
    assert timers.next_ns() == 9


def test_kind_without_a_handler_only_wakes() -> None:
    timers = Timers()
    timers.handle("lease", None, lambda entries: entries)
    timers.at(3, "lease")
    assert timers.next_ns() == 3
    timers.run_due(3)
    assert timers.next_ns() is None


def test_deadlines_set_while_handling_wait_for_the_next_time() -> None:
    timers, handled = Timers(), []

    def again(key: int, now_ns: int) -> None:
        handled.append(now_ns)
        timers.at(now_ns, "retry", key)

    timers.handle("retry", again, lambda entries: entries)
    timers.at(1, "retry")
    timers.run_due(1)
    timers.run_due(2)
    assert handled == [1, 2]


def test_deadlines_that_no_longer_matter_are_dropped_and_the_others_kept() -> None:
    timers, live = Timers(), {7}
    timers.handle("ticket", None, lambda entries: {entry for entry in entries if entry[1] in live})
    for key in range(1000):
        timers.at(100 + key, "ticket", key)
    assert len(timers) < 200
    timers.run_due(107)
    timers.run_due(99_999)
    live.clear()
    timers.at(100_000, "ticket", 7)
    assert timers.next_ns() == 100_000
