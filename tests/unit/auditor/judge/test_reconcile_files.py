"""Plain files: what is a leak, what is in use, and what cannot be told."""

from __future__ import annotations

import pytest
from audit_evidence import DEVICE, NOW_NS, PAGE, System, process

from shmlease.auditor.judge.detect_system import coverage_of
from shmlease.auditor.judge.evidence import Probe, Root, Scope
from shmlease.auditor.judge.findings import Confidence, Creator, Fact, FileIdentity, Place
from shmlease.auditor.judge.indexed_evidence import Limits, subject_of_file
from shmlease.auditor.judge.reconcile import DETECTORS, reconcile


@pytest.fixture
def system() -> System:
    return System()


def test_named_file_that_the_kernel_calls_free_is_an_orphan(system: System) -> None:
    system.file("psm_4f2a", size=8192, probe=Probe.FREE)
    (finding,) = system.findings()
    assert (finding.rule, finding.name, finding.confidence) == ("LH001", "psm_4f2a", Confidence.PROVED)
    assert (finding.size_bytes, finding.resident_bytes) == (8192, 8192)
    assert finding.path == "/dev/shm/psm_4f2a"
    assert finding.message == "psm_4f2a (8 KiB) has no holder"


@pytest.mark.parametrize("verdict", [Probe.HELD, Probe.GONE, Probe.UNKNOWN, None])
def test_file_is_no_orphan_unless_the_kernel_says_so(system: System, verdict: Probe | None) -> None:
    system.file("psm_4f2a", probe=verdict)
    assert "LH001" not in system.rules()


def test_file_with_a_visible_holder_is_not_even_asked_about(system: System) -> None:
    key = system.file("psm_4f2a")
    system.hold(key, 7)
    assert system.indexed().suspects == ()
    assert system.findings() == []


def test_file_that_cannot_be_asked_about_is_a_blind_spot(system: System) -> None:
    system.file("others", uid=33, probe=Probe.UNKNOWN)
    (finding,) = system.findings()
    assert (finding.rule, finding.confidence) == ("LH016", Confidence.UNKNOWN)
    assert "1 file of uid 33" in finding.message
    assert coverage_of(system.indexed()).is_blind


@pytest.mark.parametrize(("size", "resident"), [(0, 0), (4096, 0)])
def test_file_without_size_or_pages_is_half_created_and_no_orphan(system: System, size: int, resident: int) -> None:
    system.file("psm_4f2a", size=size, resident=resident, probe=Probe.FREE)
    assert system.rules() == ["LH005"]


def test_file_being_made_by_somebody_is_left_alone(system: System) -> None:
    system.hold(system.file("psm_4f2a", size=0, resident=0), 7)
    assert system.findings() == []


def test_unlinked_file_with_memory_is_reported_with_its_holders(system: System) -> None:
    system.run(process(7, command="python leak.py"))
    key = system.unlinked(7, path="/dev/shm/psm_1", resident=3 * PAGE)
    system.hold(key, 8, unlinked=True, path="/dev/shm/psm_1")
    (finding,) = system.findings()
    assert (finding.rule, finding.name, finding.resident_bytes) == ("LH003", "psm_1", 3 * PAGE)
    assert [holder.pid for holder in finding.holders] == [7, 8]
    assert "pid 7 (python leak.py) and 1 more" in finding.message


def test_unlinked_file_without_memory_is_no_leak(system: System) -> None:
    """Retired segments of a registry are punched empty, and stay mapped in the caches of its clients."""
    system.unlinked(7, path="/dev/shm/shmlease-abc/s3", resident=0)
    assert system.findings() == []


def test_unlinked_file_that_its_holder_never_touched_is_told_by_what_is_dark(system: System) -> None:
    system.unlinked(7, resident=0, exact=False)
    system.usage(0)
    assert system.findings() == [], "where nothing is dark, it has no memory"
    system.usage(PAGE)
    leak = next(finding for finding in system.findings() if finding.rule == "LH003")
    assert leak.confidence is Confidence.LIKELY
    assert "up to" in leak.message


def test_memory_on_another_device_is_not_in_shm(system: System) -> None:
    """A memfd and shared anonymous memory are always unlinked; they are on the kernel's own mount."""
    system.hold((1, 2695), 7, unlinked=True, path="/memfd:buffer")
    assert system.findings() == []


def test_unlinked_file_outside_of_the_directories_asked_for_is_left_out(system: System) -> None:
    part = Root("/dev/shm/mine", DEVICE, is_whole=False)
    system.change(roots=(part,))
    system.unlinked(7, path="/dev/shm/other")
    system.unlinked(7, path="/dev/shm/mine/x")
    (finding,) = system.findings()
    assert finding.name == "x"


def test_file_unlinked_after_it_was_listed_is_judged_at_the_next_look(system: System) -> None:
    key = system.file("psm_1")
    system.hold(key, 7, unlinked=True)
    assert system.findings() == []


def test_memory_that_nothing_visible_explains_is_dark(system: System) -> None:
    system.file("a", resident=2 * PAGE, size=2 * PAGE, probe=Probe.HELD)
    system.unlinked(7, resident=PAGE)
    system.usage(10 * PAGE)
    finding = next(finding for finding in system.findings() if finding.rule == "LH004")
    assert finding.resident_bytes == 7 * PAGE
    assert finding.confidence is Confidence.PROVED


def test_memory_that_is_explained_is_not_dark(system: System) -> None:
    system.file("a", resident=2 * PAGE, size=2 * PAGE, probe=Probe.HELD)
    system.unlinked(7, resident=PAGE)
    system.usage(3 * PAGE)
    assert system.rules() == ["LH003"]


def test_dark_memory_is_unproved_while_a_process_could_not_be_read(system: System) -> None:
    system.usage(PAGE)
    system.change(unreadable_processes=3)
    dark, blind = system.findings()
    assert (dark.rule, dark.confidence) == ("LH004", Confidence.UNKNOWN)
    assert not dark.is_leak
    assert blind.rule == "LH016"


def test_dark_memory_is_likely_where_a_descriptor_is_in_flight(system: System) -> None:
    system.usage(PAGE)
    system.change(unreadable_processes=3, in_transit=(Fact("pid 7 has 1 descriptor in flight", "/proc/7/fdinfo/3"),))
    dark = system.findings()[0]
    assert dark.confidence is Confidence.LIKELY
    assert "in flight" in dark.evidence[1].text


def test_unreadable_processes_blind_nobody_where_nothing_is_dark(system: System) -> None:
    system.usage(0)
    system.change(unreadable_processes=3)
    assert system.findings() == []
    assert not coverage_of(system.indexed()).is_blind


@pytest.mark.parametrize(("whole", "steady"), [(False, True), (True, False)])
def test_count_that_is_partial_or_changing_says_nothing(system: System, whole: bool, steady: bool) -> None:
    system.usage(10 * PAGE, whole=whole, steady=steady)
    assert "LH004" not in system.rules()
    assert any("dark memory" in gap.what for gap in coverage_of(system.indexed()).gaps)


def test_file_of_another_mount_namespace_is_a_rule_of_its_own(system: System) -> None:
    system.run(process(7, command="container"))
    elsewhere = Root("/proc/7/root/dev/shm", 99, via_pid=7, mount_namespace=5)
    system.file("x", root=elsewhere, probe=Probe.FREE)
    system.file("y", root=elsewhere, probe=Probe.HELD)
    (finding,) = system.findings()
    assert (finding.rule, finding.name) == ("LH013", "x")
    assert "pid 7 (container)" in finding.message


def test_recorded_creator_is_reported(system: System) -> None:
    key = system.file("psm_4f2a", probe=Probe.FREE)
    creator = Creator(pid=7, command="python job.py", place=Place("job.py", 3, "main"))
    system.change(creators={FileIdentity(*key, NOW_NS - 5_000_000_000): creator})
    assert system.findings()[0].creator == creator


def test_name_of_any_bytes_is_made_legible(system: System) -> None:
    system.file("bad\udcff", probe=Probe.FREE)
    (finding,) = system.findings()
    assert finding.name == r"bad\xff"
    finding.message.encode()


def scope(system: System, *keys: tuple[int, int], dark: int = 0) -> Limits:
    return Limits(
        scope=Scope("the test", 0, {subject_of_file(key): NOW_NS - 5_000_000_000 for key in keys}, {DEVICE: dark})
    )


def test_scope_blames_only_what_is_new(system: System) -> None:
    old = system.file("old", probe=Probe.FREE)
    system.file("new", probe=Probe.FREE)
    assert [finding.name for finding in system.findings(scope(system, old))] == ["new"]


def test_inode_that_was_used_before_the_scope_and_again_in_it_is_new(system: System) -> None:
    key = system.file("psm_4f2a", probe=Probe.FREE)
    reused = Limits(scope=Scope("the test", 0, {subject_of_file(key): 1}))
    assert [finding.name for finding in system.findings(reused)] == ["psm_4f2a"]


def test_file_held_after_the_scope_outlives_it(system: System) -> None:
    old, new = system.file("old"), system.file("new")
    system.hold(old, 7)
    system.hold(new, 7)
    (finding,) = system.findings(scope(system, old))
    assert (finding.rule, finding.name) == ("LH009", "new")
    assert "after the test" in finding.message


def test_memory_that_was_dark_before_the_scope_is_not_its_doing(system: System) -> None:
    system.usage(5 * PAGE)
    assert "LH004" not in system.rules(scope(system, dark=5 * PAGE))
    assert "LH004" in system.rules(scope(system, dark=4 * PAGE))


def test_rules_that_are_not_asked_for_do_not_look(system: System) -> None:
    system.file("psm_4f2a", probe=Probe.FREE)
    assert reconcile(system.indexed(), set(DETECTORS) - {"LH001"}) == ()
