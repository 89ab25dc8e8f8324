"""The registry is killed: what is leased stays readable, one successor serves on, and calls in progress come to an end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site, has_died
from rig.until import until
from shmlease.core.model import EventKind, SegmentState

StartActor = Callable[..., Actor]


def test_data_stays_readable_while_no_registry_runs(registry: shmlease.Registry, site: Site) -> None:
    with registry.share(np.arange(1000), "a") as lease, registry.attach("a") as reader:
        site.kill()
        assert reader.array.sum() == lease.array.sum() == 499_500
        assert not site.directory.is_served()


def test_next_call_starts_a_successor_and_goes_on(registry: shmlease.Registry, site: Site) -> None:
    with registry.share(np.arange(1000), "a") as lease:
        site.kill()
        assert registry.statistics().epoch == 2
        with registry.attach("a") as reader:
            assert reader.array.sum() == 499_500
        assert lease.ticket()
    assert any(event.kind is EventKind.TAKEOVER for event in site.ledger().events)


def test_lease_table_is_readable_while_no_registry_runs(registry: shmlease.Registry, site: Site) -> None:
    with registry.share(np.arange(1000), "a"):
        site.kill()
        snapshot = site.ledger()
        assert [segment.name for segment in snapshot.segments.values()] == ["a"]
        assert snapshot.registry is not None
        assert snapshot.registry.epoch == 1


def test_lease_table_is_readable_while_the_registry_is_stopped(registry: shmlease.Registry, site: Site) -> None:
    with registry.share(np.arange(1000), "a"):
        pid = site.kill(signal.SIGSTOP)
        assert [segment.name for segment in site.ledger().segments.values()] == ["a"]
        os.kill(pid, signal.SIGCONT)


def test_release_said_to_a_dead_registry_reaches_its_successor(registry: shmlease.Registry, site: Site) -> None:
    lease = registry.share(np.arange(1000), "a")
    site.kill()
    lease.release()
    figures = registry.statistics()
    assert figures.epoch == 2
    assert figures.leases.get("write", 0) == 0
    with registry.lease("a", shape=3):
        pass


def test_everything_said_right_before_the_kill_counts(registry: shmlease.Registry, site: Site) -> None:
    """Notices are answered by nobody: they must be in the notice log before the call returns."""
    pid = site.pid
    os.kill(pid, signal.SIGSTOP)
    named = shmlease.connect(registry.id)
    leases = []
    os.kill(pid, signal.SIGCONT)
    for number in range(20):
        leases.append(named.lease(f"n{number}", shape=10, dtype="i8"))
        leases[-1].array[:] = number
    os.kill(pid, signal.SIGSTOP)
    for lease in leases[:10]:
        lease.publish(readers=1, ttl=60)
        lease.release()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not site.directory.is_served())
    for number in range(10):
        with registry.attach(f"n{number}", timeout=0) as reader:
            assert reader.array.sum() == 10 * number
    assert registry.statistics().leases["write"] == 10
    for lease in leases[10:]:
        lease.release()


def test_ticket_made_right_before_the_kill_is_redeemed_under_the_successor(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    receiver = actor()
    lease = registry.lease(shape=100, dtype="i8")
    lease.array[:] = 5
    pid = site.pid
    os.kill(pid, signal.SIGSTOP)
    ticket = lease.ticket()
    os.kill(pid, signal.SIGKILL)
    assert receiver("with registry.redeem(ticket) as lease: total = int(lease.array.sum())\ntotal", ticket=ticket) == 500
    lease.release()


def test_claimed_spare_is_a_lease_under_the_successor(registry: shmlease.Registry, site: Site) -> None:
    registry.share(np.arange(10)).release()
    registry.statistics()
    pid = site.pid
    os.kill(pid, signal.SIGSTOP)
    lease = registry.share(np.arange(100))  # from a segment granted ahead: nobody is asked
    os.kill(pid, signal.SIGKILL)
    with registry.redeem(lease.ticket()) as reader:
        assert reader.array.sum() == 4950
    assert registry.statistics().leases["write"] == 1
    lease.release()


def test_one_successor_is_elected_by_many(registry: shmlease.Registry, site: Site, actor: StartActor) -> None:
    clients = [actor() for _ in range(4)]
    for _ in range(3):
        before = site.epoch
        site.kill()
        for client in clients:
            client.begin("registry.statistics().epoch")
        assert {client.result() for client in clients} == {before + 1}


def test_successor_outlives_the_client_that_started_it(registry: shmlease.Registry, site: Site, actor: StartActor) -> None:
    client = actor()
    with registry.share(np.arange(10), "a"):
        site.kill()
        assert client("registry.statistics().epoch") == 2
        client.kill()
        with registry.attach("a") as reader:
            assert reader.array.sum() == 45
        assert registry.statistics().epoch == 2


def test_holder_that_died_while_no_registry_ran_loses_its_leases(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    dead, alive = actor(), actor()
    dead("lease = registry.share(np.arange(10), 'dead')")
    alive("lease = registry.share(np.arange(10), 'alive')")
    site.kill()
    dead.kill()
    assert registry.statistics().leases["write"] == 1
    with registry.attach("alive", timeout=0) as lease:
        assert lease.array.sum() == 45
    with pytest.raises(shmlease.SegmentNotFoundError):
        registry.attach("dead", timeout=0)
    assert len(site.files()) == 1


def test_idle_holder_keeps_its_lease_though_it_has_not_noticed_the_takeover(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    idle = actor()
    idle("lease = registry.share(np.arange(10), 'a')")
    site.kill()
    for _ in range(3):
        with registry.attach("a", timeout=0) as lease:
            assert lease.array.sum() == 45
    assert idle("lease.release(); registry.statistics().leases.get('write', 0)") == 0


def test_idle_holder_that_dies_under_the_successor_is_noticed(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    idle = actor()
    idle("lease = registry.share(np.arange(10), 'a')")
    site.kill()
    assert registry.statistics().epoch == 2
    idle.kill()
    until(lambda: not site.files())


def test_reader_that_waits_is_served_by_the_successor(registry: shmlease.Registry, site: Site, actor: StartActor) -> None:
    reader = actor()
    reader.begin("with registry.attach('late', timeout=60) as lease: total = int(lease.array.sum())\ntotal")
    until(lambda: registry.statistics().waiting == 1)
    site.kill()
    with registry.share(np.arange(10), "late"):
        assert reader.result() == 45


def test_writer_that_waits_for_room_is_served_by_the_successor(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    hoard = registry.lease("hoard", shape=60 << 20, dtype="u1")
    writer = actor()
    writer.begin("registry.lease(shape=60 << 20, dtype='u1', timeout=60).release()")
    until(lambda: registry.statistics().waiting == 1)
    site.kill()
    hoard.release()
    writer.result()


def test_timeout_of_a_waiting_call_holds_across_a_takeover(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    reader = actor()
    reader.begin("registry.attach('never', timeout=5)")
    until(lambda: registry.statistics().waiting == 1)
    site.kill()
    with pytest.raises(shmlease.SegmentNotFoundError):
        reader.result()


def test_no_mapping_of_an_earlier_segment_is_taken_for_a_later_one(registry: shmlease.Registry, site: Site) -> None:
    """Idle mappings are kept by the number of their segment: a successor must not give a number again."""
    for value in range(1, 4):
        with registry.share(np.full(1000, value), f"v{value}"), registry.attach(f"v{value}") as reader:
            assert reader.array.sum() == 1000 * value
        registry.trim()
        site.kill()


def test_threads_of_one_process_all_survive_a_takeover(registry: shmlease.Registry, site: Site) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()
    rounds = [0] * 4

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                with registry.share(np.full(100, number)) as lease, registry.redeem(lease.ticket()) as reader:
                    assert reader.array.sum() == 100 * number
                rounds[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        epoch, done = site.epoch, rounds.copy()
        os.kill(site.pid, signal.SIGKILL)
        until(lambda before=epoch: site.epoch > before, what="a successor")
        # a request that two registries in a row were killed with is refused: so none is in hand twice
        until(
            lambda before=done: failures or all(now > then for now, then in zip(rounds, before, strict=True)),
            what="another round of each thread",
        )
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    figures = registry.statistics()
    assert (figures.leases.get("write", 0), figures.leases.get("read", 0), figures.tickets) == (0, 0, 0)


def test_successor_killed_while_it_starts_is_succeeded(registry: shmlease.Registry, site: Site) -> None:
    """Every successor is killed as soon as it shows in the ledger; somebody gets through in the end."""
    with registry.share(np.arange(10), "a"):
        stop = threading.Event()
        killed: list[int] = []

        def kill_all() -> None:
            while not stop.is_set() and len(killed) < 6:
                pid = site.pid
                if pid not in killed:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)
                stop.wait(0.001)

        thread = threading.Thread(target=kill_all)
        thread.start()
        deadline = time.monotonic() + 30
        while len(killed) < 6 and time.monotonic() < deadline:
            # refused is what two registries in a row were killed with
            with contextlib.suppress(shmlease.RegistryFaultError), registry.attach("a") as reader:
                assert reader.array.sum() == 45
        stop.set()
        thread.join()
        assert len(killed) == 6
        assert registry.statistics().leases["write"] == 1


def test_files_that_no_row_speaks_of_are_removed_by_the_successor(registry: shmlease.Registry, site: Site) -> None:
    """A registry killed between making a file and committing it leaves one."""
    with registry.share(np.arange(10), "a"):
        site.kill()
        site.directory.create_segment(4711, 4096)
        site.directory.mint_token(77 << 40 | 4711)
        site.directory.create_notice_log(99)
        registry.statistics()
        entries = os.listdir(site.directory.path)
        assert not {"s4711", f"t{77 << 40 | 4711}", "j99"} & set(entries)
        assert len(site.files()) == 1


def test_segment_whose_file_somebody_removed_is_reported_of_and_stays_valid_for_its_holders(
    registry: shmlease.Registry, site: Site
) -> None:
    lease = registry.share(np.arange(1000), "a")
    (number,) = site.ledger().segments
    site.kill()
    os.unlink(site.directory.segment_path(number))
    assert registry.statistics().epoch == 2
    assert [event.segment for event in site.ledger().events if event.kind is EventKind.SEGMENT_MISSING] == [number]
    assert lease.array.sum() == 499_500
    lease.release()


def test_registry_whose_directory_somebody_removed_ends_and_says_so_at_once(
    registry: shmlease.Registry, site: Site
) -> None:
    pid, lease = site.pid, registry.share(np.arange(1000))
    shutil.rmtree(site.directory.path)
    with pytest.raises(shmlease.RegistryUnavailableError):
        registry.lease("another", shape=10, timeout=60)
    until(lambda: has_died(pid), what="the end of the registry")
    assert lease.array.sum() == 499_500
    lease.release()


def test_stopped_registry_that_goes_on_has_lost_nothing(registry: shmlease.Registry, site: Site) -> None:
    lease = registry.share(np.arange(10), "a")
    pid = site.kill(signal.SIGSTOP)
    ticket = lease.ticket()
    lease.release()
    os.kill(pid, signal.SIGCONT)
    with registry.redeem(ticket) as reader:
        assert reader.array.sum() == 45
    assert site.epoch == 1


def test_call_to_a_stopped_registry_ends_with_a_clear_error(site: Site, actor: StartActor) -> None:
    client = actor(before="import shmlease.client.link as link; link.RECOVER_WITHIN_S = 0.5")
    pid = site.kill(signal.SIGSTOP)
    with pytest.raises(shmlease.RegistryUnavailableError, match=r"stopped|did not answer"):
        client("registry.lease('a', shape=10, timeout=0)")
    os.kill(pid, signal.SIGCONT)
    assert client("registry.lease('b', shape=10, timeout=60).release()") is None
    until(
        lambda: "a" not in [segment.name for segment in site.ledger().segments.values()],
        what="the end of the lease unheard",
    )


def test_table_has_no_segment_in_progress_after_a_takeover(registry: shmlease.Registry, site: Site) -> None:
    for _ in range(3):
        for number in range(5):
            registry.lease(f"n{number}", shape=1000).release()
        site.kill()
        registry.statistics()
        states = {segment.state for segment in site.ledger().segments.values()}
        assert not states & {SegmentState.CREATING, SegmentState.RETIRING}
