from __future__ import annotations

import pytest

from shmlease.auditor.judge.findings import Coverage, Creator, Event, Finding, Gap, Place, Process, Report
from shmlease.auditor.judge.printable import encodable, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("psm_1", "psm_1"),
        ("Größe", "Größe"),
        ("a\udcffb", r"a\xffb"),
        ("a\ud800b", r"a\ud800b"),
        ("a\x1b\n", "a\x1b\n"),
    ],
)
def test_bytes_that_are_no_text_are_escaped(text: str, shown: str) -> None:
    assert encodable(text) == shown


def test_nothing_that_steers_a_terminal_is_printed() -> None:
    assert printable("a\x1b[31m\n\udcff\x9b ä") == r"a\x1b[31m\x0a\xff\x9b ä"


def test_report_is_legible_throughout() -> None:
    bad = "x\udcff"
    creator = Creator(1, command=bad, place=Place(bad, 1, bad), stack=(Place(bad, 1),), test=bad)
    finding = Finding.of("LH001", "gone", name="plain", subject=bad, creator=creator, holders=(Process(1, 2, bad),))
    report = Report((finding,), Coverage({bad: 1}, (Gap(bad, bad),)), events=(Event(1, "create", bad, bad),))
    assert len(report.findings[0].fingerprint) == 32
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.findings[0].creator is not None
    assert again.findings[0].creator.command == again.events[0].segment == again.coverage.gaps[0].what == r"x\xff"
    assert report.adding(events=[Event(2, "exit", bad)]).events[1].segment == r"x\xff"
