"""Which of its clients starts the successor of a dead registry, and which leave that to others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

import shmlease
from rig.actor import Actor
from rig.site import Site
from shmlease.client import directory_endpoint as module
from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.core.limits import Limits
from shmlease.errors import RegistryUnavailableError
from shmlease.system.surroundings import own_limits
from shmlease.testing.memory_transport import FakeClock


@pytest.fixture
def site() -> Iterator[Site]:
    """A registry that has died while this process and another were its clients."""
    with shmlease.Registry("1MiB") as registry, Actor(registry.id):
        site = Site(registry.id)
        site.kill()
        yield site


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The registries that were started: in fact none is."""
    started: list[str] = []
    monkeypatch.setattr(module, "launch", lambda settings, lock_fd: started.append(settings.id))
    return started


def have(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "own_limits", lambda: limits)


def test_client_as_strong_as_the_first_starts_it_at_once(site: Site, started: list[str]) -> None:
    DirectoryEndpoint(site.directory, FakeClock()).succeed()
    assert started == [site.directory.id]


def test_weaker_client_leaves_it_to_others_for_a_moment(
    site: Site, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(replace(own_limits(), open_files=10), monkeypatch)
    clock = FakeClock()
    endpoint = DirectoryEndpoint(site.directory, clock)
    endpoint.succeed()
    clock.wait_s(0.4)
    endpoint.succeed()
    assert started == []
    assert not site.directory.is_served(), "nobody is kept from it meanwhile"
    clock.wait_s(0.2)
    endpoint.succeed()
    assert started == [site.directory.id]


def test_weaker_client_does_not_wait_for_the_dead(site: Site, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    others = [client.identity.pid for client in site.ledger().clients.values() if client.identity.pid != os.getpid()]
    for pid in others:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    have(replace(own_limits(), niceness=19), monkeypatch)
    DirectoryEndpoint(site.directory, FakeClock()).succeed()
    assert started == [site.directory.id]


def test_client_that_failed_to_start_one_offers_itself_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that handed over to it would only end."""

    def fail(settings: object, lock_fd: int) -> None:
        raise RegistryUnavailableError("it did not start")

    endpoint = DirectoryEndpoint(site.directory, FakeClock())
    assert endpoint.limits() == own_limits()
    with monkeypatch.context() as patched:
        patched.setattr(module, "launch", fail)
        with pytest.raises(RegistryUnavailableError):
            endpoint.succeed()
    assert endpoint.limits() is None
    endpoint.succeed()
    assert endpoint.limits() == own_limits()
