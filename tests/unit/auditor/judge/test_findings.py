from __future__ import annotations

import re

import msgspec
import pytest

from shmlease.auditor.judge.findings import (
    Confidence,
    Coverage,
    Creator,
    Environment,
    Event,
    Fact,
    FileIdentity,
    Finding,
    Gap,
    Place,
    Process,
    Report,
    Suppressed,
    SuppressionUse,
    stable_name,
)
from shmlease.auditor.judge.reconcile import DETECTORS
from shmlease.auditor.judge.rules import RULES, Severity, rule_of
from shmlease.errors import ProtocolError

LEAK = Finding.of("LH001", "psm_4f2a has no holder", name="psm_4f2a")
WHOLE = Finding.of(
    "LH003",
    "x was unlinked",
    name="x",
    path="/dev/shm/x",
    label="calls/chr1",
    confidence=Confidence.LIKELY,
    identity=FileIdentity(1, 2, 3),
    size_bytes=10,
    resident_bytes=20,
    creator=Creator(7, 8, "python job.py", Place("job.py", 3, "main"), (Place("job.py", 1),), "tests/test_x.py::test_y"),
    holders=(Process(9, 10, "python"),),
    registry="abc",
    evidence=(Fact("seen", "/proc"),),
)


def test_report_comes_back_from_json_equal() -> None:
    report = Report(
        (LEAK, WHOLE),
        Coverage({"files": 3}, (Gap("x", "closed", blinding=False, source="/proc"),)),
        (Suppressed(LEAK, "by design", "default"),),
        (SuppressionUse("by design", "default", uses=1),),
        Environment("0.1", roots=("/dev/shm",)),
        (Event(1, "create", "x", pid=7),),
    )
    assert Report.from_json(report.to_json()) == report


def test_json_of_a_report_has_the_fingerprints_of_its_findings() -> None:
    rows = msgspec.json.decode(Report((LEAK,)).to_json())
    assert rows["findings"][0]["fingerprint"] == LEAK.fingerprint


def test_text_that_is_no_report_is_refused_with_what_was_expected() -> None:
    with pytest.raises(ProtocolError, match="expected the output of `shmlease audit --json`"):
        Report.from_json(b"{}x")


def test_report_of_a_later_format_is_refused() -> None:
    with pytest.raises(ProtocolError, match="format 2; this version reads format 1"):
        Report.from_json(Report(format=2).to_json())


@pytest.mark.parametrize(
    ("findings", "gaps", "strict", "code"),
    [
        ((), (), False, 0),
        ((LEAK,), (), False, 23),
        ((LEAK,), (Gap("x", "y"),), True, 23),
        ((), (Gap("x", "y"),), False, 0),
        ((), (Gap("x", "y"),), True, 125),
        ((), (Gap("x", "y", blinding=False),), True, 0),
    ],
)
def test_exit_code_tells_leaks_from_blindness(
    findings: tuple[Finding, ...], gaps: tuple[Gap, ...], strict: bool, code: int
) -> None:
    assert Report(findings, Coverage(gaps=gaps)).exit_code(strict=strict) == code


def test_notes_and_mere_suspicions_are_no_leaks() -> None:
    note = Finding.of("LH012", "x", name="x", severity=Severity.NOTE)
    suspicion = Finding.of("LH004", "x", name="x", confidence=Confidence.UNKNOWN)
    likely = Finding.of("LH004", "x", name="x", confidence=Confidence.LIKELY)
    assert Report((note, suspicion, likely)).leaks == (likely,)


def test_finding_takes_severity_and_remedy_from_its_rule() -> None:
    assert LEAK.severity is Severity.ERROR
    assert LEAK.remedy == RULES["LH001"].remedy


def test_fingerprint_is_of_the_place_and_not_of_the_name() -> None:
    made = Creator(place=Place("job.py", 3, "main"))
    one = Finding.of("LH001", "x", name="psm_aaaa1111", creator=made)
    moved = Finding.of("LH001", "x", name="psm_bbbb2222", creator=Creator(place=Place("job.py", 99, "main")))
    elsewhere = Finding.of("LH001", "x", name="psm_aaaa1111", creator=Creator(place=Place("other.py", 3, "main")))
    other_rule = Finding.of("LH005", "x", name="psm_aaaa1111", creator=made)
    assert one.fingerprint == moved.fingerprint
    assert len({one.fingerprint, elsewhere.fingerprint, other_rule.fingerprint}) == 3


def test_fingerprint_without_a_place_leaves_out_what_is_random_in_the_name() -> None:
    first, second = (Finding.of("LH001", "x", name=f"psm_{token}") for token in ("4f2a8b1c", "deadbeef"))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != Finding.of("LH001", "x", name="frames").fingerprint


@pytest.mark.parametrize(
    ("name", "stable"),
    [
        ("psm_4f2a8b1c", "psm_*"),
        ("psm_deadbeef", "psm_*"),
        ("sem.mp-abcdefg_", "sem.mp-*"),
        ("pym-4393-abc1xyz_", "pym-*"),
        ("torch_2929_3829_0", "torch_*"),
        ("shmlease-ab12cd34/s3", "shmlease-*/*"),
        ("joblib_memmapping_folder_2133_aab3/2-33.pkl", "joblib_memmapping_folder_*/*.pkl"),
        ("__KMP_REGISTERED_LIB_2133", "__KMP_REGISTERED_LIB_*"),
        ("tmp8zk1_q2x", "tmp*"),
        ("frames", "frames"),
        ("my_segment", "my_segment"),
        ("template_x", "template_x"),
    ],
)
def test_random_parts_of_a_name_are_starred(name: str, stable: str) -> None:
    assert stable_name(name) == stable


def test_findings_and_events_are_added_in_the_order_of_time() -> None:
    report = Report((LEAK,), events=(Event(5, "create"),)).adding([WHOLE], [Event(1, "begin"), Event(9, "end")])
    assert report.findings == (LEAK, WHOLE)
    assert [event.at_ns for event in report.events] == [1, 5, 9]


def test_rule_ids_are_in_order_and_names_are_words() -> None:
    assert list(RULES) == [f"LH{number:03}" for number in range(1, len(RULES) + 1)]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name) for rule in RULES.values())
    assert all(rule.description.endswith(".") and not rule.remedy.endswith(".") for rule in RULES.values())


def test_rule_is_found_by_id_and_by_name() -> None:
    assert rule_of("lh001") is rule_of("orphan") is RULES["LH001"]
    assert rule_of("LH999") is None


def test_every_rule_has_a_detector_but_the_one_of_shmlease_run() -> None:
    assert set(RULES) - set(DETECTORS) == {"LH015"}
