"""Holders that are killed: their leases end at once and wholly, everybody else's stay, and tickets outlive their senders."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until
from shmlease.core.model import EventKind

StartActor = Callable[..., Actor]


def test_killed_producers_unpublished_segment_is_gone(actor: StartActor, registry: shmlease.Registry, site: Site) -> None:
    producer = actor()
    producer("lease = registry.lease('a', shape=100_000); lease.array[:] = 1")
    assert registry.statistics().leases["write"] == 1
    producer.kill()
    until(lambda: not site.files(), what="the end of the segment")
    with pytest.raises(shmlease.SegmentNotFoundError):
        registry.attach("a", timeout=0)
    with registry.lease("a", shape=3):
        pass


def test_killed_producers_published_segment_lives_on_for_its_readers(
    actor: StartActor, registry: shmlease.Registry, site: Site
) -> None:
    producer = actor()
    producer("lease = registry.share(np.arange(50_000), 'a')")
    with registry.attach("a") as lease:
        producer.kill()
        until(lambda: registry.statistics().counters.get("reclaimed"))
        assert lease.array.sum() == np.arange(50_000).sum()
        assert len(site.files()) == 1
    until(lambda: not site.files(), what="the end of the segment: of a dead holder, never recycled")


def test_killed_consumer_does_not_take_the_segment_with_it(
    actor: StartActor, registry: shmlease.Registry, site: Site
) -> None:
    with registry.share(np.arange(1000), "a") as lease:
        consumer = actor()
        assert consumer("held = registry.attach('a'); int(held.array.sum())") == 499_500
        consumer.kill()
        until(lambda: registry.statistics().counters.get("reclaimed"))
        assert lease.array.sum() == 499_500
        with registry.attach("a", timeout=0) as again:
            assert again.array.sum() == 499_500


def test_death_of_a_holder_is_an_event_that_says_who_it_was(actor: StartActor, site: Site) -> None:
    producer = actor()
    producer("lease = registry.lease('a', shape=10)")
    producer.kill()
    (event,) = until(lambda: [e for e in site.ledger().events if e.kind is EventKind.HOLDER_DIED])
    assert "actor.py" in event.detail


def test_dead_holders_lease_is_reclaimed(actor: StartActor, registry: shmlease.Registry) -> None:
    """How soon is for benchmarks/reclaim.py."""
    holder = actor()
    holder("lease = registry.lease(shape=1000)")
    before = registry.statistics().counters.get("reclaimed", 0)
    holder.signal(signal.SIGKILL)
    until(lambda: registry.statistics().counters.get("reclaimed", 0) > before)


def test_stopped_holder_keeps_its_lease(actor: StartActor, registry: shmlease.Registry) -> None:
    """Unknown counts as alive."""
    holder = actor()
    holder("lease = registry.share(np.arange(10), 'a')")
    holder.signal(signal.SIGSTOP)
    with registry.attach("a", timeout=60) as lease:
        assert lease.array.sum() == 45
    assert registry.statistics().leases["write"] == 1
    holder.signal(signal.SIGCONT)
    assert holder("int(lease.array.sum())") == 45


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_ticket_survives_the_death_of_its_sender(
    actor: StartActor, registry: shmlease.Registry, site: Site, death: int
) -> None:
    sender = actor()
    ticket = sender("lease = registry.share(np.full(9999, 3.0)); lease.ticket()")
    sender.kill(death)
    until(lambda: registry.statistics().clients == 1)
    assert len(site.files()) == 1
    with registry.redeem(ticket) as lease:
        assert lease.array.sum() == 9999 * 3.0
    until(lambda: not site.files())


def test_ticket_survives_the_sender_that_ends_right_after_sending(actor: StartActor, registry: shmlease.Registry) -> None:
    sender = actor()
    ticket = sender("ticket = registry.share(np.arange(10)).ticket(); str(ticket)")
    assert sender.leave() == 0
    with registry.redeem(ticket) as lease:
        assert lease.array.sum() == 45


def test_ticket_of_a_dead_sender_that_nobody_redeems_ends_in_time(actor: StartActor, site: Site) -> None:
    sender = actor()
    sender("lease = registry.share(np.arange(10)); lease.ticket(ttl=0.2)")
    sender.kill()
    until(lambda: not site.files(), what="the end of the segment")
    assert any(event.kind is EventKind.TICKET_EXPIRED for event in site.ledger().events)


def test_killed_redeemer_does_not_keep_the_segment(actor: StartActor, registry: shmlease.Registry, site: Site) -> None:
    receiver = actor()
    with registry.share(np.arange(10), "a") as lease:
        receiver("held = registry.redeem(ticket)", ticket=lease.ticket())
    assert len(site.files()) == 1
    receiver.kill()
    until(lambda: not site.files())


def test_redeemer_killed_between_claiming_the_token_and_saying_so_frees_the_segment(
    actor: StartActor, registry: shmlease.Registry, site: Site
) -> None:
    receiver = actor()
    with registry.share(np.arange(10), "a") as lease:
        ticket = lease.ticket(ttl=0.3)
        receiver("registry._link.endpoint.claim_token(ticket.id, registry._link.client)", ticket=ticket)
    receiver.kill()
    until(lambda: not site.files(), what="the end of the segment")
    until(lambda: not [name for name in _entries(site) if name.startswith("t")], what="the end of the token")


def test_sender_killed_between_making_the_token_and_saying_so_leaves_no_token(actor: StartActor, site: Site) -> None:
    sender = actor()
    sender("link = registry._link; link.endpoint.mint_token(link.client << 40 | 4711)")
    sender.kill()
    until(lambda: not [name for name in _entries(site) if name.startswith("t")], what="the end of the token")


def _entries(site: Site) -> list[str]:
    return os.listdir(site.directory.path)


def test_waiting_reader_does_not_see_what_a_killed_writer_left(actor: StartActor, registry: shmlease.Registry) -> None:
    producer, reader = actor(), actor()
    producer("lease = registry.lease('a', shape=100); lease.array[:50] = 1")
    reader.begin("held = registry.attach('a', timeout=30); int(held.array.sum())")
    until(lambda: registry.statistics().waiting == 1)
    producer.kill()
    until(lambda: registry.statistics().counters.get("reclaimed"))
    with registry.share(np.full(100, 2), "a"):
        assert reader.result() == 200


def test_waiting_for_room_ends_when_a_holder_is_killed(actor: StartActor, registry: shmlease.Registry) -> None:
    hoarder = actor()
    hoarder("lease = registry.lease(shape=60 << 20, dtype='u1')")
    waiting = actor()
    waiting.begin("with registry.lease(shape=60 << 20, dtype='u1', timeout=30) as lease: lease.array[-1] = 1")
    until(lambda: registry.statistics().waiting == 1)
    hoarder.kill()
    waiting.result()


def test_killed_waiter_lets_the_next_one_in(actor: StartActor, registry: shmlease.Registry) -> None:
    with registry.lease(shape=30 << 20, dtype="u1"):
        large, small = actor(), actor()
        large.begin("registry.lease(shape=60 << 20, dtype='u1', timeout=60)")
        until(lambda: registry.statistics().waiting == 1)
        small.begin("registry.lease(shape=1, timeout=60).release()")
        until(lambda: registry.statistics().waiting == 2)
        large.kill()
        small.result()


def test_readers_expected_may_come_after_the_writer_was_killed(
    actor: StartActor, registry: shmlease.Registry, site: Site
) -> None:
    producer = actor()
    producer("lease = registry.lease('a', shape=10, dtype='i8'); lease.array[:] = 4; lease.publish(readers=2, ttl=30)")
    producer.kill()
    until(lambda: registry.statistics().counters.get("reclaimed"))
    for _ in range(2):
        with registry.attach("a", timeout=0) as lease:
            assert lease.array.sum() == 40
    until(lambda: not site.files())
    with pytest.raises(shmlease.SegmentNotFoundError):
        registry.attach("a", timeout=0)


def test_hundred_holders_killed_together_leave_nothing(actor: StartActor, registry: shmlease.Registry, site: Site) -> None:
    """Many leases of few processes, with tickets and readers between them."""
    holders = [actor() for _ in range(3)]
    for number, holder in enumerate(holders):
        holder(
            "held = [registry.share(np.full(100, i), f'{number}/{i}') for i in range(34)];"
            "others = [registry.attach(f'{number}/{i}') for i in range(34)]",
            number=number,
        )
    assert registry.statistics().leases["write"] == 102
    for holder in holders:
        holder.signal(signal.SIGKILL)
    until(lambda: not site.files())
    figures = registry.statistics()
    assert (figures.leases.get("write", 0), figures.leases.get("read", 0), figures.used_bytes) == (0, 0, 0)


def test_exec_in_a_holder_ends_nothing_before_the_process_ends(
    actor: StartActor, registry: shmlease.Registry, site: Site
) -> None:
    """Its memory is gone with exec, but that cannot be told from a client that lost its connection: unknown is alive."""
    holder = actor()
    holder("lease = registry.share(np.arange(10), 'a')")
    holder.begin("os.execv('/bin/sleep', ['sleep', '60'])")
    until(lambda: "sleep" in Path(f"/proc/{holder.pid}/cmdline").read_text())
    with registry.attach("a") as lease:
        assert lease.array.sum() == 45
    holder.kill()
    until(lambda: not site.files())
