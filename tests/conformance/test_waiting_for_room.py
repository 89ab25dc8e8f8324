"""Capacity: who waits for room gets it in order of arrival, or the figures."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import CAPACITY, World, live

import shmlease
from rig.until import until

PAGE = 4096


def take(registry: shmlease.RegistryHandle, name: str, size_bytes: int) -> None:
    with registry.lease(name, shape=size_bytes, dtype="u1", timeout=60) as lease:
        lease.array[-1] = 1


def test_more_than_the_whole_capacity_is_refused_at_once(world: World) -> None:
    with pytest.raises(shmlease.CapacityError, match="whole capacity is 1 MiB; raise it") as refused:
        world.registry.lease("a", shape=CAPACITY + 1, dtype="u1", timeout=1000)
    error = refused.value
    assert isinstance(error, MemoryError)
    assert (error.requested_bytes, error.capacity_bytes, error.used_bytes) == (CAPACITY + PAGE, CAPACITY, 0)
    assert error.waited_ns < 1000 * 10**9
    with world.registry.lease("a", shape=CAPACITY, dtype="u1", timeout=0):
        pass


def test_who_waits_in_vain_is_told_the_figures(world: World) -> None:
    with world.registry.lease("held", shape=CAPACITY - PAGE, dtype="u1"):
        with pytest.raises(shmlease.CapacityError, match="'a' of 8 KiB does not fit after waiting") as refused:
            world.peer().lease("a", shape=2 * PAGE, dtype="u1", timeout="50ms")
        error = refused.value
        assert (error.requested_bytes, error.capacity_bytes) == (2 * PAGE, CAPACITY)
        assert (error.used_bytes, error.warm_bytes) == (CAPACITY - PAGE, 0)
        assert error.waited_ns >= 50_000_000
        assert live(world.registry) == 1
        with world.peer().lease("a", shape=PAGE, dtype="u1", timeout=0):
            assert world.registry.statistics().used_bytes == CAPACITY


def test_who_does_not_wait_is_refused_at_once(world: World) -> None:
    with world.registry.lease("held", shape=CAPACITY, dtype="u1"), pytest.raises(shmlease.CapacityError) as refused:
        world.peer().lease(shape=1, timeout=0)
    assert "an unnamed segment of 4 KiB" in str(refused.value)


def test_sharing_waits_for_room_as_well(world: World) -> None:
    with world.registry.lease("held", shape=CAPACITY, dtype="u1"), pytest.raises(shmlease.CapacityError):
        world.peer().share(np.arange(3), "a", timeout=0.05)
    with world.peer().share(np.arange(3), "a", timeout=0):
        pass


def test_warm_memory_makes_way(registry: shmlease.Registry) -> None:
    held = [registry.share(np.zeros(CAPACITY // 8, "u1"), f"n{number}") for number in range(4)]
    for lease in held:
        lease.release()
    assert registry.statistics().warm_bytes == CAPACITY // 2
    with registry.lease("all", shape=CAPACITY, dtype="u1", timeout=0):
        assert registry.statistics().warm_bytes == 0


def test_what_was_granted_ahead_makes_way(registry: shmlease.Registry) -> None:
    for _ in range(20):
        with registry.share(np.arange(3)):
            pass
    assert registry.statistics().segments.get("reserved", 0) > 0
    with registry.lease("all", shape=CAPACITY, dtype="u1", timeout=0):
        assert registry.statistics().used_bytes == CAPACITY


def test_release_lets_in_who_waits(waiting_world: World) -> None:
    registry, peer = waiting_world.registry, waiting_world.peer()
    with registry.lease("held", shape=CAPACITY, dtype="u1"):
        waiting = waiting_world.meanwhile(lambda: take(peer, "next", CAPACITY))
        until(lambda: registry.statistics().waiting == 1)
    waiting.result()
    assert registry.statistics().peaks["waiting"] == 1


def test_large_request_is_not_overtaken_by_small_ones(waiting_world: World) -> None:
    registry = waiting_world.registry
    with registry.lease("held", shape=CAPACITY // 2, dtype="u1"):
        waiting = []
        for name, size_bytes in (("large", CAPACITY), ("small", PAGE), ("other small", PAGE)):
            call = (waiting_world.peer(), name, size_bytes)
            waiting.append(waiting_world.meanwhile(lambda call=call: take(*call)))
            until(lambda: registry.statistics().waiting == len(waiting), what=f"the waiting of {name}")
    for done in waiting:
        done.result()
    assert registry.statistics().counters["leases"] == 4


def test_who_gives_up_lets_in_who_stood_behind(waiting_world: World) -> None:
    registry, impatient, patient = waiting_world.registry, waiting_world.peer(), waiting_world.peer()
    with registry.lease("held", shape=CAPACITY // 2, dtype="u1"):
        large = waiting_world.meanwhile(lambda: impatient.lease("large", shape=CAPACITY, dtype="u1", timeout=0.3))
        until(lambda: registry.statistics().peaks["waiting"] == 1)  # it may have given up since
        small = waiting_world.meanwhile(lambda: take(patient, "small", PAGE))
        with pytest.raises(shmlease.CapacityError):
            large.result()
        small.result()


def test_end_of_the_registry_is_told_to_who_waits(waiting_world: World) -> None:
    registry, one, other = waiting_world.registry, waiting_world.peer(), waiting_world.peer()
    with registry.lease("held", shape=CAPACITY, dtype="u1"):
        for_room = waiting_world.meanwhile(lambda: take(one, "next", CAPACITY))
        for_name = waiting_world.meanwhile(lambda: other.attach("never", timeout=60))
        until(lambda: registry.statistics().waiting == 2)
    # released: the next one holds it now, and is done with it soon
    for_room.result()
    registry.close()
    with pytest.raises(shmlease.RegistryUnavailableError) as refused:
        for_name.result()
    assert refused.value.registry == registry.id
