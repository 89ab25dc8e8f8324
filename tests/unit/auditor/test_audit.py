from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from waiting import BusyClock

from rig.until import until
from shmlease.auditor.audit import audit, begin_scope
from shmlease.auditor.judge.findings import Confidence, Creator, FileIdentity, Finding, Place, Report
from shmlease.auditor.judge.reconcile import DETECTORS
from shmlease.auditor.judge.rules import Severity
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.observe.observer import Observer
from shmlease.errors import LeaseError, UnsupportedPlatformError


def look(shm: Path, **options: object) -> Report:
    """Audit the directory; blind spots are left out, for a directory's dark memory cannot be counted."""
    ignore = (*options.pop("ignore", ()), "blind")  # type: ignore[misc]
    return audit(paths=[str(shm)], ignore=ignore, **{"clock": BusyClock(), **options})  # type: ignore[arg-type]


def names(report: Report) -> list[str]:
    return [finding.name for finding in report.findings]


def test_directory_in_order_is_clean_and_needs_one_look(shm: Path) -> None:
    clock = BusyClock()
    (shm / "held").write_bytes(b"x")
    with open(shm / "held", "rb"):
        report = look(shm, clock=clock)
    assert report.is_clean
    assert clock.waits == []
    assert report.coverage.looked_at["files"] == 1
    assert report.environment.roots == (str(shm),)


def test_orphan_is_reported_after_three_looks(shm: Path) -> None:
    clock = BusyClock()
    (shm / "psm_1").write_bytes(b"x" * 5000)
    report = look(shm, clock=clock)
    (finding,) = report.findings
    assert (finding.rule, finding.size_bytes, finding.resident_bytes) == ("LH001", 5000, 8192)
    assert finding.identity is not None
    assert finding.identity.inode == (shm / "psm_1").stat().st_ino
    assert len(clock.waits) == 2
    assert report.exit_code() == 23
    assert [event.kind for event in report.events] == ["create"]


def test_file_that_somebody_opens_between_two_looks_is_no_orphan(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    opened: list[int] = []
    clock = BusyClock(lambda: opened.append(os.open(shm / "psm_1", os.O_RDONLY)))
    assert look(shm, clock=clock).is_clean
    os.close(opened[0])


def test_file_that_is_unlinked_between_two_looks_is_no_orphan(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    assert look(shm, clock=BusyClock((shm / "psm_1").unlink)).is_clean


def test_file_that_is_replaced_between_two_looks_is_no_orphan(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")

    def replace() -> None:
        (shm / "other").write_bytes(b"y")
        (shm / "other").rename(shm / "psm_1")

    assert look(shm, clock=BusyClock(replace)).is_clean


def test_looks_are_apart_in_time_even_if_a_look_takes_none(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")

    def waits_of_a_look() -> list[float]:
        clock = BusyClock()
        look(shm, clock=clock)
        return clock.waits

    # on a busy machine a look may take so long that there is nothing left to wait for
    first, second = until(lambda: (waits := waits_of_a_look())[1:] and waits, what="a look that takes no time")
    assert 0 < first <= 0.02
    assert 0.02 < second <= 0.08


def test_memory_unlinked_and_mapped_by_this_process_is_reported(shm: Path) -> None:
    path = shm / "gone"
    path.write_bytes(b"x" * 8192)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0):
        path.unlink()
        (finding,) = look(shm).findings
        assert (finding.rule, finding.name, finding.resident_bytes) == ("LH003", "gone", 8192)
        assert [holder.pid for holder in finding.holders] == [os.getpid()]
        assert "mapped, descriptor" in finding.evidence[0].text


def test_orphans_beside_another_finding_are_confirmed_by_the_kernel_alone(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detected: list[str] = []
    (orphan,) = DETECTORS["LH001"]
    monkeypatch.setitem(DETECTORS, "LH001", (lambda indexed: (detected.append("LH001"), orphan(indexed))[1],))
    for name in ("psm_1", "psm_2"):
        (shm / name).write_bytes(b"x")
    path = shm / "gone"
    path.write_bytes(b"x" * 8192)
    opened: list[int] = []
    clock = BusyClock(lambda: opened.append(os.open(shm / "psm_2", os.O_RDONLY)))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0):
        path.unlink()
        report = look(shm, clock=clock)
    os.close(opened[0])
    assert sorted((finding.rule, finding.name) for finding in report.findings) == [("LH001", "psm_1"), ("LH003", "gone")]
    assert detected == ["LH001"]


def test_memory_that_is_let_go_between_two_looks_is_no_leak(shm: Path) -> None:
    path = shm / "gone"
    path.write_bytes(b"x")
    descriptor = os.open(path, os.O_RDONLY)
    path.unlink()
    assert look(shm, clock=BusyClock(lambda: os.close(descriptor))).is_clean


def test_suppressed_finding_costs_no_second_look(shm: Path) -> None:
    (shm / "cache-1").write_bytes(b"x")
    clock = BusyClock()
    report = look(shm, clock=clock, suppressions=[Suppression("kept by design", "orphan", "cache-*")])
    assert report.is_clean
    assert clock.waits == []
    assert [one.finding.name for one in report.suppressed] == ["cache-1"]
    assert report.suppressions[0].uses == 1


def test_shipped_suppressions_can_be_left_out(shm: Path) -> None:
    (shm / "sem.lock").write_bytes(b"x")
    assert look(shm).is_clean
    assert names(look(shm, default_suppressions=False)) == ["sem.lock"]


def test_rules_are_chosen_by_id_or_name(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    (shm / "psm_2").write_bytes(b"")
    assert names(look(shm, rules=["orphan"])) == ["psm_1"]
    assert names(look(shm, ignore=["LH001"])) == ["psm_2"]
    assert names(look(shm, rules=["LH001"], ignore=["orphan"])) == []


def test_rule_that_does_not_exist_is_reported_with_those_that_do(shm: Path) -> None:
    with pytest.raises(
        LeaseError, match=r"there is no rule 'orphans'; did you mean orphan \(LH001\)\? the rules are LH001 orphan"
    ):
        look(shm, rules=["orphans"])


def test_duration_that_is_none_is_reported(shm: Path) -> None:
    with pytest.raises(ValueError, match="'long' is not a duration"):
        look(shm, overdue_after="long")


def test_directory_that_does_not_exist_is_reported() -> None:
    with pytest.raises(UnsupportedPlatformError, match="/dev/shm/nowhere cannot be audited"):
        audit(paths=["/dev/shm/nowhere"])


def test_scope_leaves_out_what_was_there_before(shm: Path) -> None:
    (shm / "old").write_bytes(b"x")
    scope = begin_scope("the test", paths=[str(shm)])
    (shm / "new").write_bytes(b"x")
    (shm / "in use").write_bytes(b"x")
    with open(shm / "in use", "rb"):
        report = look(shm, scope=scope)
    assert [(finding.rule, finding.name) for finding in report.findings] == [("LH001", "new"), ("LH009", "in use")]


def test_findings_made_elsewhere_are_ranked_chosen_and_set_aside_like_the_rest(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    reaped = Finding.of("LH015", "x", name="psm_0")
    assert names(look(shm, also=[reaped])) == ["psm_1", "psm_0"]
    assert names(look(shm, also=[reaped], ignore=["LH015"])) == ["psm_1"]
    report = look(shm, also=[reaped], suppressions=[Suppression("why", "LH015")])
    assert names(report) == ["psm_1"]
    assert [one.finding for one in report.suppressed] == [reaped]


def test_recorded_creator_is_reported(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    (file,) = Observer((str(shm),)).observe().evidence.files.values()
    creator = Creator(7, place=Place("job.py", 3))
    assert look(shm, creators={file.identity: creator}).findings[0].creator == creator
    assert look(shm, creators={FileIdentity(1, 2, 3): creator}).findings[0].creator is None


def test_errors_come_first_and_large_ones_before_small(shm: Path) -> None:
    (shm / "small").write_bytes(b"x")
    (shm / "large").write_bytes(b"x" * 100_000)
    warning = Finding.of("LH015", "x", name="w")
    note = Finding.of("LH012", "x", name="n", severity=Severity.NOTE)
    assert names(look(shm, also=[note, warning])) == ["large", "small", "w", "n"]


def test_report_of_a_real_audit_comes_back_from_json(shm: Path) -> None:
    os.close(os.open(os.fsencode(shm) + b"/\xff\n", os.O_CREAT, 0o600))
    (shm / "psm_1").write_bytes(b"x")
    report = look(shm)
    assert Report.from_json(report.to_json()) == report
    assert {finding.confidence for finding in report.findings} == {Confidence.PROVED}


def test_file_that_somebody_keeps_is_reported_as_one(shm: Path) -> None:
    (shm / "dataset.h5").write_bytes(b"x")
    (shm / "psm_1").write_bytes(b"x")
    kept, segment = sorted(look(shm).findings, key=lambda finding: finding.name)
    assert kept.confidence is Confidence.LIKELY
    assert kept.message.endswith("has no holder; it looks like a file that somebody keeps there: its name ends in .h5")
    assert "leaves it alone unless you give its path" in kept.remedy
    assert segment.confidence is Confidence.PROVED
    assert "keeps" not in segment.message
