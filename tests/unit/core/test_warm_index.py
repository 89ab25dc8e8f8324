"""The pool of warm segments against a list that is searched from end to end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmlease.core.sizes import PAGE_BYTES, WASTE_LIMIT, file_size
from shmlease.core.warm_index import WarmIndex


@given(st.integers(0, 2**50))
def test_file_has_whole_pages_at_least_one_and_no_page_too_many(nbytes: int) -> None:
    size = file_size(nbytes)
    assert size % PAGE_BYTES == 0
    assert size >= max(nbytes, 1)
    assert size - nbytes < PAGE_BYTES or (nbytes, size) == (0, PAGE_BYTES)


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "fit", "evict"]), st.integers(1, 12), st.integers(0, 40))))
def test_pool_behaves_as_a_plain_list(steps: list[tuple[str, int, int]]) -> None:
    pool, plain = WarmIndex(), []  # (segment, size), least recently used first
    for action, number, size in steps:
        held = [segment for segment, _ in plain]
        if action == "add" and number not in held:
            pool.add(number, size + 1)
            plain.append((number, size + 1))
        elif action == "remove" and number in held:
            pool.remove(number)
            plain = [(segment, s) for segment, s in plain if segment != number]
        elif action == "fit":
            fitting = [(s, segment) for segment, s in plain if size + 1 <= s <= (size + 1) * WASTE_LIMIT]
            smallest = min((s for s, _ in fitting), default=None)
            best = [segment for s, segment in fitting if s == smallest]
            assert pool.best_fit(size + 1) == (best[-1] if best else None)
        elif action == "evict":
            chosen, missing = [], size
            for segment, s in plain:
                if missing > 0:
                    chosen.append(segment)
                    missing -= s
            assert pool.evictions(size) == chosen
        assert list(pool) == [segment for segment, _ in plain]
        assert pool.total_bytes == sum(s for _, s in plain)
        assert len(pool) == len(plain)
