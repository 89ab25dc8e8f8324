"""What a registry says of itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds import CAPACITY, World

import shmlease

PAGE = 4096


def test_new_registry_has_nothing(registry: shmlease.Registry) -> None:
    figures = registry.statistics()
    assert (figures.registry, figures.capacity_bytes, figures.epoch) == (registry.id, CAPACITY, 1)
    assert (figures.used_bytes, figures.warm_bytes, figures.tickets, figures.waiting) == (0, 0, 0, 0)
    assert (figures.clients, dict(figures.segments), sum(figures.leases.values())) == (1, {}, 0)
    assert figures.shm_free_bytes > 0


def test_figures_are_those_of_one_moment(registry: shmlease.Registry) -> None:
    before = registry.statistics()
    with registry.lease("a", shape=3):
        assert before.used_bytes == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.used_bytes = 1  # type: ignore[misc]


def test_segments_and_leases_are_counted_by_what_they_are(world: World) -> None:
    registry = world.registry
    with registry.lease("filling", shape=PAGE, dtype="u1"), registry.share(np.zeros(2 * PAGE, "u1"), "published") as lease:
        with registry.share(np.zeros(3 * PAGE, "u1"), "warm"):
            pass
        with world.peer().attach("published"), registry.attach("published"):
            lease.ticket()
            figures = registry.statistics()
            assert figures.segments == {"filling": 1, "published": 1, "warm": 1}
            assert figures.segment_bytes == {"filling": PAGE, "published": 2 * PAGE, "warm": 3 * PAGE}
            assert (figures.used_bytes, figures.warm_bytes) == (6 * PAGE, 3 * PAGE)
            assert (figures.leases["write"], figures.leases["read"], figures.leases["lingering"]) == (2, 2, 0)
            assert (figures.clients, figures.tickets) == (2, 1)


def test_what_has_happened_is_counted(registry: shmlease.Registry) -> None:
    for number in range(3):
        with registry.share(np.arange(3), f"n{number}") as lease, registry.redeem(lease.ticket()):
            pass
    with pytest.raises(shmlease.SegmentNotFoundError):
        registry.attach("none", timeout=0)
    counters = registry.statistics().counters
    counted = {name: counters[name] for name in ("leases", "published", "tickets", "created", "recycled", "clients")}
    assert counted == {"leases": 6, "published": 3, "tickets": 3, "created": 1, "recycled": 2, "clients": 1}
    assert counters["refused: not found"] == 1


def test_peaks_are_the_most_there_was(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(3), "a"), registry.share(np.arange(3), "b"):
        pass
    registry.trim()
    peaks = registry.statistics().peaks
    assert (peaks["bytes"], peaks["warm bytes"], peaks["segments"], peaks["leases"]) == (2 * PAGE, 2 * PAGE, 2, 2)


def test_time_that_it_has_served_goes_on(world: World) -> None:
    before = world.registry.statistics().uptime_s
    world.pass_time(1)
    assert world.registry.statistics().uptime_s > before


def test_client_that_leaves_is_no_client(world: World) -> None:
    peer = world.peer()
    assert peer.statistics().clients == 2
    peer._link.close()
    assert world.registry.statistics().clients == 1
