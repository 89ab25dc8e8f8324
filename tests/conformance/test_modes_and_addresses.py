"""Modes of attaching, mutable segments, addresses, names withdrawn, tickets for one process and tickets taken back."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from worlds import World, live

import shmlease
from rig.until import until

# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["name", "ticket", "address"])
def test_copy_on_write_is_seen_by_nobody_else(world: World, how: str) -> None:
    peer = world.peer()
    with world.registry.share(np.zeros(3000), "a") as lease:
        ways = {
            "name": lambda: peer.attach("a", mode="c"),
            "ticket": lambda: peer.redeem(lease.ticket(), mode="c"),
            "address": lambda: peer.attach(lease.address(), mode="c"),
        }
        with ways[how]() as copy, ways[how]() as other:
            copy.array[:] = 7
            assert copy.writable
            assert (lease.array.sum(), other.array.sum()) == (0, 0)
        with ways[how]() as again:
            assert again.array.sum() == 0, "what was written is in a mapping that is used again"


def test_mutable_segment_is_zeroed_and_attachable_at_once_and_written_by_all(world: World) -> None:
    peer = world.peer()
    world.registry.share(np.full(512, 9, "u1")).release()
    until(lambda: live(world.registry) == 0)
    with world.registry.lease("grid", shape=512, dtype="u1", mutable=True) as lease:
        assert lease.array.sum() == 0
        with peer.attach("grid", mode="r+", timeout=0) as one, world.registry.redeem(lease.ticket(), mode="r+") as two:
            one.array[0], two.array[1], lease.array[2] = 1, 2, 3
            with peer.attach("grid") as reader:
                assert reader.array[:3].tolist() == [1, 2, 3]
                assert not reader.array.flags.writeable
        lease.publish(readers=1)
        lease.array[3] = 4
    with peer.attach("grid") as late:
        assert late.array[:4].tolist() == [1, 2, 3, 4]
    until(lambda: live(world.registry) == 0)


@pytest.mark.parametrize("how", ["name", "ticket", "address"])
def test_mode_that_a_segment_is_not_for_is_refused_and_costs_nothing(world: World, how: str) -> None:
    registry = world.registry
    with registry.share(np.zeros(3), "sealed") as sealed, registry.lease("open", shape=3, mutable=True) as mutable:
        for lease, mode in ((sealed, "r+"), (mutable, "c")):
            ticket, given = lease.ticket(), {"name": lease.name, "address": lease.address()}
            with pytest.raises(shmlease.ModeError, match="mutable") as refused:
                registry.redeem(ticket, mode=mode) if how == "ticket" else registry.attach(given[how], mode=mode)
            assert isinstance(refused.value, ValueError)
            registry.redeem(ticket).release()
    with pytest.raises(ValueError, match="mode='w' is none of 'r', 'c', 'r\\+'"):
        registry.attach("sealed", mode="w")


def test_mutable_segment_can_be_written_by_its_own_process_after_a_second_publish(world: World) -> None:
    with world.registry.lease(shape=4, mutable=True) as lease:
        lease.publish()
        lease.array[0] = 1
        assert lease.writable


# --- addresses ---------------------------------------------------------------------------------------------------------


def test_address_is_for_anybody_any_number_of_times_and_keeps_nothing_alive(world: World) -> None:
    process = world.process()
    lease = world.registry.lease(shape=5)
    lease.array[:] = 2
    address = pickle.loads(pickle.dumps(lease.address()))
    assert not lease.writable, "what others can attach is published"
    for _ in range(3):
        assert (
            process("with registry.attach(address) as lease: total = float(lease.array.sum())\ntotal", address=address)
            == 10
        )
    lease.release()
    until(lambda: live(world.registry) == 0)
    with pytest.raises(shmlease.SegmentNotFoundError, match="an address keeps nothing alive"):
        world.registry.attach(address)


def test_address_is_good_at_once_though_nobody_asked_the_registry(world: World) -> None:
    process = world.process()
    before = world.registry.statistics().counters.get("refused", 0)
    for value in range(20):
        with world.registry.lease(shape=5) as lease:
            lease.array[:] = value
            read = "with registry.attach(address) as lease: total = float(lease.array.sum())\ntotal"
            assert process(read, address=lease.address()) == 5 * value
    assert world.registry.statistics().counters.get("refused", 0) == before


def test_address_of_another_registry_is_refused_by_name(world: World) -> None:
    elsewhere = shmlease.Address("elsewhere", 1, 1)
    with pytest.raises(shmlease.SegmentNotFoundError, match="of registry elsewhere"):
        world.registry.attach(elsewhere)


# --- names withdrawn ---------------------------------------------------------------------------------------------------


def test_withdrawn_name_is_free_while_its_leases_live_on(world: World) -> None:
    with world.registry.share(np.arange(3), "a") as old:
        world.registry.withdraw("a")
        with world.registry.share(np.arange(30), "a") as new, world.registry.attach("a") as found:
            assert (len(found.array), len(new.array), old.array.sum()) == (30, 30, 3)
    with pytest.raises(shmlease.SegmentNotFoundError, match="no segment has the name 'a'"):
        world.registry.withdraw("a")


def test_withdrawing_ends_the_waiting_for_announced_readers(world: World) -> None:
    with world.registry.lease("a", shape=3) as lease:
        lease.publish(readers=2, ttl=600)
    assert live(world.registry) == 1
    world.registry.withdraw("a")
    until(lambda: live(world.registry) == 0)


# --- tickets -------------------------------------------------------------------------------------------------------------


def test_ticket_taken_back_is_over_and_leaves_nothing(world: World) -> None:
    with world.registry.share(np.arange(3)) as lease:
        ticket = lease.ticket()
    assert world.registry.revoke(str(ticket)) is True
    assert world.registry.revoke(ticket) is False
    with pytest.raises(shmlease.TicketError, match="was taken back by pid"):
        world.peer().redeem(ticket)
    until(lambda: live(world.registry) == 0)
    assert "retired" not in world.registry.statistics().counters, "nobody else has mapped it"


def test_ticket_that_was_redeemed_cannot_be_taken_back(world: World) -> None:
    with world.registry.share(np.arange(3)) as lease:
        ticket = lease.ticket()
        with world.peer().redeem(ticket):
            assert world.registry.revoke(ticket) is False


def test_ticket_taken_back_by_somebody_else_who_was_quicker_than_its_makers_notice(world: World) -> None:
    with world.registry.share(np.arange(3)) as lease:
        assert world.peer().revoke(lease.ticket()) is True
    until(lambda: live(world.registry) == 0)


def test_ticket_for_a_process_that_is_not_there_is_refused(world: World) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    with world.registry.share(np.arange(3)) as lease:
        with pytest.raises(shmlease.TicketError, match=f"pid {ended.pid}"):
            lease.ticket(to=ended.pid)
        with world.peer().redeem(lease.ticket(to=os.getpid())) as seen:
            assert seen.array.sum() == 3
    until(lambda: live(world.registry) == 0)


# --- timeouts ------------------------------------------------------------------------------------------------------------


def test_without_a_timeout_a_name_is_waited_for_as_long_as_it_takes(waiting_world: World) -> None:
    waiting = waiting_world.meanwhile(lambda: waiting_world.peer().attach("late", timeout=None))
    until(lambda: waiting_world.registry.statistics().waiting == 1)
    with waiting_world.registry.share(np.arange(4), "late"), waiting.result(60) as seen:
        assert seen.array.sum() == 6


def test_without_a_ttl_a_ticket_has_the_usual_one(world: World) -> None:
    with world.registry.share(np.arange(4)) as lease:
        world.registry.redeem(lease.ticket(ttl=None)).release()
