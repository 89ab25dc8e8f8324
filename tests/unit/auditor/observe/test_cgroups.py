from __future__ import annotations

from pathlib import Path

from shmlease.auditor.observe.cgroups import list_charges


def group(path: Path, shmem_bytes: int, *pids: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.stat").write_text(f"cache 0\nshmem {shmem_bytes}\n")
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def test_group_without_processes_that_is_charged_is_listed(tmp_path: Path) -> None:
    group(tmp_path / "memory", 0, 1)
    group(tmp_path / "memory" / "job", 8192)
    (charge,) = list_charges(str(tmp_path))
    assert (charge.cgroup, charge.shmem_bytes) == ("/job", 8192)
    assert charge.source == f"{tmp_path}/memory/job/memory.stat"


def test_group_with_a_process_in_it_or_beneath_is_left_out(tmp_path: Path) -> None:
    group(tmp_path / "memory", 0, 1)
    group(tmp_path / "memory" / "job", 8192, 77)
    group(tmp_path / "memory" / "service", 8192)
    group(tmp_path / "memory" / "service" / "worker", 0, 78)
    assert list_charges(str(tmp_path)) == ()


def test_group_without_charge_is_left_out(tmp_path: Path) -> None:
    group(tmp_path / "memory", 0, 1)
    group(tmp_path / "memory" / "job", 0)
    assert list_charges(str(tmp_path)) == ()


def test_unified_hierarchy_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    group(tmp_path / "slice" / "job", 4096)
    assert [charge.cgroup for charge in list_charges(str(tmp_path))] == ["/slice/job"]


def test_kernel_that_tells_whether_a_group_is_empty_is_believed(tmp_path: Path) -> None:
    """Processes of other pid namespaces are not listed in cgroup.procs."""
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    for name, populated in (("left", 0), ("container", 1)):
        group(tmp_path / name, 4096)
        (tmp_path / name / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    assert [(charge.cgroup, charge.is_empty) for charge in list_charges(str(tmp_path))] == [("/left", True)]


def test_system_without_control_groups_has_no_charges(tmp_path: Path) -> None:
    assert list_charges(str(tmp_path)) == ()
