"""System V, control groups, what was looked at, scopes, and the timeline."""

from __future__ import annotations

import pytest
from audit_evidence import NOW_NS, PAGE, UPTIME_NS, System, client, lease, process, segment
from msgspec.structs import replace

from shmlease.auditor.judge.detect_system import coverage_of
from shmlease.auditor.judge.evidence import Charge, LockState, Probe, SysVSegment
from shmlease.auditor.judge.findings import Confidence, Finding
from shmlease.auditor.judge.indexed_evidence import Limits, RegistryHealth, place_of
from shmlease.auditor.judge.reconcile import confirmed, scope_of, still_free
from shmlease.auditor.judge.timeline import events_of
from shmlease.core.model import EventKind, EventRow, LeaseMode, LeaseState

NOW_S = NOW_NS // 1_000_000_000


@pytest.fixture
def system() -> System:
    return System()


def sysv(**changes: object) -> SysVSegment:
    return SysVSegment(
        **{  # type: ignore[arg-type]
            "id": 3,
            "key": 0,
            "size_bytes": 2 * PAGE,
            "resident_bytes": PAGE,
            "creator_pid": 60,
            "attachments": 0,
            "uid": 1000,
            "changed_s": NOW_S,
            "is_condemned": False,
            **changes,
        }
    )


def test_system_v_segment_of_a_dead_creator_without_attachment_is_a_leak(system: System) -> None:
    system.change(sysv=(sysv(),))
    (finding,) = system.findings()
    assert (finding.rule, finding.name, finding.confidence) == ("LH014", "sysv:3", Confidence.PROVED)
    assert (finding.size_bytes, finding.resident_bytes) == (2 * PAGE, PAGE)
    assert "ipcrm -m 3" in finding.remedy


@pytest.mark.parametrize("changes", [{"attachments": 1}, {"is_condemned": True}])
def test_system_v_segment_in_use_or_about_to_go_is_in_order(system: System, changes: dict[str, object]) -> None:
    system.change(sysv=(sysv(**changes),))
    assert system.findings() == []


def test_system_v_segment_of_a_living_creator_is_in_order(system: System) -> None:
    system.run(process(60))
    system.change(sysv=(sysv(),))
    assert system.findings() == []


def test_system_v_creator_whose_pid_was_reused_is_dead(system: System) -> None:
    uptime_ticks = UPTIME_NS // 10_000_000
    system.run(process(60, start=uptime_ticks, command="another"))
    system.change(sysv=(sysv(changed_s=NOW_S - 100),))
    (finding,) = system.findings()
    assert "is now another, which started later" in finding.evidence[1].text


@pytest.mark.parametrize("changes", [{"creator_pid": 0}, {"uid": 33}])
def test_system_v_creator_that_cannot_be_seen_is_unknown(system: System, changes: dict[str, object]) -> None:
    system.change(sysv=(sysv(**changes),), hides_processes=True)
    (finding,) = system.findings()
    assert finding.confidence is Confidence.UNKNOWN
    assert not finding.is_leak


def test_charge_of_an_empty_group_is_a_note(system: System) -> None:
    charge = Charge("/job", PAGE, "/sys/fs/cgroup/memory/job/memory.stat")
    system.change(charges=(charge,), pid_namespace=4026532000)
    (finding,) = system.findings()
    assert (finding.rule, finding.name, finding.is_leak) == ("LH017", "/job", False)
    assert finding.confidence is Confidence.UNKNOWN, "this pid namespace need not show every process"


@pytest.mark.parametrize(
    "changes", [{"pid_namespace": 4026531836}, {"pid_namespace": 7}], ids=["all are seen", "the kernel says so"]
)
def test_group_that_is_empty_for_sure_is_proved_to_be(system: System, changes: dict[str, object]) -> None:
    charge = Charge("/job", PAGE, "/sys/fs/cgroup/job/memory.stat", is_empty=changes == {"pid_namespace": 7})
    system.change(charges=(charge,), **changes)
    (finding,) = system.findings()
    assert finding.confidence is Confidence.PROVED


def test_coverage_counts_what_was_looked_at(system: System) -> None:
    system.file("a", probe=Probe.HELD)
    system.registry(segments=[segment(1)], clients=[client(1, 60)], leases=[lease(1, 1, 1)])
    looked_at = coverage_of(system.indexed()).looked_at
    assert (looked_at["files"], looked_at["bytes"], looked_at["lease probes"]) == (1, PAGE, 1)
    assert (looked_at["registries"], looked_at["leases"], looked_at["processes"]) == (1, 1, 1)


def test_finding_is_confirmed_by_the_subject_and_not_by_its_words() -> None:
    first = Finding.of("LH001", "a is 1 s old", name="a", subject="file:1:2")
    later = Finding.of("LH001", "a is 2 s old", name="a", subject="file:1:2")
    assert confirmed([first], [later]) == (later,)
    assert confirmed([replace(first, subject="file:1:3")], [later]) == ()
    assert confirmed([replace(first, rule="LH005")], [later]) == ()


def test_files_that_are_no_longer_free_are_dropped_and_other_findings_stay(system: System) -> None:
    system.file("a", probe=Probe.FREE)
    key = system.file("b", probe=Probe.FREE)
    indexed = system.indexed()
    findings = (*system.findings(), Finding.of("LH014", "c", name="c"))
    indexed.answer({**indexed.evidence.probes, key: (Probe.HELD, "")}, (), 0)
    assert [finding.name for finding in still_free(indexed, findings)] == ["a", "c"]


def test_scope_knows_everything_that_is_there(system: System) -> None:
    system.file("orphan", probe=Probe.FREE)
    system.hold(system.file("held"), 7)
    system.unlinked(7)
    system.usage(10 * PAGE)
    system.change(sysv=(sysv(),), charges=(Charge("/job", PAGE, ""),))
    system.registry(
        lock=LockState.HELD,
        segments=[segment(1)],
        clients=[client(1, 60)],
        leases=[lease(1, 1, 1)],
        events=[EventRow(1, 0, EventKind.TICKET_EXPIRED)],
    )
    assert system.findings() != []
    assert system.findings(Limits(scope=scope_of(system.indexed(), "the test"))) == []


def test_segment_granted_ahead_is_new_once_it_is_claimed(system: System) -> None:
    spare = lease(1, 1, 1, state=LeaseState.RESERVED)
    system.registry(segments=[segment(1)], clients=[client(1, 60)], leases=[spare])
    assert f"lease:abc:{spare.id}" not in scope_of(system.indexed(), "the test").subjects


def test_registry_whose_lock_could_not_be_asked_is_unclear(system: System) -> None:
    system.registry(lock=LockState.UNKNOWN)
    assert system.indexed().health(system.evidence.registries[0]) is RegistryHealth.UNCLEAR


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("app/job.py:12 in main", ("app/job.py", 12, "main")),
        ("job.py:3", ("job.py", 3, "")),
        ("with blanks:and colons.py:7 in <module>", ("with blanks:and colons.py", 7, "<module>")),
    ],
)
def test_site_of_a_lease_is_a_place(site: str, expected: tuple[str, int, str]) -> None:
    place = place_of(site)
    assert place is not None
    assert (place.file, place.line, place.function) == expected


def test_site_that_is_no_place_is_none() -> None:
    assert place_of("") is None
    assert place_of("unknown") is None


def test_every_kind_of_logged_event_has_a_place_on_the_timeline(system: System) -> None:
    system.registry(events=[EventRow(i, UPTIME_NS, kind) for i, kind in enumerate(EventKind)])
    events = events_of(system.indexed(), ())
    assert len(events) == len(EventKind)
    assert "note" not in {event.kind for event in events}
    assert {event.at_ns for event in events} == {NOW_NS}


def test_lease_has_its_own_lane_on_the_timeline(system: System) -> None:
    held = lease(1, 1, 1, mode=LeaseMode.READ)
    system.registry(segments=[segment(1, created_ns=5, published_ns=9, creator=1)], clients=[client(1, 60)], leases=[held])
    kinds = [(event.kind, event.segment, event.pid) for event in events_of(system.indexed(), ())]
    assert kinds == [
        ("create", "shmlease-abc/s1", 60),
        ("publish", "shmlease-abc/s1", 60),
        ("attach", "shmlease-abc/s1", 60),
    ]
    assert events_of(system.indexed(), ())[2].lease == f"abc:{held.id:x}"
