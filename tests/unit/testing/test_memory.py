"""What only the registry in memory does; what it has in common with the real one is asked of both in tests/conformance."""

from __future__ import annotations

import doctest
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest

import shmlease
from rig.until import until
from shmlease.system.clock import SystemClock
from shmlease.testing import MemoryRegistry, memory, memory_registry


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with memory_registry("1MiB") as registry:
        yield registry


def test_registry_in_memory_is_a_registry(registry: MemoryRegistry) -> None:
    assert isinstance(registry, shmlease.Registry)
    assert isinstance(registry.peer(), shmlease.RegistryHandle)


def test_registry_in_memory_takes_no_file_process_or_thread() -> None:
    files, threads, children = set(os.listdir("/dev/shm")), threading.active_count(), psutil.Process().children()
    with memory_registry() as registry, registry.share(np.arange(3), "a"), registry.peer().attach("a"):
        assert set(os.listdir("/dev/shm")) == files
        assert threading.active_count() == threads
        assert psutil.Process().children() == children


def test_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(memory).failed == 0
    assert doctest.testmod(memory).attempted > 0


def test_segment_has_no_name_of_the_system(registry: MemoryRegistry) -> None:
    with registry.share(np.arange(3)) as lease, pytest.raises(shmlease.LeaseClosedError, match="in memory has no files"):
        _ = lease.segment


def test_peer_does_with_lingering_views_what_the_registry_does() -> None:
    with memory_registry(on_lingering="error") as registry, registry.share(np.arange(3), "a"):
        lease = registry.peer().attach("a")
        view = lease.array[1:]
        with pytest.raises(shmlease.LingeringViewError):
            lease.release()
        del view


def test_more_is_released_than_the_notice_log_holds(registry: MemoryRegistry) -> None:
    for lease in [registry.share(np.arange(3), f"n{number}") for number in range(250)]:
        ticket = lease.ticket()
        lease.release()
        registry.redeem(ticket).release()
    assert registry.statistics().segments == {"warm": 128}


def test_registry_that_is_never_closed_says_so_and_is_closed() -> None:
    registry = memory_registry()
    id = registry.id
    with pytest.warns(shmlease.UnreleasedLeaseWarning, match="never closed"):
        del registry
    with pytest.raises(shmlease.RegistryUnavailableError):
        shmlease.connect(id)


def test_closed_registry_keeps_nothing() -> None:
    with memory_registry() as registry, registry.share(np.arange(3)) as lease:
        lease.ticket()
        assert {kind for kind, *_ in registry._host.directory.entries()} == {"s", "t", "j"}
    assert list(registry._host.directory.entries()) == []


# --- time ------------------------------------------------------------------------------------------------------------


def test_time_stands_still(registry: MemoryRegistry) -> None:
    with registry.share(np.arange(3)):
        assert registry.statistics().uptime_s == 0


def test_wait_takes_no_time_of_the_test(registry: MemoryRegistry) -> None:
    begun = time.monotonic()
    with registry.lease("a", shape=3):
        with pytest.raises(shmlease.SegmentNotFoundError, match="within 2 min"):
            registry.attach("a", timeout="2min")
        with pytest.raises(shmlease.CapacityError):
            registry.lease(shape=1 << 20, dtype="u1", timeout="3min")
    assert time.monotonic() - begun < 60, "it waited for the 3 and 2 minutes"
    assert registry.statistics().uptime_s == pytest.approx(300, abs=0.1)


def test_wait_ends_when_time_brings_what_is_waited_for(registry: MemoryRegistry) -> None:
    with registry.share(np.zeros(1 << 20, "u1")) as lease:
        lease.ticket(ttl=40.5)
    with registry.lease(shape=1 << 20, dtype="u1", timeout=60):
        assert registry.statistics().uptime_s == pytest.approx(40.5, abs=0.1)


def test_time_passes_as_long_as_was_said(registry: MemoryRegistry) -> None:
    for duration, seconds in ((0.5, 0.5), ("2min", 120.5), (0, 120.5)):
        registry.advance(duration)
        assert registry.statistics().uptime_s == seconds


def test_everything_happens_in_its_time(registry: MemoryRegistry) -> None:
    with registry.share(np.arange(3)) as lease:
        for ttl in (300, 100, 200):
            lease.ticket(ttl=ttl)
    registry.advance(1000)
    events = [event for event in registry._host.server.table.rows.events.values() if event.kind == "ticket expired"]
    begun_ns = registry._host.server.table.rows.registry.started_ns
    assert [(event.at_ns - begun_ns) // 10**9 for event in events] == [100, 200, 300]


def test_memory_released_just_before_is_idle_from_then_on() -> None:
    with memory_registry(warm_idle="5s") as registry:
        with registry.share(np.arange(3), "a"):
            registry.advance(60)
        registry.advance("4.9s")
        assert registry.statistics().warm_bytes == 4096
        with registry.share(np.arange(3), "a"):
            pass
        registry.advance("5s")
        assert registry.statistics().used_bytes == 0


def test_time_of_a_clock_that_goes_by_itself_cannot_be_passed() -> None:
    with memory_registry(clock=SystemClock()) as registry, pytest.raises(TypeError, match="SystemClock: its time passes"):
        registry.advance(1)


def test_time_of_a_closed_registry_is_over() -> None:
    with memory_registry() as registry, registry.share(np.arange(3)) as lease:
        lease.ticket()
    with pytest.raises(shmlease.RegistryUnavailableError):
        registry.advance("2min")


@pytest.mark.parametrize("duration", [-1, "soon", float("nan")])
def test_what_is_no_duration_does_not_pass(registry: MemoryRegistry, duration: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        registry.advance(duration)
    assert registry.statistics().uptime_s == 0


def test_threads_wait_for_each_other_on_a_clock_that_goes_by_itself() -> None:
    with memory_registry("64KiB", clock=SystemClock()) as registry, ThreadPoolExecutor() as threads:

        def hand_over(number: int) -> int:
            total, peer = 0, registry.peer()
            for turn in range(20):
                with (
                    peer.share(np.full(4000, number), f"{number}/{turn}", timeout=60),
                    peer.attach(f"{number}/{turn}") as seen,
                ):
                    total += int(seen.array.sum())
            return total

        with registry.lease(shape=64 << 10, dtype="u1"):
            totals = [threads.submit(hand_over, number) for number in range(4)]
            until(lambda: registry.statistics().waiting == 4)
        assert [total.result() for total in totals] == [20 * 4000 * number for number in range(4)]


# --- peers that die --------------------------------------------------------------------------------------------------


def test_peer_that_was_killed_is_of_no_more_use(registry: MemoryRegistry) -> None:
    peer = registry.peer()
    lease = peer.share(np.arange(3), "a")
    registry.kill(peer)
    with pytest.raises(shmlease.RegistryUnavailableError, match="has played its death"):
        peer.statistics()
    assert registry.statistics().clients == 1
    del lease
    gc.collect()
    with registry.share(np.arange(3), "a"):
        pass


def test_peer_dies_once(registry: MemoryRegistry) -> None:
    peer = registry.peer()
    lease = peer.share(np.arange(3), "a")
    for _ in range(2):
        registry.kill(peer)
    assert registry.statistics().counters["reclaimed"] == 1
    del lease


def test_peer_that_has_done_nothing_dies_in_silence(registry: MemoryRegistry) -> None:
    peer = registry.peer()
    registry.kill(peer)
    with pytest.raises(shmlease.RegistryUnavailableError):
        peer.share(np.arange(3))
    assert registry.statistics().counters["clients"] == 1


def test_what_a_peer_said_before_it_died_counts(registry: MemoryRegistry) -> None:
    peer = registry.peer()
    first, lease = peer.lease("b", shape=3), peer.lease("a", shape=3)
    first.release()
    lease.publish(readers=1)
    registry.kill(peer)
    with registry.attach("a", timeout=0), registry.lease("b", shape=3):
        pass
    del lease


def test_only_peers_of_the_registry_are_killed(registry: MemoryRegistry) -> None:
    with memory_registry() as other:
        for handle in (registry, shmlease.connect(registry.id), other, other.peer()):
            with pytest.raises(ValueError, match="is no peer of"):
                registry.kill(handle)
    assert registry.statistics().clients == 1


def test_death_lets_in_who_waits_at_once() -> None:
    with memory_registry("1MiB", clock=SystemClock()) as registry, ThreadPoolExecutor() as threads:
        hoarder = registry.peer()
        lease = hoarder.lease(shape=1 << 20, dtype="u1")
        waiting = threads.submit(lambda: registry.lease(shape=1 << 20, dtype="u1", timeout=60).release())
        server = registry._host.server
        until(
            lambda: server.table._grants and server._notices.next_deadline_ns() is None,
            what="nothing to happen for a while",
        )
        registry.kill(hoarder)
        waiting.result(0.5)
        del lease


def test_lease_released_in_the_middle_of_the_servers_work_is_released(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the garbage collector may do."""
    lease = registry.peer().share(np.arange(3), "a")
    registry.advance("1s")  # so that the release rings
    tick = registry._host.server.tick

    def interrupted() -> None:
        lease.release()
        tick()

    monkeypatch.setattr(registry._host.server, "tick", interrupted)
    registry.statistics()
    monkeypatch.undo()
    assert registry.statistics().leases.get("write", 0) == 0


# --- forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda registry, peer, lease: registry.statistics(),
        lambda registry, peer, lease: registry.share(np.arange(3)),
        lambda registry, peer, lease: peer.statistics(),
        lambda registry, peer, lease: registry.peer().statistics(),
        lambda registry, peer, lease: lease.array,
    ],
    ids=["registry", "share", "peer", "new peer", "lease"],
)
def test_forked_child_is_told_that_the_registry_is_its_parents(
    registry: MemoryRegistry, call: Callable[..., object]
) -> None:
    peer = registry.peer()
    with peer.share(np.arange(3), "a") as lease:
        pid = os.fork()
        if pid == 0:
            try:
                call(registry, peer, lease)
            except shmlease.RegistryUnavailableError as error:
                os._exit(0 if f"lives in the memory of pid {os.getppid()}" in str(error) else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert registry.statistics().clients == 2
