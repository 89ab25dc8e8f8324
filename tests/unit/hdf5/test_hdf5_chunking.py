"""Parts of any length planned into chunks of one length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmlease.hdf5.chunking import ChunkPlan, PlannedChunk

lengths = st.lists(st.integers(0, 25), max_size=12)


@given(lengths, st.integers(1, 10))
def test_the_chunks_hold_every_row_once_and_in_order(rows: list[int], chunk_rows: int) -> None:
    plan: ChunkPlan[int] = ChunkPlan(chunk_rows)
    planned = [chunk for part, count in enumerate(rows) for chunk in plan.add(part, count)] + plan.finish()
    assert [chunk.index for chunk in planned] == list(range(len(planned)))
    sizes = [sum(piece.stop - piece.start for piece in chunk.pieces) for chunk in planned]
    assert all(size == chunk_rows for size in sizes[:-1])
    seen = [(piece.part, row) for chunk in planned for piece in chunk.pieces for row in range(piece.start, piece.stop)]
    assert seen == [(part, row) for part, count in enumerate(rows) for row in range(count)]
    assert plan.rows == sum(rows)


@given(lengths, st.integers(1, 10), st.randoms(use_true_random=False))
def test_a_part_is_unused_once_all_its_chunks_are_done_and_not_before(
    rows: list[int], chunk_rows: int, random: object
) -> None:
    plan: ChunkPlan[int] = ChunkPlan(chunk_rows)
    waiting: list[PlannedChunk[int]] = []
    unused: list[int] = []
    for part, count in enumerate(rows):
        waiting += plan.add(part, count)
        while waiting and random.random() < 0.5:
            plan.done(waiting.pop(random.randrange(len(waiting))))
        unused += plan.take_unused()
        assert not {piece.part for chunk in waiting for piece in chunk.pieces} & set(unused)
    waiting += plan.finish()
    for chunk in waiting:
        plan.done(chunk)
    unused += plan.take_unused()
    assert sorted(unused) == list(range(len(rows)))


@given(lengths, st.integers(1, 10), st.data())
def test_a_plan_resumed_at_a_row_plans_what_is_missing_and_nothing_else(
    rows: list[int], chunk_rows: int, data: st.DataObject
) -> None:
    first: ChunkPlan[int] = ChunkPlan(chunk_rows)
    planned = [chunk for part, count in enumerate(rows) for chunk in first.add(part, count)]
    stored = {chunk.index for chunk in planned if data.draw(st.booleans())}
    prefix = next(index for index in range(len(planned) + 1) if index not in stored) * chunk_rows
    ends = [0, *(sum(rows[: count + 1]) for count in range(len(rows)))]
    restart = max(count for count, end in enumerate(ends) if end <= prefix)
    resumed: ChunkPlan[int] = ChunkPlan(chunk_rows, start_row=ends[restart], is_stored=stored.__contains__)
    again = [chunk for part, count in enumerate(rows[restart:], start=restart) for chunk in resumed.add(part, count)]
    assert again == [chunk for chunk in planned if chunk.index not in stored]


def test_a_part_without_rows_is_unused_at_once() -> None:
    plan: ChunkPlan[str] = ChunkPlan(10)
    assert plan.add("empty", 0) == []
    assert plan.take_unused() == ["empty"]
    assert plan.take_unused() == []


def test_a_part_whose_chunks_are_all_stored_is_unused_at_once() -> None:
    plan: ChunkPlan[str] = ChunkPlan(10, is_stored=lambda index: index == 0)
    assert plan.add("stored", 10) == []
    assert plan.take_unused() == ["stored"]


@pytest.mark.parametrize("start_row", [0, 20])
def test_indices_count_from_row_zero_of_the_dataset(start_row: int) -> None:
    plan: ChunkPlan[str] = ChunkPlan(10, start_row=start_row)
    assert [chunk.index for chunk in plan.add("part", 20)] == [start_row // 10, start_row // 10 + 1]
