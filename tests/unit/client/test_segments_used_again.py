"""A segment is used again only when whoever had it says that every page of it has memory."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

import shmlease
from shmlease.core.prefetch import MOST_AHEAD
from shmlease.testing import memory_registry


class Mapped:
    """The segments that an endpoint was asked to map with their pages reserved; the next one fails with `failure`."""

    def __init__(self, registry: shmlease.RegistryHandle, monkeypatch: pytest.MonkeyPatch) -> None:
        endpoint = registry._link.endpoint
        self._map = endpoint.map
        self.failure: BaseException | None = None
        self.failed: list[int] = []
        self.segments: list[int] = []
        monkeypatch.setattr(endpoint, "map", self.map)

    def map(self, segment: int, size_bytes: int, **how: Any) -> Any:
        failure, self.failure = self.failure, None
        if failure is not None:
            self.failed.append(segment)
            raise failure
        self.segments.append(segment)
        return self._map(segment, size_bytes, **how)


@pytest.mark.parametrize("name", ["a", None])
def test_memory_that_was_only_written_is_used_again(name: str | None) -> None:
    with memory_registry() as registry:
        for _ in range(300):
            with registry.lease(name, shape=3) as lease:
                lease.array[:] = 1
        most = 1 if name else 1 + MOST_AHEAD
        assert registry.statistics().counters["created"] <= most


@pytest.mark.parametrize("name", ["a", None])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_memory_that_could_not_be_reserved_is_not_used_again(
    name: str | None, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_registry() as registry:
        registry.lease(shape=3).release()  # from here on the next one is granted ahead
        mapped = Mapped(registry, monkeypatch)
        mapped.failure = failure
        try:
            registry.lease(name, shape=3000).release()
        except KeyboardInterrupt:
            assert isinstance(failure, KeyboardInterrupt)
        for _ in range(3):
            with registry.lease(shape=3000), registry.lease("b", shape=3000):
                pass
        assert len(mapped.failed) == 1
        assert mapped.failed[0] not in mapped.segments
