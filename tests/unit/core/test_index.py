"""Members by key: one, several, none."""

from __future__ import annotations

from shmlease.core.index import Index


def test_members_are_those_that_were_added_and_not_discarded() -> None:
    index = Index()
    assert 1 not in index
    assert not index[1]
    for member in (7, 8, 7, 9):
        index.add(1, member)
    index.add(2, 7)
    assert (set(index[1]), list(index[2]), set(index)) == ({7, 8, 9}, [7], {1, 2})
    for member in (8, 5, 7):
        index.discard(1, member)
    index.discard(2, 5)
    assert (list(index[1]), list(index[2])) == ([9], [7])
    index.discard(1, 9)
    index.discard(3, 1)
    assert (1 in index, list(index)) == (False, [2])
    index.clear(2)
    assert list(index) == []
