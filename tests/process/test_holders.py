"""Holders that are killed: their leases end at once and wholly, everybody else's stay, and tickets outlive
their senders.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    with pytest.raises(shmlease.AbandonedError, match=f"pid {producer.pid}"):
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


def test_sender_killed_between_making_the_token_and_saying_so_leaves_no_token(actor: StartActor, site: Site) -> None:
    sender = actor()
    sender("link = registry._link; link.endpoint.mint_token(link.session.client << 40 | 4711, [])")
    sender.kill()
    until(lambda: not [name for name in _entries(site) if name.startswith("t")], what="the end of the token")


def _entries(site: Site) -> list[str]:
    return os.listdir(site.directory.path)


def test_waiting_reader_does_not_see_what_a_killed_writer_left(actor: StartActor, registry: shmlease.Registry) -> None:
    producer, reader = actor(), actor()
    producer("lease = registry.lease('a', shape=100); lease.array[:50] = 1")
    reader.begin("held = registry.attach('a', timeout=60, abandoned='wait'); int(held.array.sum())")
    until(lambda: registry.statistics().waiting == 1)
    producer.kill()
    until(lambda: registry.statistics().counters.get("reclaimed"))
    with registry.share(np.full(100, 2), "a"):
        assert reader.result() == 200


def test_waiting_for_room_ends_when_a_holder_is_killed(actor: StartActor, registry: shmlease.Registry) -> None:
    hoarder = actor()
    hoarder("lease = registry.lease(shape=60 << 20, dtype='u1')")
    waiting = actor()
    waiting.begin("with registry.lease(shape=60 << 20, dtype='u1', timeout=60) as lease: lease.array[-1] = 1")
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
    holder.begin("os.execv('/bin/sleep', ['sleep', '600'])")
    until(lambda: "sleep" in Path(f"/proc/{holder.pid}/cmdline").read_text())
    with registry.attach("a") as lease:
        assert lease.array.sum() == 45
    holder.kill()
    until(lambda: not site.files())


@pytest.mark.parametrize("registry_dies_as_well", [False, True])
def test_ticket_ends_with_a_redeemer_killed_before_it_said_so(
    registry: shmlease.Registry, site: Site, actor: StartActor, registry_dies_as_well: bool
) -> None:
    """Not when the ticket runs out, which may be hours later."""
    redeemer = actor()
    redeemer("registry.share(np.arange(3)).release()")
    (client,) = (row.id for row in site.ledger().clients.values() if row.identity.pid == redeemer.pid)
    with registry.share(np.arange(1000), "a") as lease:
        ticket = lease.ticket(ttl=3600)
    assert registry.statistics().tickets == 1
    token = f"{site.directory.path}/t{ticket.id}"
    os.rename(token, f"{token}.{client}")  # what redeeming does first
    if registry_dies_as_well:
        site.kill()
    redeemer.kill()
    until(lambda: registry.statistics().tickets == 0, what="the end of the ticket")
    until(lambda: "published" not in registry.statistics().segments, what="the end of the segment")
    assert not [name for name in os.listdir(site.directory.path) if name.startswith("t")]
    assert EventKind.HOLDER_DIED in [event.kind for event in site.ledger().events]


LEADERLESS = """
import ctypes, os, platform, sys, threading
import numpy as np
import shmlease

def live():
    try:
        held = shmlease.connect().share(np.arange(1000), "of a thread")
        print("held", flush=True)
        with open(f"/proc/{os.getpid()}/stat") as stat:
            while stat.read().rsplit(")", 1)[1].split()[0] != "Z":
                stat.seek(0)
        print("alone", flush=True)
        for word in sys.stdin:
            print(int(shmlease.connect().attach("of a thread").array.sum()), int(held.array.sum()), flush=True)
    finally:
        os._exit(1)  # there are threads of numpy's as well

threading.Thread(target=live).start()
threading.Event().wait(0.01)
ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)  # exit(2): this thread alone
"""


def test_process_whose_leader_has_exited_keeps_its_leases_over_a_takeover(registry: shmlease.Registry, site: Site) -> None:
    environment = {**os.environ, "SHMLEASE_REGISTRY": registry.id}
    words = [sys.executable, "-c", LEADERLESS]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
        stack.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in "12"] == ["held\n", "alone\n"]
        site.kill()
        assert registry.statistics().epoch == 2
        with registry.attach("of a thread") as reader:
            assert reader.array.sum() == 499_500
        process.stdin.write("look\n")
        process.stdin.flush()
        assert process.stdout.readline() == "499500 499500\n"
    until(lambda: registry.statistics().clients == 1, what="the end of the whole process")
    assert any(event.kind is EventKind.HOLDER_DIED for event in site.ledger().events)


IN_A_TIME_NAMESPACE = ("unshare", "--time", "--boottime", "100000", "--monotonic", "50000", "--fork", "--kill-child")


@pytest.fixture
def elsewhere(registry: shmlease.Registry) -> Iterator[Actor]:
    """A client with clocks of its own."""
    if subprocess.run([*IN_A_TIME_NAMESPACE, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this system does not let us make a time namespace")
    with Actor(registry.id, command=IN_A_TIME_NAMESPACE) as actor:
        yield actor


def test_successor_with_other_clocks_takes_nobody_for_dead_and_lets_nothing_run_out(
    registry: shmlease.Registry, site: Site, elsewhere: Actor
) -> None:
    with registry.share(np.arange(1000), "a") as lease:
        ticket = lease.ticket(ttl=600)
        site.kill()
        assert elsewhere("registry.statistics().epoch") == 2
        assert lease.array.sum() == 499_500
        assert elsewhere("with registry.attach('a') as held: total = held.array.sum()\ntotal") == 499_500
    with registry.redeem(ticket) as reader:
        assert reader.array.sum() == 499_500
    assert not [event for event in site.ledger().events if event.kind in (EventKind.HOLDER_DIED, EventKind.TICKET_EXPIRED)]


def test_ticket_of_a_sender_with_other_clocks_lives_as_long_as_it_was_to(
    registry: shmlease.Registry, elsewhere: Actor
) -> None:
    made = "held = registry.share(np.arange(1000)); text = str(held.ticket(ttl=600)); held.release(); text"
    ticket = shmlease.Ticket.parse(elsewhere(made))
    left_s = (ticket.deadline_ns - time.monotonic_ns()) / 1e9
    assert 500 < left_s <= 600
    with registry.redeem(ticket) as reader:
        assert reader.array.sum() == 499_500
