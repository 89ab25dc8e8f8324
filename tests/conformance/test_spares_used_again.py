"""One unnamed lease after another: the spare that is kept in between, and that no notice tells of, is like any other."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import CAPACITY, World

import shmlease

PAGE = 4096


def in_turn(registry: shmlease.RegistryHandle, count: int = 1, size_bytes: int = PAGE) -> None:
    """Lease, write, release, `count` times, and until a spare is kept."""
    done = 0
    while done < count or registry._link.session.kept is None:
        with registry.lease(shape=size_bytes, dtype="u1") as lease:
            lease.array[:] = done % 251
        done += 1
        assert done < 10_000, "no spare is kept"


def kept_lease(registry: shmlease.RegistryHandle) -> shmlease.Lease[np.uint8]:
    in_turn(registry)
    lease = registry.lease(shape=PAGE, dtype="u1")
    assert lease._hold.is_in_use
    lease.array[:] = 7
    return lease


def test_every_lease_counts(registry: shmlease.Registry) -> None:
    in_turn(registry, 30)
    before = registry.statistics().counters
    for _ in range(50):
        in_turn(registry)
    after = registry.statistics()
    taken = after.counters["leases"] - before["leases"]
    assert taken >= 50
    assert after.counters["abandoned"] - before["abandoned"] == taken
    assert after.leases.get("write", 0) == 0


def test_it_is_leased_while_it_is_in_use_and_a_spare_afterwards(registry: shmlease.Registry) -> None:
    lease = kept_lease(registry)
    assert registry.statistics().leases["write"] == 1
    assert registry.statistics().segments["filling"] == 1
    lease.release()
    figures = registry.statistics()
    assert figures.leases.get("write", 0) == 0
    assert figures.segments.get("filling", 0) == 0


def test_it_is_used_again_by_the_next(registry: shmlease.Registry) -> None:
    in_turn(registry)
    used = set()
    for _ in range(10):
        with registry.lease(shape=PAGE, dtype="u1") as lease:
            used.add(lease._grant.segment)
    assert len(used) < 10


def test_two_at_once_are_two(registry: shmlease.Registry) -> None:
    with kept_lease(registry) as one, registry.lease(shape=PAGE, dtype="u1") as other:
        other.array[:] = 9
        assert (one.array == 7).all()
        assert one._grant.segment != other._grant.segment


def test_others_get_the_room_of_what_is_not_in_use(world: World) -> None:
    registry, peer = world.registry, world.peer()
    for _ in range(3):
        in_turn(registry, 12)
        with peer.lease("all", shape=CAPACITY, dtype="u1", timeout=1):
            pass


def test_others_do_not_get_what_is_in_use(world: World) -> None:
    with kept_lease(world.registry) as lease:
        with pytest.raises(shmlease.CapacityError):
            world.peer().lease("all", shape=CAPACITY, dtype="u1", timeout=0)
        with world.peer().lease("rest", shape=CAPACITY - PAGE, dtype="u1", timeout=1) as rest:
            rest.array[:] = 1
        assert (lease.array == 7).all()


def test_what_is_in_use_can_be_shared_and_is_not_used_again(world: World) -> None:
    registry, peer = world.registry, world.peer()
    lease = kept_lease(registry)
    ticket = lease.ticket()
    lease.release()
    in_turn(registry, 20)
    with peer.redeem(ticket) as reader:
        in_turn(registry, 20)
        assert (reader.array == 7).all()


def test_view_that_outlives_its_lease_keeps_its_content(registry: shmlease.Registry) -> None:
    lease = kept_lease(registry)
    view = lease.array[:10]
    with pytest.warns(shmlease.LingeringViewWarning):
        lease.release()
    in_turn(registry, 20)
    assert (view == 7).all()
    assert registry.statistics().leases["lingering"] == 1
    del view
    in_turn(registry, 20)
    assert registry.statistics().leases.get("lingering", 0) == 0


def test_sizes_may_change_from_one_to_the_next(registry: shmlease.Registry) -> None:
    for count in range(40):
        size_bytes = PAGE * (1 + count % 3)
        with registry.lease(shape=size_bytes, dtype="u1") as lease:
            lease.array[:] = count
            assert lease.array.nbytes == size_bytes
            assert (lease.array == count).all()
    assert registry.statistics().leases.get("write", 0) == 0


def test_layout_that_is_too_long_to_be_said_in_shared_memory_is_told_by_a_notice(registry: shmlease.Registry) -> None:
    dtype = np.dtype([(f"field number {number}", "u1") for number in range(200)])
    for count in range(30):
        with registry.lease(shape=3, dtype=dtype) as lease:
            assert not lease._hold.is_in_use
            lease.array["field number 7"] = count
    assert registry.statistics().leases.get("write", 0) == 0


def test_its_holder_may_die(world: World) -> None:
    process = world.process()
    process("for _ in range(20): registry.lease(shape=4096, dtype='u1').release()")
    process("lease = registry.lease(shape=4096, dtype='u1')")
    assert world.registry.statistics().leases["write"] == 1
    process.kill()
    with world.registry.lease("all", shape=CAPACITY, dtype="u1", timeout=60):
        pass
