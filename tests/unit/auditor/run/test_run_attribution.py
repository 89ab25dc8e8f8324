from __future__ import annotations

from typing import Any

import pytest

from shmlease.auditor.judge.findings import Confidence, Creator, Finding, Process
from shmlease.auditor.judge.rules import Severity
from shmlease.auditor.run.attribution import attributed

MEMBER, STRANGER, DEAD = Process(10), Process(20), Process(30)


def is_member(process: Process) -> bool | None:
    return {10: True, 20: False, 30: None}[process.pid]


def finding(**fields: Any) -> Finding:
    return Finding.of("LH001", "something", name="psm_1", **fields)


def answered(one: Finding, *, made: bool = False, unknown: Confidence | None = Confidence.LIKELY) -> tuple[Finding, ...]:
    return attributed([one], lambda _: made, is_member, unknown=unknown)


def test_family_answers_for_what_it_was_recorded_making() -> None:
    one = finding(creator=Creator(pid=30), holders=(STRANGER,))
    assert answered(one, made=True) == (one,)


def test_family_answers_for_what_it_holds() -> None:
    one = finding(holders=(STRANGER, MEMBER))
    assert answered(one) == (one,)


def test_what_only_strangers_hold_is_theirs() -> None:
    assert answered(finding(holders=(STRANGER,))) == ()


def test_what_a_living_stranger_made_is_his() -> None:
    assert answered(finding(creator=Creator(pid=20))) == ()


@pytest.mark.parametrize("creator", [None, Creator(), Creator(pid=30)])
def test_what_nobody_is_known_to_have_made_is_likely_the_family_s(creator: Creator | None) -> None:
    (one,) = answered(finding(creator=creator))
    assert one.confidence is Confidence.LIKELY
    assert "creator is unknown" in one.evidence[-1].text
    assert one.is_leak


def test_what_nobody_is_known_to_have_made_can_be_told_without_counting() -> None:
    (one,) = answered(finding(), unknown=Confidence.UNKNOWN)
    assert not one.is_leak


def test_doubt_never_shrinks() -> None:
    (one,) = answered(finding(confidence=Confidence.UNKNOWN))
    assert one.confidence is Confidence.UNKNOWN


def test_what_nobody_is_known_to_have_made_can_be_left_out() -> None:
    assert answered(finding(), unknown=None) == ()


def test_notes_are_kept() -> None:
    one = finding(severity=Severity.NOTE, holders=(STRANGER,))
    assert answered(one) == (one,)
