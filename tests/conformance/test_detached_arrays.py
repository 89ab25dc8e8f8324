"""Arrays that carry their lease: it ends in order when the last view dies, whoever drops it and wherever."""

from __future__ import annotations

import gc
import sys
import threading
import warnings

import numpy as np
import pytest
from worlds import World, live

import shmlease
from rig.until import until


def carried(registry: shmlease.RegistryHandle, values: np.ndarray) -> np.ndarray:
    return registry.share(values).detach()


def test_detached_array_holds_the_segment_until_its_last_view_dies(world: World) -> None:
    array = carried(world.registry, np.arange(100))
    view = array[10:20]
    del array
    assert world.registry.statistics().leases["detached"] == 1
    assert (live(world.registry), view.sum(), view.flags.writeable) == (1, 145, False)
    del view
    until(lambda: live(world.registry) == 0)
    figures = world.registry.statistics()
    assert "retired" not in figures.counters, "it has ended in order"
    assert "lingered" not in figures.counters


def test_leaving_the_block_of_a_detached_lease_does_nothing(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with world.registry.share(np.arange(10), "a") as lease, world.registry.attach("a") as other:
            array = other.detach()
            assert not other.held
            with pytest.raises(shmlease.LeaseClosedError):
                _ = other.array
        assert not lease.held
        assert array.sum() == 45


def test_unpublished_array_cannot_be_detached(world: World) -> None:
    with world.registry.lease(shape=3) as lease:
        with pytest.raises(shmlease.LeaseClosedError, match="publish"):
            lease.detach()
        lease.publish()
        lease.detach()
    with world.registry.lease(shape=3, mutable=True) as lease:
        array = lease.detach()
        array[:] = 5
        assert array.flags.writeable


def test_arrays_dropped_by_the_collector_in_two_threads_leave_nothing(world: World) -> None:
    def drop_many(seed: int) -> None:
        random = np.random.default_rng(seed)
        kept: list[list] = []
        for number in range(150):
            box = [carried(registry, np.arange(number % 7 + 1))]
            box.append(box)  # a cycle: the collector drops it
            kept.append(box)
            if len(kept) > 20:
                del kept[random.integers(len(kept))]

    registry = world.registry
    threads = [threading.Thread(target=drop_many, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    until(lambda: live(registry) == 0, what="the end of the detached arrays")
    counters = registry.statistics().counters
    assert 0 < counters["detached"] <= 300, "one that dies before another thread has told of it is only released"
    assert "lingered" not in counters


def test_closing_says_nothing_of_arrays_of_this_process_and_leaves_them_valid(world: World) -> None:
    array = carried(world.registry, np.arange(100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.registry.close()
    assert array.sum() == 4950
    del array


# --- a lease as an array -------------------------------------------------------------------------------------------------


def test_numpy_takes_a_lease_for_its_array(world: World) -> None:
    with world.registry.share(np.arange(6).reshape(2, 3), "a") as lease:
        assert np.asarray(lease).base is not None
        assert np.shares_memory(np.asarray(lease), lease.array)
        assert not np.shares_memory(np.array(lease), lease.array)
        assert (np.mean(lease), np.asarray(lease, "f4").dtype) == (2.5, np.float32)
        with pytest.raises(ValueError, match="copy"):
            np.asarray(lease, "f4", copy=False)
        with world.registry.share(lease) as other:
            assert (other.array == lease.array).all()


def test_other_libraries_get_memory_that_they_may_write_to(world: World) -> None:
    with world.registry.share(np.arange(6), "a") as lease, world.registry.attach("a", mode="c") as copy:
        taken = np.from_dlpack(lease)
        assert not np.shares_memory(taken, lease.array), "nothing keeps such a library from writing to it"
        with pytest.raises(BufferError, match="mode='c'"):
            lease.__dlpack__(copy=False)
        assert np.shares_memory(np.from_dlpack(copy), copy.array)
        assert lease.__buffer__(0).readonly
        with pytest.raises(BufferError):
            lease.__buffer__(1)


def test_misuse_as_an_array_says_what_to_use(world: World) -> None:
    with world.registry.share(np.arange(6)) as lease:
        for misuse in (
            lambda: lease[0],
            lambda: len(lease),
            lambda: list(lease),
            lambda: lease + 1,
            lambda: lease < 3,
            lambda: -lease,
            lambda: 1 + lease,
            lambda: float(lease),
        ):
            with pytest.raises(TypeError, match=r"use lease\.array"):
                misuse()
        if sys.version_info < (3, 12):
            with pytest.raises(TypeError, match="not 'Lease'"):
                memoryview(lease)
        assert lease
        assert lease == lease  # noqa: PLR0124 - by identity
        assert lease in {lease}


def test_warning_of_views_that_live_on_points_at_the_users_line(world: World) -> None:
    def released() -> np.ndarray:
        with world.registry.share(np.arange(6)) as lease:
            return lease.array

    with pytest.warns(shmlease.LingeringViewWarning, match=r"use lease\.detach\(\)") as caught:
        view = released()
    assert caught[0].filename == __file__
    lease = world.registry.share(np.arange(6))
    other = lease.array
    with pytest.warns(shmlease.LingeringViewWarning) as caught:
        lease.release()
    assert caught[0].filename == __file__
    del view, other
