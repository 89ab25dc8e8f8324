"""Arrays say who wrote them; histories survive their writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmlease.verification import contents
from shmlease.verification.history import Scribe, read_history
from shmlease.verification.operations import Call, Note

STAMP = 0x0001_0002_0000_0003


def test_an_array_is_known_by_its_stamp() -> None:
    array = contents.array_of(STAMP, 1000)
    assert contents.stamp_of(array) == STAMP
    assert contents.flaw(array, STAMP) == ""
    other = np.empty_like(array)
    contents.write(other, STAMP)
    assert np.array_equal(other, array)


@pytest.mark.parametrize("position", [0, 1, 999])
def test_one_wrong_word_is_found(position: int) -> None:
    array = contents.array_of(STAMP, 1000)
    array[position] = contents.array_of(STAMP + 1, 1000)[position]
    assert contents.flaw(array, STAMP) == f"1 of 1000 words are not {STAMP:#x}'s; word {position} is {STAMP + 1:#x}'s"


LAYOUTS: dict[str, dict[str, Any]] = {
    "nothing": {"shape": 0, "dtype": "u1"},
    "less than a word": {"shape": 5, "dtype": "u1"},
    "columns first": {"shape": (3, 7), "dtype": "i2", "order": "F"},
    "records with padding": {"shape": 3, "dtype": np.dtype([("a", "u1"), ("b", "f8", 2), ("c", "S3")], align=True)},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_byte_of_any_array_counts(layout: dict[str, Any]) -> None:
    array = np.empty(**layout)
    contents.write(array, STAMP)
    assert contents.flaw(array, STAMP) == ""
    assert contents.checksum_of(array) == contents.checksum(STAMP, array.nbytes)
    assert contents.stamp_of(array) == (STAMP if array.nbytes >= 8 else 0)
    memory = (array.T if array.flags.f_contiguous else array).reshape(-1).view("u1") if array.nbytes else array
    for position in range(array.nbytes):
        memory[position] ^= 1
        assert contents.flaw(array, STAMP), f"byte {position} is wrong and was not found"
        memory[position] ^= 1


def test_words_at_another_place_are_found() -> None:
    assert "999 of 1000" in contents.flaw(np.resize(contents.array_of(STAMP, 1), 1000), STAMP)


def test_a_call_that_was_cut_short_is_distinguished_from_one_that_ended(tmp_path: Path) -> None:
    scribe = Scribe(f"{tmp_path}/0.0")
    scribe.end(scribe.begin(Note(Call.LEASE, 1)))
    scribe.end(scribe.begin(Note(Call.REDEEM, 2, "t")), ValueError("no"))
    scribe.begin(Note(Call.PUBLISH, 3))
    scribe.close()
    with (tmp_path / "0.0").open("ab") as file:
        file.write(b'["release",1')  # killed in the middle of a line
    ended, refused, cut = read_history(str(tmp_path))
    assert ended.is_finished
    assert refused.is_finished
    assert (refused.act.outcome, refused.act.detail) == ("ValueError", "no")
    assert not cut.is_finished
    assert cut.last_sign_ns == cut.act.begin_ns
