"""Registries and processes for the tests that kill them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until


@pytest.fixture
def registry() -> Iterator[shmlease.Registry]:
    with shmlease.Registry("64MiB") as registry:
        yield registry


@pytest.fixture
def site(registry: shmlease.Registry) -> Site:
    return Site(registry.id)


@pytest.fixture
def actor(registry: shmlease.Registry) -> Iterator[Callable[..., Actor]]:
    """Starts processes that are connected to the registry."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Actor(registry.id, **options))
    until(lambda: registry.statistics().clients == 1, what="the end of the actors' leases")
