"""Peers that die: what they held ends, what is others' stays, and their tickets outlive them."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import CAPACITY, World, live

import shmlease
from rig.until import until


def test_what_a_dead_writer_had_not_published_is_gone(world: World) -> None:
    registry, writer = world.registry, world.process()
    writer("lease = registry.lease('a', shape=1000); lease.array[:] = 1")
    assert live(registry) == 1
    writer.kill()
    until(lambda: live(registry) == 0, what="the end of the segment")
    with pytest.raises(shmlease.AbandonedError):
        registry.attach("a", timeout=0)
    with registry.lease("a", shape=3):
        pass


def test_what_a_dead_writer_had_published_stays_for_its_readers(world: World) -> None:
    registry, writer = world.registry, world.process()
    writer("lease = registry.share(np.arange(1000), 'a')")
    with registry.attach("a") as seen:
        writer.kill()
        until(lambda: registry.statistics().counters.get("reclaimed") == 1)
        assert seen.array.sum() == 499_500
        with registry.attach("a", timeout=0) as again:
            assert again.array.sum() == 499_500
    until(lambda: registry.statistics().used_bytes == 0, what="the end of the memory, which is not used again")


def test_dead_reader_ends_nothing_but_its_own_lease(world: World) -> None:
    registry, reader = world.registry, world.process()
    with registry.share(np.arange(10), "a") as lease:
        reader("lease = registry.attach('a')")
        assert registry.statistics().leases["read"] == 1
        reader.kill()
        until(lambda: registry.statistics().leases.get("read", 0) == 0)
        assert lease.array.sum() == 45
        with registry.attach("a", timeout=0) as seen:
            assert seen.array.sum() == 45


def test_ticket_survives_the_death_of_its_sender(world: World) -> None:
    registry, sender = world.registry, world.process()
    ticket = sender("lease = registry.share(np.arange(10)); str(lease.ticket())")
    sender.kill()
    until(lambda: registry.statistics().clients == 1)
    assert (live(registry), registry.statistics().tickets) == (1, 1)
    with registry.redeem(ticket) as seen:
        assert seen.array.sum() == 45
    until(lambda: registry.statistics().used_bytes == 0, what="the end of the memory, which is not used again")


def test_readers_may_come_after_the_death_of_their_writer(world: World) -> None:
    registry, writer = world.registry, world.process()
    writer("lease = registry.lease('a', shape=3); lease.array[:] = 4; lease.publish(readers=2, ttl=30)")
    writer.kill()
    until(lambda: registry.statistics().clients == 1)
    for _ in range(2):
        with registry.attach("a", timeout=0) as seen:
            assert seen.array.sum() == 12
    until(lambda: live(registry) == 0, what="the end of the segment")


def test_dead_redeemer_does_not_keep_what_it_was_sent(world: World) -> None:
    registry, receiver = world.registry, world.process()
    with registry.share(np.arange(10)) as lease:
        receiver("lease = registry.redeem(ticket)", ticket=str(lease.ticket()))
    assert live(registry) == 1
    receiver.kill()
    until(lambda: live(registry) == 0, what="the end of the segment")


def test_who_waits_for_room_gets_that_of_the_dead(waiting_world: World) -> None:
    registry, hoarder = waiting_world.registry, waiting_world.process()
    hoarder("lease = registry.lease(shape=size, dtype='u1')", size=CAPACITY)
    waiting = waiting_world.meanwhile(lambda: registry.lease(shape=CAPACITY, dtype="u1", timeout=60).release())
    peer = waiting_world.peer()
    until(lambda: peer.statistics().waiting == 1)
    hoarder.kill()
    waiting.result()


def test_who_stands_behind_the_dead_moves_up(waiting_world: World) -> None:
    registry, large = waiting_world.registry, waiting_world.process()
    peer = waiting_world.peer()
    with registry.lease("held", shape=CAPACITY // 2, dtype="u1"):
        large.begin("registry.lease('large', shape=size, dtype='u1', timeout=60)", size=CAPACITY)
        until(lambda: registry.statistics().waiting == 1)
        small = waiting_world.meanwhile(lambda: peer.lease("small", shape=1, timeout=60).release())
        until(lambda: registry.statistics().waiting == 2)
        large.kill()
        small.result()


def test_everything_of_many_dead_ends(world: World) -> None:
    registry, holders = world.registry, [world.process() for _ in range(2)]
    for number, holder in enumerate(holders):
        holder("held = [registry.share(np.arange(100), f'{number}/{i}') for i in range(10)]", number=number)
    for number, holder in enumerate(holders):
        holder("others = [registry.attach(f'{1 - number}/{i}') for i in range(10)]", number=number)
        holder("view = held[0].array[1:]")
    for holder in holders:
        holder.kill()
    until(lambda: registry.statistics().clients == 1)
    figures = registry.statistics()
    assert (figures.used_bytes, sum(figures.leases.values())) == (0, 0)
