from __future__ import annotations

from pathlib import Path

import pytest

from shmlease.auditor.baseline import read_baseline, write_baseline
from shmlease.auditor.judge.findings import Finding, Report
from shmlease.auditor.judge.rules import Severity
from shmlease.errors import LeaseError


def leak(name: str, rule: str = "LH001") -> Finding:
    return Finding.of(rule, "x", name=name)


def test_baseline_comes_back_with_the_number_of_each_leak(tmp_path: Path) -> None:
    path = str(tmp_path / "leaks.json")
    report = Report((leak("psm_1"), leak("psm_2"), leak("frames")))
    assert write_baseline(path, report) == 3
    assert read_baseline(path).known == {leak("psm_9").fingerprint: 2, leak("frames").fingerprint: 1}


def test_baseline_does_not_change_when_the_leaks_do_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write_baseline(str(first), Report((leak("psm_1a2b"), leak("frames"))))
    write_baseline(str(second), Report((leak("frames"), leak("psm_3c4d"))))
    assert first.read_bytes() == second.read_bytes()


def test_notes_are_not_written(tmp_path: Path) -> None:
    note = Finding.of("LH012", "x", name="x", severity=Severity.NOTE)
    assert write_baseline(str(tmp_path / "leaks.json"), Report((note,))) == 0


def test_missing_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match=r"`shmlease audit --write-baseline .*leaks.json` creates one"):
        read_baseline(str(tmp_path / "leaks.json"))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1}', '{"format": 1, "findings": [{"rule": "x"}]}', '{"format": 2, "findings": []}']
)
def test_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "leaks.json"
    path.write_text(text)
    with pytest.raises(LeaseError, match="baseline"):
        read_baseline(str(path))


def test_baseline_that_cannot_be_written_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match=r"cannot write .*there is no directory"):
        write_baseline(str(tmp_path / "no" / "leaks.json"), Report())
    assert list(tmp_path.iterdir()) == []


def test_baseline_without_end_is_an_error() -> None:
    with pytest.raises(LeaseError, match="it holds more than 64 MiB"):
        read_baseline("/dev/zero")
