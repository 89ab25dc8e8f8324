"""The cache of idle mappings: bounded, never two owners of one, and forgotten when its segment is."""

from __future__ import annotations

import pytest

from shmlease.client import mappings as module
from shmlease.client.mappings import MappingCache


class FakeMapping:
    def __init__(self, segment: int, *, writable: bool) -> None:
        self.segment = segment
        self.writable = writable
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeEndpoint:
    def __init__(self) -> None:
        self.made: list[FakeMapping] = []
        self.reserved: list[int] = []

    def map(self, segment: int, size_bytes: int, *, writable: bool, reserve: bool) -> FakeMapping:
        if reserve:
            self.reserved.append(segment)
        self.made.append(FakeMapping(segment, writable=writable))
        return self.made[-1]


@pytest.fixture
def endpoint() -> FakeEndpoint:
    return FakeEndpoint()


@pytest.fixture
def cache(endpoint: FakeEndpoint) -> MappingCache:
    return MappingCache(endpoint)  # type: ignore[arg-type]


def test_mapping_given_back_is_taken_again(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    first = cache.take(1, 4096, writable=True)
    cache.give_back(1, first)
    assert cache.take(1, 4096, writable=True) is first
    assert len(endpoint.made) == 1


def test_mapping_in_use_is_nobody_elses(cache: MappingCache) -> None:
    first = cache.take(1, 4096, writable=False)
    assert cache.take(1, 4096, writable=False) is not first


def test_reader_is_never_given_a_writers_mapping_nor_the_other_way_round(cache: MappingCache) -> None:
    writer = cache.take(1, 4096, writable=True)
    cache.give_back(1, writer)
    reader = cache.take(1, 4096, writable=False)
    assert not reader.writable
    cache.give_back(1, reader)
    assert cache.take(1, 4096, writable=True) is writer


def test_fresh_segment_is_mapped_anew_and_reserved(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    cache.give_back(1, cache.take(1, 4096, writable=True))
    cache.take(1, 4096, writable=True, reserve=True)
    assert endpoint.reserved == [1]
    assert len(endpoint.made) == 2


def test_cache_is_bounded_and_lets_go_of_the_least_recently_used(
    cache: MappingCache, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    for segment in range(5):
        cache.give_back(segment, cache.take(segment, 4096, writable=True))
    assert [mapping.closed for mapping in endpoint.made] == [True, True, False, False, False]


def test_segment_that_is_gone_is_unmapped(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    for writable in (True, False):
        cache.give_back(1, cache.take(1, 4096, writable=writable))
    cache.give_back(2, cache.take(2, 4096, writable=True))
    cache.forget(1)
    cache.forget(7)
    assert [mapping.closed for mapping in endpoint.made] == [True, True, False]


def test_cleared_cache_has_nothing_mapped(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    for segment in range(5):
        cache.give_back(segment, cache.take(segment, 4096, writable=True))
    in_use = cache.take(4, 4096, writable=True)
    cache.clear()
    assert [mapping.closed for mapping in endpoint.made] == [True] * 4 + [False]
    assert not in_use.closed  # type: ignore[attr-defined]
