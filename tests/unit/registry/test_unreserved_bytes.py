"""Room that is promised is counted until it is taken, and forgotten without looking at all of it each time."""

from __future__ import annotations

from shmlease.registry.unreserved_bytes import UnreservedBytes


def test_promise_counts_until_it_is_kept() -> None:
    missing = {1: 100, 2: 50}
    promises = UnreservedBytes(missing.__getitem__)
    promises.add(1, 100)
    promises.add(2, 50)
    assert promises.total_bytes == 150
    missing.update({1: 30, 2: 0})
    promises.look_at_all()
    assert promises.total_bytes == 30
    promises.discard(1)
    promises.discard(1)
    promises.discard(99)
    assert promises.total_bytes == 0


def test_many_that_are_kept_cost_two_looks_each() -> None:
    looks: list[int] = []

    def missing(segment: int) -> int:
        looks.append(segment)
        return 0

    promises = UnreservedBytes(missing)
    for segment in range(1000):
        promises.add(segment, 10)
    assert len(looks) <= 2000
    assert promises.total_bytes == 10


def test_one_that_is_never_kept_does_not_hide_the_others() -> None:
    promises = UnreservedBytes(lambda segment: 10 if segment == 0 else 0)
    for segment in range(100):
        promises.add(segment, 10)
    assert promises.total_bytes <= 30
