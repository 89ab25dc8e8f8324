"""Publishing by name: who may read what, and when; what a name is."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import World, live

import shmlease
from rig.until import until

# --- when it can be read ---------------------------------------------------------------------------------------------


def test_array_is_not_to_be_had_before_it_is_published(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3), pytest.raises(shmlease.SegmentNotFoundError) as refused:
        lasting_world.peer().attach("a", timeout=0)
    assert isinstance(refused.value, LookupError)
    assert refused.value.name == "a"
    assert "must publish() it" in str(refused.value)


def test_name_that_nobody_gave_is_not_found_after_the_timeout(lasting_world: World) -> None:
    with pytest.raises(shmlease.SegmentNotFoundError, match="no segment has that name") as refused:
        lasting_world.registry.attach("nobody's", timeout="50ms")
    assert refused.value.name == "nobody's"
    assert refused.value.waited_ns >= 50_000_000


def test_name_that_is_nearest_to_a_wrong_one_is_told(lasting_world: World) -> None:
    refused = pytest.raises(shmlease.SegmentNotFoundError, match="the nearest is 'calls/chr1'")
    with lasting_world.registry.share(np.arange(3), "calls/chr1"), refused:
        lasting_world.peer().attach("call/chr1", timeout=0)


def test_attach_waits_until_the_array_is_published(waiting_world: World) -> None:
    registry, peer = waiting_world.registry, waiting_world.peer()

    def read(name: str) -> float:
        with peer.attach(name, timeout=60) as seen:
            return float(seen.array.sum())

    with registry.lease("a", shape=3) as lease, registry.lease("b", shape=3) as other:
        reading, reading_another = waiting_world.meanwhile(lambda: read("a")), waiting_world.meanwhile(lambda: read("b"))
        until(lambda: registry.statistics().waiting == 2)
        lease.array[:] = 2
        lease.publish()
        assert reading.result() == 6
        assert registry.statistics().waiting == 1
        other.array[:] = 3
        other.publish()
        assert reading_another.result() == 9


def test_attach_waits_for_a_name_that_is_yet_to_come(waiting_world: World) -> None:
    registry, peer = waiting_world.registry, waiting_world.peer()
    attaching = waiting_world.meanwhile(lambda: peer.attach("a", timeout=60))
    until(lambda: registry.statistics().waiting == 1)
    with registry.share(np.arange(4), "a"), attaching.result() as seen:
        assert seen.array.sum() == 6


def test_many_read_one_array(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10), "a") as lease:
        readers = [lasting_world.peer().attach("a") for _ in range(5)]
        assert lasting_world.registry.statistics().leases["read"] == 5
        assert [int(reader.array.sum()) for reader in readers] == [45] * 5
        lease.release()
        assert live(lasting_world.registry) == 1
        for reader in readers:
            reader.release()
    until(lambda: live(lasting_world.registry) == 0, what="the end of the segment")


# --- who may write ---------------------------------------------------------------------------------------------------


def test_published_array_is_read_only_for_its_writer(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3) as lease:
        assert lease.writable
        array = lease.array
        lease.publish()
        assert not lease.writable
        for sealed in (array, lease.array):
            with pytest.raises(ValueError, match="read-only"):
                sealed[0] = 1
            with pytest.raises(ValueError, match="WRITEABLE"):
                sealed.flags.writeable = True
        del array, sealed


def test_view_taken_before_publishing_stays_writable(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3) as lease:
        view = lease.array[1:]
        lease.publish()
        view[:] = 5
        assert lease.array[2] == 5
        del view


@pytest.mark.parametrize("way", ["attach", "redeem", "share"])
def test_reader_cannot_write(lasting_world: World, peer: shmlease.RegistryHandle, way: str) -> None:
    with lasting_world.registry.share(np.zeros(3), "a") as lease:
        ways = {"attach": lambda: peer.attach("a"), "redeem": lambda: peer.redeem(lease.ticket()), "share": lambda: lease}
        with ways[way]() as seen:
            assert not seen.writable
            with pytest.raises(ValueError, match="read-only"):
                seen.array[0] = 1
            with pytest.raises(ValueError, match="WRITEABLE"):
                seen.array.flags.writeable = True
            assert seen.array.sum() == 0


def test_reader_cannot_publish(lasting_world: World) -> None:
    with (
        lasting_world.registry.share(np.zeros(3), "a"),
        lasting_world.peer().attach("a") as seen,
        pytest.raises(shmlease.LeaseClosedError, match="only its writer can publish"),
    ):
        seen.publish(readers=1)
    until(lambda: live(lasting_world.registry) == 0, what="the end of the segment")


def test_publishing_twice_is_publishing_once(registry: shmlease.Registry) -> None:
    with registry.lease("a", shape=3) as lease:
        lease.publish()
        lease.publish()
        assert registry.statistics().counters["published"] == 1


@pytest.mark.parametrize("arguments", [{"readers": -1}, {"readers": 1_000_001}, {"ttl": "soon"}, {"ttl": -1}])
def test_promise_that_cannot_be_is_refused_and_nothing_is_published(
    lasting_world: World, peer: shmlease.RegistryHandle, arguments: dict[str, int]
) -> None:
    with lasting_world.registry.lease("a", shape=3) as lease:
        with pytest.raises(ValueError, match=str(*arguments.values())):
            lease.publish(**arguments)
        assert lease.writable
        with pytest.raises(shmlease.SegmentNotFoundError):
            peer.attach("a", timeout=0)


@pytest.mark.parametrize("readers", [1.5, "2", None])
def test_readers_are_counted_in_whole_numbers(lasting_world: World, readers: object) -> None:
    """Anything else would go into the notice log, where the registry cannot read it, nor what follows."""
    with lasting_world.registry.lease("a", shape=3) as lease:
        with pytest.raises(TypeError, match="integer"):
            lease.publish(readers=readers)  # type: ignore[arg-type]
        assert lease.writable
        lease.publish(readers=np.int64(0))  # type: ignore[arg-type]


# --- readers to come -------------------------------------------------------------------------------------------------


def test_array_stays_for_the_readers_it_was_published_for(lasting_world: World) -> None:
    registry = lasting_world.registry
    with registry.lease("a", shape=3, dtype="i4") as lease:
        lease.array[:] = 4
        lease.publish(readers=2)
    for _ in range(2):
        assert live(registry) == 1
        with lasting_world.peer().attach("a", timeout=0) as seen:
            assert seen.array.sum() == 12
    until(lambda: live(registry) == 0, what="the end of the segment")
    with pytest.raises(shmlease.SegmentNotFoundError):
        registry.attach("a", timeout=0)


def test_more_than_the_expected_readers_may_come_while_it_is_there(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3) as lease:
        lease.publish(readers=1)
    with lasting_world.peer().attach("a", timeout=0), lasting_world.peer().attach("a", timeout=0):
        assert lasting_world.registry.statistics().leases["read"] == 2
    until(lambda: live(lasting_world.registry) == 0, what="the end of the segment")


def test_readers_who_never_come_are_waited_for_as_long_as_was_said(world: World) -> None:
    registry = world.registry
    with registry.lease("long", shape=3) as lease:
        lease.publish(readers=2, ttl=60)
    with registry.lease("short", shape=3) as lease:
        lease.publish(readers=2, ttl=0.05)
        reader = world.peer().attach("short", timeout=0)
    with reader:
        world.pass_time(0.05)
        until(lambda: registry.statistics().counters.get("readers expired"))  # two if this process had to wait for its turn
        assert live(registry) == 2, "one of them did come, and reads still"
    until(lambda: live(registry) == 1, what="the end of the segment")
    with registry.attach("long", timeout=0), registry.attach("long", timeout=0):
        pass


# --- names -----------------------------------------------------------------------------------------------------------


def test_name_is_taken_once(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3):
        with pytest.raises(shmlease.SegmentExistsError) as refused:
            lasting_world.peer().lease("a", shape=3)
        assert isinstance(refused.value, FileExistsError)
        assert refused.value.name == "a"
        assert refused.value.pid > 0
        assert "test_publishing.py" in refused.value.site
        assert lasting_world.registry.statistics().leases["write"] == 1


def test_name_is_free_again_when_the_last_use_has_ended(lasting_world: World) -> None:
    registry = lasting_world.registry
    with registry.share(np.arange(3), "a") as lease:
        reader = lasting_world.peer().attach("a")
        lease.release()
        with pytest.raises(shmlease.SegmentExistsError):
            registry.lease("a", shape=3)
        reader.release()
    until(lambda: live(registry) == 0, what="the end of the segment")
    with registry.share(np.arange(5), "a"), lasting_world.peer().attach("a") as seen:
        assert seen.array.sum() == 10


def test_unpublished_array_ends_with_its_writer(registry: shmlease.Registry) -> None:
    with registry.lease("a", shape=3):
        pass
    with pytest.raises(shmlease.AbandonedError):
        registry.attach("a", timeout=0)
    assert registry.statistics().counters["abandoned"] == 1
    with registry.lease("a", shape=3):
        pass


@pytest.mark.parametrize("name", ["calls/chr1", "with blank", "ä/日本", "..", "a" * 255, "ä" * 255])
def test_name_may_be_anything_printable(lasting_world: World, peer: shmlease.RegistryHandle, name: str) -> None:
    with lasting_world.registry.share(np.arange(3), name) as lease, peer.attach(name) as seen:
        assert lease.name == seen.name == name


def test_unnamed_array_has_no_name(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(3)) as lease:
        assert lease.name is None
        with lasting_world.registry.redeem(lease.ticket()) as seen:
            assert seen.name is None
