"""How a registry is joined, and what is left when it is closed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from worlds import World

import shmlease
from shmlease.client.owned_registry import ENVIRONMENT


def test_open_registry_is_the_one_to_join(world: World) -> None:
    assert os.environ[ENVIRONMENT] == world.registry.id
    with world.registry.share(np.arange(10), "a"), shmlease.connect() as joined, joined.attach("a") as seen:
        assert (joined.id, int(seen.array.sum())) == (world.registry.id, 45)


def test_handle_travels_as_a_handle_on_the_same_registry(lasting_world: World) -> None:
    with lasting_world.registry.share(np.arange(10), "a"):
        handle = pickle.loads(pickle.dumps(lasting_world.registry))
        assert type(handle) is shmlease.RegistryHandle
        with handle.attach("a") as seen:
            assert seen.array.sum() == 45


def test_closed_handle_takes_no_more_calls_and_what_was_taken_through_it_stays(world: World) -> None:
    array = np.arange(10)
    with shmlease.connect() as handle:
        written = handle.share(array, "a")
        ticket, reader = written.ticket(), handle.attach("a")
    calls: list[Callable[[], object]] = [
        lambda: handle.lease(shape=1),
        lambda: handle.share(array),
        lambda: handle.attach("a"),
        lambda: handle.redeem(ticket),
        handle.statistics,
        handle.trim,
        handle.__enter__,
        lambda: pickle.dumps(handle),
    ]
    for call in calls:
        with pytest.raises(
            shmlease.RegistryUnavailableError, match=rf"closed; shmlease.connect\('{handle.id}'\)"
        ) as refused:
            call()
        assert refused.value.registry == world.registry.id
    handle.close()
    assert (handle.id, written.array[9], reader.array[9]) == (world.registry.id, 9, 9)
    with world.registry.redeem(written.ticket()) as again:
        assert again.array.sum() == 45
    reader.release()
    written.release()
    with shmlease.connect().redeem(ticket) as seen:
        assert seen.array.sum() == 45


def test_registry_opened_inside_another_is_the_one_to_join_until_it_is_closed(open_world: Callable[..., World]) -> None:
    outer = open_world().registry
    inner = open_world().registry
    assert shmlease.connect().id == inner.id
    inner.close()
    assert shmlease.connect().id == outer.id


def test_registry_that_the_environment_names_wrongly_is_refused_with_who_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "nobody")
    with pytest.raises(
        shmlease.RegistryUnavailableError, match=f"registry nobody cannot be used.*{ENVIRONMENT}"
    ) as refused:
        shmlease.connect()
    assert refused.value.registry == "nobody"
    with pytest.raises(shmlease.RegistryUnavailableError, match="shmlease serve") as refused:
        shmlease.connect("nobody-else")
    assert ENVIRONMENT not in str(refused.value)


def test_reaction_to_views_that_there_is_not_is_refused(world: World, open_world: Callable[..., World]) -> None:
    for refusing in (lambda: open_world(on_lingering="raise"), lambda: shmlease.connect(on_lingering="raise")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'raise' is not one of 'warn', 'error', 'ignore'"):
            refusing()
    assert shmlease.connect().id == world.registry.id


def test_warning_of_leases_held_at_the_end_names_the_line_of_the_block(open_world: Callable[..., World]) -> None:
    with (
        pytest.warns(shmlease.LeaseWarning, match="closed while 1 lease was held") as caught,
        open_world().registry as registry,
    ):
        lease = registry.share(np.arange(3))
    assert [warning.filename for warning in caught] == [__file__]
    assert lease.held


@pytest.mark.parametrize(
    "call",
    [
        lambda registry: registry.lease("b", shape=3),
        lambda registry: registry.lease(shape=3),
        lambda registry: registry.share(np.arange(3)),
        lambda registry: registry.attach("a"),
        lambda registry: registry.statistics(),
        lambda registry: registry.trim(),
    ],
    ids=["lease", "unnamed", "share", "attach", "statistics", "trim"],
)
def test_closed_registry_is_of_no_more_use(
    request: pytest.FixtureRequest, closed: World, call: Callable[[shmlease.RegistryHandle], object]
) -> None:
    for handle in (closed.registry, closed.peer()):
        with pytest.raises(shmlease.RegistryUnavailableError) as refused:
            call(handle)
        assert isinstance(refused.value, ConnectionError)
        assert refused.value.registry == closed.registry.id


@pytest.fixture(scope="module")
def closed(kind: type[World]) -> World:
    with kind() as world:
        world.registry.statistics()
    return world


def test_peer_learns_that_the_registry_was_closed(world: World) -> None:
    peer = world.peer()
    peer.statistics()
    world.registry.close()
    with pytest.raises(shmlease.RegistryUnavailableError) as refused:
        peer.statistics()
    assert refused.value.registry == world.registry.id


def test_ticket_of_a_closed_registry_is_of_no_use(world: World) -> None:
    with world.registry.share(np.arange(3)) as lease:
        ticket = lease.ticket()
    world.registry.close()
    with pytest.raises(shmlease.RegistryUnavailableError):
        world.registry.redeem(ticket)


def test_closing_twice_is_closing_once(world: World) -> None:
    world.registry.close()
    world.registry.close()


def test_who_still_holds_a_lease_at_the_end_is_named_and_keeps_the_memory(world: World) -> None:
    registry, peer = world.registry, world.peer()
    lease = registry.share(np.arange(10), "a")
    seen = peer.attach("a")
    with pytest.warns(shmlease.LeaseWarning, match=f"closed while 2 leases were held: pid {os.getpid()} holds 'a'"):
        registry.close()
    assert (seen.array.sum(), lease.array.sum()) == (45, 45)
    seen.release()
    lease.release()


def test_view_outlives_the_registry(world: World) -> None:
    lease = world.registry.share(np.arange(10), "a")
    view = lease.array[2:]
    with pytest.warns(shmlease.LingeringViewWarning):
        lease.release()
    with pytest.warns(shmlease.LeaseWarning, match="closed while 1 lease was held"):
        world.registry.close()
    assert view.sum() == 44


@pytest.mark.parametrize(
    ("options", "words"),
    [({"capacity": 100}, "holds no segment"), ({"capacity": "much"}, "much"), ({"warm_idle": "soon"}, "soon")],
)
def test_registry_that_cannot_be_is_refused(
    open_world: Callable[..., World], options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        open_world(**options)
