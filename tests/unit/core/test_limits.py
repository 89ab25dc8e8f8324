"""Which of two processes may use more, and in what words one that may use little is told from one that may use enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shmlease.core.limits import UNLIMITED, Limits, is_better, shortfalls

MUCH = Limits(UNLIMITED, 1024, UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED, 4096, 0, 0)
FIELDS = Limits.__struct_fields__
few = st.builds(Limits, *[st.integers(0, 2) for _ in FIELDS])


@pytest.mark.parametrize("field", FIELDS)
def test_process_that_lacks_something_is_worse(field: str) -> None:
    little = replace(MUCH, **{field: 10})
    assert is_better(MUCH, little, MUCH)
    assert not is_better(little, MUCH, MUCH)


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_lacking_is_named(field: str) -> None:
    (words,) = shortfalls(replace(MUCH, **{field: 10}), MUCH).split(", ")
    assert words.lower().startswith(("rlimit_", "niceness", "oom_score_adj"))
    assert " instead of " in words
    assert shortfalls(MUCH, MUCH) == ""


def test_words_have_units() -> None:
    little = replace(MUCH, file_size_bytes=1 << 20, cpu_s=3, niceness=5)
    assert shortfalls(little, MUCH) == (
        "RLIMIT_FSIZE 1 MiB instead of unlimited, RLIMIT_CPU 3 s instead of unlimited, niceness 5 instead of 0"
    )


def test_more_than_is_wanted_is_no_better() -> None:
    assert not is_better(replace(MUCH, open_files=2048, niceness=-5), MUCH, MUCH)
    assert shortfalls(replace(MUCH, open_files=2048, niceness=-5), MUCH) == ""


def test_neither_of_two_that_lack_different_things_is_better() -> None:
    one, other = replace(MUCH, open_files=10), replace(MUCH, file_size_bytes=10)
    assert not is_better(one, other, MUCH)
    assert not is_better(other, one, MUCH)


@given(few, few, few, few)
def test_better_is_a_strict_order_so_that_handing_over_ends(a: Limits, b: Limits, c: Limits, wanted: Limits) -> None:
    assert not is_better(a, a, wanted)
    if is_better(a, b, wanted):
        assert not is_better(b, a, wanted)
        if is_better(b, c, wanted):
            assert is_better(a, c, wanted)
