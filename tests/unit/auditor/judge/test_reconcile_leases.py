"""Lease tables against what there is."""

from __future__ import annotations

import msgspec
import pytest
from audit_evidence import PAGE, UPTIME_NS, System, client, identity, lease, process, segment

from shmlease.auditor.judge.evidence import LockState, Probe, Scope
from shmlease.auditor.judge.findings import Confidence
from shmlease.auditor.judge.indexed_evidence import Limits
from shmlease.auditor.judge.rules import Severity
from shmlease.core.model import (
    ClientState,
    EventKind,
    EventRow,
    LeaseState,
    SegmentState,
    TicketRow,
)

SECOND = 1_000_000_000
REGISTRY, WRITER, STRANGER = 50, 60, 70


@pytest.fixture
def system() -> System:
    system = System()
    system.run(process(REGISTRY), process(WRITER), process(STRANGER))
    return system


def with_lease(system: System, **options: object) -> tuple[int, int]:
    """A registry with one segment, leased to a process that lives; returns the key of its file."""
    lease_options = {name: options.pop(name) for name in ("mode", "state", "due_ns", "granted_ns") if name in options}
    row = options.pop("segment", segment(1, creator=1))
    key = system.file("shmlease-abc/s1", aliases=("shmlease-abc-1",))
    system.registry(segments=[row], clients=[client(1, WRITER)], leases=[lease(1, 1, 1, **lease_options)], **options)  # type: ignore[arg-type]
    return key


def test_registry_in_order_has_no_findings(system: System) -> None:
    key = with_lease(system)
    system.hold(key, WRITER)
    assert system.findings() == []


def test_warm_segment_has_no_holder_by_design(system: System) -> None:
    system.file("shmlease-abc/s1", probe=Probe.FREE)
    system.file("shmlease-abc/ledger", probe=Probe.FREE)
    system.registry(segments=[segment(1, state=SegmentState.WARM)])
    assert system.indexed().suspects == ()
    assert system.findings() == []


def test_registries_of_one_id_in_two_directories_are_not_mixed_up(system: System) -> None:
    system.file("shmlease-abc/s1", probe=Probe.FREE)
    system.file("inner/shmlease-abc/s1", probe=Probe.FREE)
    system.registry(segments=[segment(1, state=SegmentState.WARM)])
    system.registry(path="/dev/shm/inner/shmlease-abc")
    assert [finding.path for finding in system.findings()] == ["/dev/shm/inner/shmlease-abc/s1"]


def test_client_keeps_mappings_of_segments_it_has_released(system: System) -> None:
    key = system.file("shmlease-abc/s1")
    system.hold(key, WRITER)
    system.registry(segments=[segment(1, state=SegmentState.WARM)], clients=[client(1, WRITER)])
    assert system.findings() == []


def test_file_that_a_living_registry_does_not_know_is_an_orphan(system: System) -> None:
    system.file("shmlease-abc/s9", probe=Probe.FREE)
    system.registry()
    assert system.rules() == ["LH001"]


def test_stranger_that_maps_a_segment_holds_it_without_a_lease(system: System) -> None:
    key = with_lease(system)
    system.hold(key, WRITER)
    system.hold(key, STRANGER, at=(0x9000,))
    (finding,) = system.findings()
    assert (finding.rule, finding.severity) == ("LH002", Severity.WARNING)
    assert [holder.pid for holder in finding.holders] == [STRANGER]
    assert finding.creator is not None
    assert str(finding.creator.place) == "app/job.py:12 in main"


def test_stranger_who_was_given_the_os_name_is_reported_in_a_note(system: System) -> None:
    key = with_lease(system, segment=segment(1, creator=1, exposed=True, alias="shmlease-abc-1"))
    system.hold(key, STRANGER, at=(0x9000,))
    (finding,) = system.findings()
    assert (finding.rule, finding.severity, finding.name) == ("LH002", Severity.NOTE, "shmlease-abc-1")


def test_forked_child_has_its_parents_mapping_while_that_is_leased(system: System) -> None:
    key = with_lease(system)
    system.run(process(61, parent=WRITER), process(62, parent=61))
    for pid in (WRITER, 61, 62):
        system.hold(key, pid, at=(0x7000,))
    assert system.findings() == []


def test_child_that_maps_a_segment_by_itself_is_a_stranger(system: System) -> None:
    key = with_lease(system)
    system.run(process(61, parent=WRITER))
    system.hold(key, WRITER, at=(0x7000,))
    system.hold(key, 61, at=(0x8000,))
    assert system.rules() == ["LH002"]


def test_inherited_mapping_is_not_excused_once_the_segment_is_free(system: System) -> None:
    key = system.file("shmlease-abc/s1")
    system.run(process(61, parent=WRITER))
    system.hold(key, WRITER)
    system.hold(key, 61)
    system.registry(segments=[segment(1, state=SegmentState.WARM)], clients=[client(1, WRITER)])
    assert system.rules() == ["LH002"]


def test_pid_reused_by_a_stranger_is_not_the_client(system: System) -> None:
    key = system.file("shmlease-abc/s1")
    system.run(process(WRITER, start=999))
    system.hold(key, WRITER)
    system.registry(segments=[segment(1)], clients=[client(1, WRITER)])
    assert "LH002" in system.rules()


def test_clients_of_another_pid_namespace_are_not_judged(system: System) -> None:
    key = system.file("shmlease-abc/s1")
    system.hold(key, STRANGER)
    system.registry(segments=[segment(1)], clients=[client(1, 3, namespace=77)], leases=[lease(1, 1, 1)])
    assert system.findings() == []


def test_lease_of_a_dead_process_is_stale(system: System) -> None:
    system.file("shmlease-abc/s1")
    system.registry(segments=[segment(1)], clients=[client(1, 61)], leases=[lease(1, 1, 1)])
    (finding,) = [one for one in system.findings() if one.rule == "LH006"]
    assert "pid 61 (python 61.py), which is dead" in finding.message


def test_lease_is_stale_also_when_the_pid_lives_again(system: System) -> None:
    system.file("shmlease-abc/s1")
    system.run(process(61, start=999, command="another"))
    system.registry(segments=[segment(1)], clients=[client(1, 61)], leases=[lease(1, 1, 1)])
    (finding,) = [one for one in system.findings() if one.rule == "LH006"]
    assert "another process now (another)" in finding.evidence[0].text


def test_holder_of_an_earlier_boot_is_dead(system: System) -> None:
    assert system.evidence.is_dead(identity(WRITER, boot="an-earlier-boot"))


def test_holder_that_is_merely_not_listed_counts_as_alive(system: System) -> None:
    system.change(hides_processes=True, user_id=1001)
    assert not system.evidence.is_dead(identity(61))


def test_registry_whose_lock_is_free_and_whose_process_is_dead_is_dead(system: System) -> None:
    system.file("shmlease-abc/s1", size=3 * PAGE)
    system.file("shmlease-abc/ledger")
    system.registry(served_by=51, lock=LockState.FREE, segments=[segment(1)], clients=[client(1, 61)])
    (finding,) = system.findings()
    assert (finding.rule, finding.confidence, finding.name) == ("LH007", Confidence.PROVED, "shmlease-abc")
    assert finding.is_leak
    assert finding.resident_bytes == 4 * PAGE
    assert "1 segment " in finding.message


def test_dead_registry_with_a_living_client_may_be_succeeded(system: System) -> None:
    system.registry(served_by=51, lock=LockState.FREE, clients=[client(1, WRITER)])
    (finding,) = system.findings()
    assert (finding.rule, finding.confidence, finding.is_leak) == ("LH007", Confidence.LIKELY, False)
    assert "will start a successor" in finding.message
    assert [holder.pid for holder in finding.holders] == [WRITER]


def test_dead_registry_with_a_living_owner_may_be_succeeded(system: System) -> None:
    system.registry(served_by=51, lock=LockState.FREE, owner=WRITER)
    (finding,) = system.findings()
    assert (finding.confidence, finding.is_leak) == (Confidence.LIKELY, False)


def test_process_that_has_left_a_registry_does_not_succeed_it(system: System) -> None:
    system.registry(served_by=51, lock=LockState.FREE, clients=[client(1, WRITER, state=ClientState.ENDED)])
    assert system.findings()[0].confidence is Confidence.PROVED


@pytest.mark.parametrize("lock", [LockState.HELD, LockState.UNKNOWN])
def test_registry_is_not_dead_unless_its_lock_is_free(system: System, lock: LockState) -> None:
    system.registry(served_by=51, lock=lock)
    assert system.findings() == []


def test_registry_that_lives_without_its_lock_is_changing_hands(system: System) -> None:
    system.registry(lock=LockState.FREE)
    assert system.findings() == []


def test_directory_without_a_table_is_a_dead_registry(system: System) -> None:
    system.registry(lock=LockState.FREE, snapshot=None)
    assert system.rules() == ["LH007"]


def test_table_that_cannot_be_read_is_a_blind_spot(system: System) -> None:
    system.registry(snapshot=None, problem="a ledger begins with ...")
    (finding,) = system.findings()
    assert (finding.rule, finding.name) == ("LH016", "the lease table of registry abc")


def test_leased_segment_without_a_file_was_unlinked_too_early(system: System) -> None:
    system.registry(segments=[segment(1)], clients=[client(1, WRITER)], leases=[lease(1, 1, 1)], absent=[1])
    system.unlinked(WRITER, path="/dev/shm/shmlease-abc/s1")
    assert system.rules() == ["LH008"], "and not unlinked-but-held as well"


def test_registry_that_closes_unlinks_what_is_held(system: System) -> None:
    system.registry(segments=[segment(1)], clients=[client(1, WRITER)], leases=[lease(1, 1, 1)], absent=[1])
    (facts,) = system.evidence.registries
    assert facts.snapshot is not None
    assert facts.snapshot.registry is not None
    closing = msgspec.structs.replace(facts.snapshot.registry, closing=True)
    snapshot = msgspec.structs.replace(facts.snapshot, registry=closing)
    system.change(registries=(msgspec.structs.replace(facts, snapshot=snapshot),))
    assert system.findings() == []


def test_missing_file_that_the_registry_noticed_is_a_note(system: System) -> None:
    system.registry(events=[EventRow(3, UPTIME_NS - SECOND, EventKind.SEGMENT_MISSING, segment=1, detail="'calls'")])
    (finding,) = system.findings()
    assert (finding.rule, finding.severity) == ("LH008", Severity.NOTE)


def test_lease_is_overdue_after_what_its_holder_said(system: System) -> None:
    with_lease(system, due_ns=UPTIME_NS - 5 * SECOND)
    (finding,) = system.findings()
    assert finding.rule == "LH010"
    assert "5 s overdue" in finding.message


def test_lease_is_overdue_after_what_the_user_allows(system: System) -> None:
    with_lease(system, granted_ns=UPTIME_NS - 10 * SECOND)
    assert system.findings(Limits(overdue_after_ns=20 * SECOND)) == []
    assert system.rules(Limits(overdue_after_ns=5 * SECOND)) == ["LH010"]


@pytest.mark.parametrize("due_ns", [0, UPTIME_NS + SECOND])
def test_lease_that_is_not_due_is_in_order(system: System, due_ns: int) -> None:
    with_lease(system, due_ns=due_ns)
    assert system.findings() == []


def test_segment_granted_ahead_is_never_overdue(system: System) -> None:
    with_lease(system, state=LeaseState.RESERVED, due_ns=1)
    assert system.findings(Limits(overdue_after_ns=1)) == []


def test_view_that_outlives_its_lease_is_reported_with_its_place(system: System) -> None:
    with_lease(system, state=LeaseState.LINGERING, segment=segment(1, name="calls/chr1", creator=1))
    (finding,) = system.findings()
    assert (finding.rule, finding.label) == ("LH011", "calls/chr1")
    assert "app/job.py:12 in main" in finding.evidence[-1].text


def test_ticket_that_ran_out_is_a_note_once_its_registry_has_ended_it(system: System) -> None:
    system.registry(events=[EventRow(3, UPTIME_NS - SECOND, EventKind.TICKET_EXPIRED, segment=1)])
    (finding,) = system.findings()
    assert (finding.rule, finding.severity) == ("LH012", Severity.NOTE)


def test_ticket_that_ran_out_and_still_keeps_its_segment_is_a_leak(system: System) -> None:
    system.registry(segments=[segment(1)], tickets=[TicketRow(5, 1, 1, UPTIME_NS - 10 * SECOND)])
    (finding,) = system.findings()
    assert (finding.rule, finding.severity) == ("LH012", Severity.WARNING)


def test_ticket_that_ran_out_a_moment_ago_is_about_to_be_ended(system: System) -> None:
    system.registry(segments=[segment(1)], tickets=[TicketRow(5, 1, 1, UPTIME_NS - SECOND // 2)])
    assert system.findings() == []


def test_lease_taken_in_the_scope_and_held_after_it_outlives_it(system: System) -> None:
    with_lease(system)
    before = Limits(scope=Scope("the test", 0, {}))
    assert system.rules(before) == ["LH009"]
    known = Limits(scope=Scope("the test", 0, {f"lease:abc:{lease(1, 1, 1).id}": None}))
    assert system.findings(known) == []
