"""One suite of behaviour, asked of the registry in memory and of the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from worlds import MemoryWorld, RealWorld, World

import shmlease


@pytest.fixture(params=[MemoryWorld, RealWorld], ids=["memory", "real"], scope="session")
def kind(request: pytest.FixtureRequest) -> type[World]:
    return request.param


@pytest.fixture
def open_world(kind: type[World]) -> Iterator[Callable[..., World]]:
    """Opens a registry with other options than usual."""
    with ExitStack() as stack:

        def opened(**options: Any) -> World:
            return stack.enter_context(kind(**options))

        yield opened


@pytest.fixture
def world(open_world: Callable[..., World]) -> World:
    return open_world()


@pytest.fixture
def waiting_world(open_world: Callable[..., World]) -> World:
    """One in which calls wait for each other."""
    return open_world(waiting=True)


@pytest.fixture
def registry(world: World) -> shmlease.Registry:
    return world.registry


@pytest.fixture(scope="module")
def lasting_world(kind: type[World]) -> Iterator[World]:
    """One for all tests of a module that do not look at its figures: a real registry takes 0.1 s to come and go."""
    with kind() as world:
        yield world


@pytest.fixture
def peer(lasting_world: World) -> Iterator[shmlease.RegistryHandle]:
    """Another client of the lasting world."""
    peer = lasting_world.peer()
    yield peer
    peer._link.close()
