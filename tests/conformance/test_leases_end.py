"""A lease from grant to release: what it is worth afterwards, who outlives it, and what becomes of its memory."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from worlds import CAPACITY, World, live

import shmlease
from rig.until import until

PAGE = 4096


# --- the handle ------------------------------------------------------------------------------------------------------


def test_block_releases(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3) as lease:
        assert lease.held
    assert not lease.held


def test_block_releases_when_its_body_fails(lasting_world: World, peer: shmlease.RegistryHandle) -> None:
    with pytest.raises(ZeroDivisionError), lasting_world.registry.lease("a", shape=3) as lease:
        lease.array[0] = 1 // 0
    assert not lease.held
    with peer.lease("a", shape=3):
        pass


@pytest.mark.parametrize(
    "use",
    [
        lambda lease: lease.array,
        lambda lease: lease.segment,
        lambda lease: lease.publish(),
        lambda lease: lease.ticket(),
        lambda lease: lease.__enter__(),
    ],
    ids=["array", "segment", "publish", "ticket", "with"],
)
def test_released_lease_is_of_no_more_use(lasting_world: World, use: Callable[[shmlease.Lease], object]) -> None:
    lease = lasting_world.registry.lease("a", shape=3)
    lease.release()
    with pytest.raises(shmlease.LeaseClosedError, match="was released") as refused:
        use(lease)
    assert isinstance(refused.value, ValueError)
    assert refused.value.name == "a"
    assert "test_leases_end.py" in refused.value.site


def test_releasing_twice_is_releasing_once(lasting_world: World) -> None:
    lease = lasting_world.registry.lease("a", shape=3)
    lease.release()
    with lasting_world.peer().lease("a", shape=3):
        lease.release()
        assert live(lasting_world.registry) == 1


def test_lease_says_where_it_was_taken(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(3), "a") as lease, lasting_world.registry.attach("a") as seen:
        for taken in (lease, seen):
            assert "test_leases_end.py" in taken.site
            assert "test_lease_says_where_it_was_taken" in taken.site


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_lease_is_nothing_to_be_sent(lasting_world: World, send: Callable[[object], object]) -> None:
    with lasting_world.registry.lease(shape=3) as lease, pytest.raises(TypeError, match=r"send lease\.ticket\(\)"):
        send(lease)


def test_lease_that_is_lost_is_released_and_says_where_it_was_taken(lasting_world: World) -> None:
    lease = lasting_world.registry.lease("a", shape=3)
    with pytest.warns(shmlease.UnreleasedLeaseWarning, match=r"never released.*test_leases_end\.py") as warned:
        del lease
    assert issubclass(warned[0].category, ResourceWarning)
    assert live(lasting_world.registry) == 0


# --- views that outlive it -------------------------------------------------------------------------------------------


def test_view_keeps_the_memory_until_it_dies(lasting_world: World) -> None:
    registry = lasting_world.registry
    lease = registry.share(np.arange(10), "a")
    view = lease.array[2:]
    with pytest.warns(shmlease.LingeringViewWarning, match=r"stays held.*test_leases_end\.py"):
        lease.release()
    assert registry.statistics().leases["lingering"] == 1
    for _ in range(3):  # none of these may be given that memory
        with registry.lease(shape=10) as other:
            other.array[:] = -1
    assert view.sum() == 44
    with lasting_world.peer().attach("a", timeout=0) as seen:
        assert seen.array.sum() == 45
    del view
    until(lambda: live(registry) == 0, what="the end of the segment")


def test_memory_that_a_view_lingered_on_is_not_used_again(registry: shmlease.Registry) -> None:
    lease = registry.share(np.arange(10), "a")
    view = lease.array[2:]
    with pytest.warns(shmlease.LingeringViewWarning):
        lease.release()
    del view
    until(lambda: registry.statistics().used_bytes == 0, what="the end of the segment")


def test_lingering_view_is_an_error_to_who_asked_for_that(open_world: Callable[..., World]) -> None:
    registry = open_world(on_lingering="error").registry
    lease = registry.share(np.arange(10), "a")
    view = lease.array[2:]
    with pytest.raises(shmlease.LingeringViewError, match="stays held") as refused:
        lease.release()
    assert isinstance(refused.value, BufferError)
    assert refused.value.name == "a"
    assert "test_leases_end.py" in refused.value.site
    assert not lease.held
    assert view.sum() == 44
    del view
    until(lambda: registry.statistics().used_bytes == 0, what="the end of the segment")


def test_lingering_view_is_passed_over_where_that_was_asked_for(open_world: Callable[..., World]) -> None:
    registry = open_world(on_lingering="ignore").registry
    lease = registry.share(np.arange(10))
    view = lease.array[2:]
    lease.release()
    assert registry.statistics().leases["lingering"] == 1
    del view
    until(lambda: live(registry) == 0, what="the end of the segment")


# --- memory kept warm ------------------------------------------------------------------------------------------------


def test_memory_is_used_again(registry: shmlease.Registry) -> None:
    for number in range(5):
        with registry.share(np.arange(1000), f"n{number}"):
            assert registry.statistics().warm_bytes == 0
        assert registry.statistics().warm_bytes == 2 * PAGE
    counters = registry.statistics().counters
    assert (counters["created"], counters["recycled"]) == (1, 4)


def test_memory_that_was_never_published_is_used_again(registry: shmlease.Registry) -> None:
    for _ in range(5):
        with registry.lease("a", shape=3):
            assert registry.statistics().warm_bytes == 0
        assert registry.statistics().warm_bytes == PAGE
    counters = registry.statistics().counters
    assert (counters["created"], counters["recycled"]) == (1, 4)


def test_warm_memory_is_used_for_what_fits_it_well(registry: shmlease.Registry) -> None:
    with registry.share(np.zeros(10 * PAGE, "u1"), "a"):
        pass
    with registry.lease("small", shape=PAGE, dtype="u1"), registry.lease("fits", shape=9 * PAGE, dtype="u1"):
        assert registry.statistics().counters["recycled"] == 1
        assert registry.statistics().used_bytes == 11 * PAGE


def test_trim_gives_warm_memory_back(registry: shmlease.Registry) -> None:
    with registry.share(np.zeros(3 * PAGE, "u1"), "a"), registry.share(np.zeros(PAGE, "u1"), "b") as kept:
        registry.attach("a").release()
        kept.array.sum()
    with registry.share(np.zeros(PAGE, "u1"), "c") as kept:
        assert registry.trim() == 3 * PAGE
        assert registry.statistics().used_bytes == PAGE
        assert kept.array.sum() == 0
    assert registry.trim() == PAGE
    assert registry.trim() == 0
    assert registry.statistics().used_bytes == 0


def test_idle_memory_is_given_back_by_itself(open_world: Callable[..., World]) -> None:
    world = open_world(warm_idle=0.05)
    with world.registry.share(np.arange(3), "a"):
        world.pass_time(0.1)
        assert live(world.registry) == 1
    world.pass_time(0.05)
    until(lambda: world.registry.statistics().used_bytes == 0, what="the end of the warm segment")


def test_no_more_is_kept_warm_than_was_said(open_world: Callable[..., World]) -> None:
    registry = open_world(warm=3 * PAGE).registry
    held = [registry.share(np.zeros(PAGE, "u1"), f"n{number}") for number in range(5)]
    for lease in held:
        lease.release()
    figures = registry.statistics()
    assert (figures.warm_bytes, figures.used_bytes) == (3 * PAGE, 3 * PAGE)


def test_nothing_is_kept_warm_where_that_was_said(open_world: Callable[..., World]) -> None:
    registry = open_world(warm=0).registry
    for _ in range(3):
        with registry.share(np.arange(3)):
            pass
    assert registry.statistics().warm_bytes == 0


def test_what_a_ticket_or_a_reader_still_needs_is_not_used_again(lasting_world: World) -> None:
    registry = lasting_world.registry
    with registry.share(np.arange(512), "a") as lease:
        ticket = lease.ticket()
        reader = lasting_world.peer().attach("a")
    for number in range(4):
        with registry.share(np.full(512, -1), f"n{number}"):
            pass
    assert reader.array.sum() == np.arange(512).sum()
    reader.release()
    with registry.share(np.full(512, -1), "b"), registry.redeem(ticket) as seen:
        assert seen.array.sum() == np.arange(512).sum()


def test_many_hand_overs_leave_every_array_as_it_was(world: World) -> None:
    """The next segments are granted ahead to who takes one after another; none of them is anybody else's."""
    registry, peer = world.registry, world.peer()
    held: list[tuple[int, shmlease.Lease]] = []
    for number in range(60):
        lease = registry.share(np.full(300, number))
        held.append((number, peer.redeem(lease.ticket())))
        lease.release()
        if len(held) > 7:
            was, seen = held.pop(number % 7)
            assert (seen.array == was).all()
            seen.release()
    for was, seen in held:
        assert (seen.array == was).all()
        seen.release()
    assert CAPACITY >= registry.statistics().peaks["bytes"] > 0
    until(lambda: live(registry) == 0, what="the end of the segments")
