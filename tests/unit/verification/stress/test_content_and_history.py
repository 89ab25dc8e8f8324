"""Arrays say who wrote them; histories survive their writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shmlease.verification.stress import content
from shmlease.verification.stress.history import Scribe, read_history

STAMP = 0x0001_0002_0000_0003


def test_an_array_is_known_by_its_stamp() -> None:
    array = content.array_of(STAMP, 1000)
    assert content.stamp_of(array) == STAMP
    assert content.flaw(array, STAMP) == ""
    other = np.empty_like(array)
    content.write(other, STAMP)
    assert np.array_equal(other, array)


@pytest.mark.parametrize("position", [0, 1, 999])
def test_one_wrong_word_is_found(position: int) -> None:
    array = content.array_of(STAMP, 1000)
    array[position] = content.array_of(STAMP + 1, 1000)[position]
    assert content.flaw(array, STAMP) == f"1 of 1000 words are not {STAMP:#x}'s; word {position} is {STAMP + 1:#x}'s"


def test_words_at_another_place_are_found() -> None:
    assert "999 of 1000" in content.flaw(np.resize(content.array_of(STAMP, 1), 1000), STAMP)


def test_a_call_that_was_cut_short_is_told_from_one_that_ended(tmp_path: Path) -> None:
    scribe = Scribe(f"{tmp_path}/0.0")
    scribe.end(scribe.begin("lease", 1))
    scribe.end(scribe.begin("redeem", 2, "t"), ValueError("no"))
    scribe.begin("publish", 3)
    scribe.close()
    with (tmp_path / "0.0").open("ab") as file:
        file.write(b'["release",1')  # killed in the middle of a line
    ended, refused, cut = read_history(str(tmp_path))
    assert ended.is_finished
    assert refused.is_finished
    assert (refused.act.outcome, refused.act.detail) == ("ValueError", "no")
    assert not cut.is_finished
    assert cut.last_sign_ns == cut.act.begin_ns
