"""The cache of idle mappings: bounded, never two owners of one, and forgotten when its segment is."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from shmlease.client import mappings as module
from shmlease.client.mappings import MappingCache


class FakeMapping:
    def __init__(self, *, writable: bool, private: bool) -> None:
        self.writable = writable
        self.private = private


class Holder:
    """What has a mapping of a segment."""

    def __init__(self, segment: int, mapping: Any) -> None:
        self.segment = segment
        self.mapping = mapping


class FakeEndpoint:
    def __init__(self) -> None:
        self.made: list[weakref.ref[FakeMapping]] = []
        self.reserved: list[int] = []

    def map(self, segment: int, size_bytes: int, *, writable: bool, private: bool, reserve: bool) -> FakeMapping:
        if reserve:
            self.reserved.append(segment)
        made = FakeMapping(writable=writable, private=private)
        self.made.append(weakref.ref(made))
        return made

    def alive(self) -> list[bool]:
        """Of each mapping made, whether it is still mapped."""
        return [reference() is not None for reference in self.made]


@pytest.fixture
def endpoint() -> FakeEndpoint:
    return FakeEndpoint()


@pytest.fixture
def cache(endpoint: FakeEndpoint) -> MappingCache:
    return MappingCache(endpoint)  # type: ignore[arg-type]


def test_mapping_given_back_is_taken_again(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    first = cache.take(1, 4096, writable=True)
    cache.give_back(Holder(1, first))
    assert cache.take(1, 4096, writable=True) is first
    assert len(endpoint.made) == 1


def test_mapping_in_use_is_nobody_elses(cache: MappingCache) -> None:
    first = cache.take(1, 4096, writable=False)
    assert cache.take(1, 4096, writable=False) is not first


def test_reader_is_never_given_a_writers_mapping_nor_the_other_way_round(cache: MappingCache) -> None:
    writer = cache.take(1, 4096, writable=True)
    cache.give_back(Holder(1, writer))
    reader = cache.take(1, 4096, writable=False)
    assert not reader.writable
    cache.give_back(Holder(1, reader))
    assert cache.take(1, 4096, writable=True) is writer


def test_fresh_segment_is_mapped_anew_and_reserved(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    cache.give_back(Holder(1, cache.take(1, 4096, writable=True)))
    cache.take_to_fill(1, 4096, reserve=True)
    assert endpoint.reserved == [1]
    assert len(endpoint.made) == 2


def test_recycled_segment_is_mapped_at_once_by_who_has_not_had_it(
    cache: MappingCache, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped: list[Any] = []
    monkeypatch.setattr(module, "map_pages", mapped.append)
    first = cache.take_to_fill(1, 4096, reserve=False)
    assert mapped == [first]
    cache.give_back(Holder(1, first))
    assert cache.take_to_fill(1, 4096, reserve=False) is first
    assert mapped == [first]
    assert endpoint.reserved == []


def test_cache_is_bounded_and_lets_go_of_the_least_recently_used(
    cache: MappingCache, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    for segment in range(5):
        cache.give_back(Holder(segment, cache.take(segment, 4096, writable=True)))
    assert endpoint.alive() == [False, False, True, True, True]


def test_segment_that_is_gone_is_unmapped(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    for writable in (True, False):
        cache.give_back(Holder(1, cache.take(1, 4096, writable=writable)))
    cache.give_back(Holder(2, cache.take(2, 4096, writable=True)))
    cache.forget(1)
    cache.forget(7)
    assert endpoint.alive() == [False, False, True]


def test_cleared_cache_has_nothing_mapped(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    for segment in range(5):
        cache.give_back(Holder(segment, cache.take(segment, 4096, writable=True)))
    in_use = cache.take(4, 4096, writable=True)
    cache.clear()
    assert endpoint.alive() == [False] * 4 + [True]
    del in_use


def test_mapping_that_is_given_back_has_one_owner(cache: MappingCache) -> None:
    holder = Holder(1, cache.take(1, 4096, writable=True))
    cache.give_back(holder)
    assert holder.mapping is None
    cache.give_back(holder)


def test_private_mapping_is_never_anybody_elses(cache: MappingCache, endpoint: FakeEndpoint) -> None:
    cache.give_back(Holder(1, cache.take(1, 4096, writable=True)))
    private = Holder(1, cache.take(1, 4096, writable=True, private=True))
    assert private.mapping.private
    cache.give_back(private)
    private.mapping = None
    assert endpoint.alive() == [True, False]
    assert not cache.take(1, 4096, writable=True).private
