"""The registry and the workers of a run can be begun before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.errors import RegistryUnavailableError
from shmlease.ingestion import resources
from shmlease.system.directory import RegistryDirectory

CAPACITY = 32 << 20


@pytest.fixture(autouse=True)
def nothing_begun() -> Iterator[None]:
    yield
    resources.drop()


def begun() -> resources.RunResources:
    resources.begin(1, CAPACITY, compressed=True)
    return resources._begun[0][1]


def is_ended(run: resources.RunResources) -> bool:
    workers = [process.child.pid for process in run.pool._processes]
    return not workers and not RegistryDirectory(run.registry.id).is_served()


def test_a_run_takes_what_was_begun_for_it_and_ends_it_as_its_own() -> None:
    run = begun()
    with resources.take(1, CAPACITY, compressed=True) as taken:
        assert taken is run
        assert taken.registry.statistics().capacity_bytes == CAPACITY
        resources.drop()  # of what is in use
        assert len(taken.pool._processes) == 1
        assert RegistryDirectory(taken.registry.id).is_served()
    assert is_ended(run)
    assert run.leaks == ()


def test_a_run_of_another_kind_drops_what_was_begun() -> None:
    run = begun()
    with resources.take(1, CAPACITY, compressed=False) as taken:
        assert taken is not run
        assert is_ended(run)


def test_what_nobody_takes_is_dropped() -> None:
    run = begun()
    resources.drop()
    assert is_ended(run)
    resources.drop()


def test_what_stands_in_the_way_of_a_start_is_said_to_who_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(_: RegistryDirectory) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(RegistryDirectory, "create", refused)
    begun()
    with pytest.raises(RegistryUnavailableError, match="Permission denied"):
        resources.take(1, CAPACITY, compressed=True).__enter__()
    resources.drop()
    assert not resources._begun
