"""Tickets: single use, alive without their sender, until their time is up."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from worlds import World, live

import shmlease
from rig.until import until


def test_ticket_is_redeemed_once(world: World) -> None:
    peer = world.peer()
    with world.registry.share(np.arange(10), "a") as lease:
        ticket = lease.ticket()
        with peer.redeem(ticket) as seen:
            assert (seen.name, int(seen.array.sum())) == ("a", 45)
            for again in (peer, world.registry):
                with pytest.raises(shmlease.TicketError, match="was redeemed by pid") as refused:
                    again.redeem(ticket)
                assert isinstance(refused.value, ValueError)
                assert refused.value.ticket == ticket.id
            assert seen.array.sum() == 45
    assert world.registry.statistics().counters["refused: ticket"] == 2


@pytest.mark.parametrize("form", [str, lambda ticket: pickle.loads(pickle.dumps(ticket))], ids=["text", "pickle"])
def test_ticket_travels_as(lasting_world: World, peer: shmlease.RegistryHandle, form: type) -> None:
    with lasting_world.registry.share(np.arange(10)) as lease, peer.redeem(form(lease.ticket())) as seen:
        assert seen.array.sum() == 45


def test_ticket_keeps_the_segment_when_its_sender_has_released(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10)) as lease:
        ticket = lease.ticket()
    figures = lasting_world.registry.statistics()
    assert (live(lasting_world.registry), figures.tickets, figures.leases.get("write", 0)) == (1, 1, 0)
    with lasting_world.peer().redeem(ticket) as seen:
        assert seen.array.sum() == 45
        until(lambda: lasting_world.registry.statistics().tickets == 0)
        assert live(lasting_world.registry) == 1
    until(lambda: live(lasting_world.registry) == 0, what="the end of the segment")


def test_each_ticket_is_for_one_reader(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10)) as lease:
        tickets = [lease.ticket() for _ in range(3)]
    for ticket in tickets:
        assert live(lasting_world.registry) == 1
        with lasting_world.peer().redeem(ticket) as seen:
            assert seen.array.sum() == 45
    until(lambda: live(lasting_world.registry) == 0, what="the end of the segment")


def test_ticket_is_redeemed_by_another_process(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10)) as lease:
        ticket = str(lease.ticket())
        seen = lasting_world.process()(
            "with registry.redeem(ticket) as lease: seen = lease.array.copy()\nseen", ticket=ticket
        )
    assert seen.sum() == 45


def test_ticket_of_an_array_that_is_not_published_publishes_it(lasting_world: World) -> None:
    with lasting_world.registry.lease("a", shape=3) as lease:
        lease.array[:] = 2
        ticket = lease.ticket()
        assert not lease.writable
        with lasting_world.peer().redeem(ticket) as seen, lasting_world.peer().attach("a", timeout=0):
            assert seen.array.sum() == 6


def test_reader_may_hand_on(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10)) as lease:
        ticket = lease.ticket()
    with lasting_world.peer().redeem(ticket) as seen:
        handed_on = seen.ticket()
    with lasting_world.peer().redeem(handed_on) as seen:
        assert seen.array.sum() == 45


def test_ticket_expires_when_its_time_is_up(world: World) -> None:
    registry = world.registry
    with registry.share(np.arange(10)) as lease:
        short, long = lease.ticket(ttl=0.05), lease.ticket(ttl="1min")
    world.pass_time(0.05)
    until(lambda: registry.statistics().tickets == 1, what="the end of the ticket")
    with pytest.raises(shmlease.TicketError, match="expired before it was redeemed") as refused:
        world.peer().redeem(short)
    assert refused.value.ticket == short.id
    with world.peer().redeem(long) as seen:
        assert seen.array.sum() == 45
    until(lambda: live(registry) == 0, what="the end of the segment")
    assert registry.statistics().warm_bytes == 0, "memory that a ticket was out for is not used again"


def test_segment_ends_with_its_last_ticket(world: World) -> None:
    with world.registry.share(np.arange(10)) as lease:
        lease.ticket(ttl=0.05)
    world.pass_time(0.05)
    until(lambda: live(world.registry) == 0, what="the end of the segment")
    assert world.registry.statistics().counters["tickets expired"] == 1


def test_ticket_is_of_its_registry(lasting_world: World) -> None:
    with (
        shmlease.testing.memory_registry() as other,
        other.share(np.arange(3)) as lease,
        pytest.raises(shmlease.TicketError, match=f"is of registry {other.id}") as refused,
    ):
        lasting_world.registry.redeem(ticket := lease.ticket())
    assert refused.value.ticket == str(ticket)


@pytest.mark.parametrize("text", ["", "nonsense", "slt1-", "slt1-AAAAAAAA"])
def test_what_is_no_ticket_is_refused(lasting_world: World, text: str) -> None:
    with pytest.raises(shmlease.TicketError, match="is not a ticket") as refused:
        lasting_world.registry.redeem(text)
    assert refused.value.ticket == text


@pytest.mark.parametrize("thing", [None, 5, b"slt1-", np.arange(3)], ids=repr)
def test_what_is_neither_ticket_nor_text_is_a_type_error(lasting_world: World, thing: object) -> None:
    with pytest.raises(TypeError, match=f"a Ticket or its text, not {type(thing).__name__}"):
        lasting_world.registry.redeem(thing)  # type: ignore[arg-type]


def test_text_of_a_ticket_may_have_blanks_around_it(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(3)) as lease, lasting_world.registry.redeem(f" {lease.ticket()}\n") as seen:
        assert seen.array.tolist() == [0, 1, 2]


def test_damaged_ticket_is_refused_and_the_true_one_is_good(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10)) as lease:
        text = str(lease.ticket())
        damaged = text[:-1] + ("A" if text[-1] != "A" else "B")
        with pytest.raises(shmlease.TicketError, match="is not a ticket"):
            lasting_world.registry.redeem(damaged[: len(text) // 2])
        with lasting_world.registry.redeem(text) as seen:
            assert seen.array.sum() == 45


@pytest.mark.parametrize("ttl", ["soon", -1])
def test_ticket_for_no_duration_is_refused_and_the_array_stays_writable(lasting_world: World, ttl: str) -> None:
    with lasting_world.registry.lease(shape=3) as lease:
        with pytest.raises(ValueError, match=str(ttl)):
            lease.ticket(ttl=ttl)
        assert lease.writable
        assert lasting_world.registry.statistics().tickets == 0
