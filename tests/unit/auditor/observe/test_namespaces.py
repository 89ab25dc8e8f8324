from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_proc import PROC, FakeProc

from shmlease.auditor.judge.evidence import ProcessFacts, Root
from shmlease.auditor.observe.namespaces import foreign_roots, hides_processes, mount_namespace, own_roots
from shmlease.errors import UnsupportedPlatformError


def with_mounts(proc: FakeProc, *lines: str, pid: int = 1) -> str:
    (proc.path / str(pid) / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return str(proc.path)


def shm_line(device: int | None = None, root: str = "/", point: str = "/dev/shm") -> str:
    device = os.stat("/dev/shm").st_dev if device is None else device
    return f"1 0 {os.major(device)}:{os.minor(device)} {root} {point} rw - tmpfs tmpfs rw"


def test_shm_is_whole_where_its_filesystem_is_mounted_from_the_top(fake_proc: FakeProc) -> None:
    ((root,), gaps) = own_roots(with_mounts(fake_proc, shm_line()))
    assert (root.path, root.filesystem, root.is_whole, root.is_foreign) == ("/dev/shm", "tmpfs", True, False)
    assert gaps == []


def test_shm_that_is_a_part_of_a_filesystem_is_not_whole(fake_proc: FakeProc) -> None:
    ((root,), _) = own_roots(with_mounts(fake_proc, shm_line(root="/containers/7")))
    assert not root.is_whole


def test_mount_that_another_covers_is_a_gap_that_blinds_nobody(fake_proc: FakeProc) -> None:
    (_, (gap,)) = own_roots(with_mounts(fake_proc, shm_line(device=99), shm_line()))
    assert "covers" in gap.what
    assert not gap.blinding


def test_saved_mountinfo_of_a_machine_with_both_is_understood(fake_proc: FakeProc) -> None:
    proc = with_mounts(fake_proc, *(PROC / "mountinfo").read_text().splitlines())
    roots, gaps = own_roots(proc)
    assert [root.path for root in roots] == ["/dev/shm", "/mnt"]
    assert len(gaps) == 1


def test_directory_given_is_audited_as_a_part(fake_proc: FakeProc, shm: Path) -> None:
    ((root,), _) = own_roots(with_mounts(fake_proc, shm_line()), [str(shm)])
    assert (root.path, root.is_whole) == (str(shm), False)


def test_directories_of_one_filesystem_are_each_audited(fake_proc: FakeProc, shm: Path) -> None:
    (shm / "a").mkdir()
    (shm / "b").mkdir()
    roots, _ = own_roots(with_mounts(fake_proc, shm_line()), [f"{shm}/a", f"{shm}/b"])
    assert [root.path for root in roots] == [f"{shm}/a", f"{shm}/b"]


def test_directory_that_is_not_there_is_an_error_that_says_so(fake_proc: FakeProc) -> None:
    with pytest.raises(UnsupportedPlatformError, match="/no/such/place cannot be audited: No such file"):
        own_roots(with_mounts(fake_proc, shm_line()), ["/no/such/place"])


def test_shm_of_another_namespace_is_found_through_its_process(fake_proc: FakeProc, shm: Path) -> None:
    process = fake_proc.add(7, namespace=2)
    inside = process / "root" / "dev" / "shm"
    inside.mkdir(parents=True)
    device = inside.stat().st_dev
    proc = with_mounts(fake_proc, shm_line(device), pid=7)
    roots, _ = foreign_roots(proc, [ProcessFacts(7, 1, 1, 0, "job", 2)], [Root("/dev/shm", -1)])
    assert [(root.path, root.via_pid, root.mount_namespace) for root in roots] == [(str(inside), 7, 2)]


def test_filesystem_that_both_namespaces_share_is_audited_once(fake_proc: FakeProc) -> None:
    process = fake_proc.add(7, namespace=2)
    inside = process / "root" / "dev" / "shm"
    inside.mkdir(parents=True)
    device = inside.stat().st_dev
    proc = with_mounts(fake_proc, shm_line(device), pid=7)
    assert foreign_roots(proc, [ProcessFacts(7, 1, 1, 0, "job", 2)], [Root("/dev/shm", device)]) == ([], [])


def test_process_of_this_namespace_has_no_foreign_root(fake_proc: FakeProc) -> None:
    assert foreign_roots(str(fake_proc.path), [ProcessFacts(7, 1, 1, 0, "job", 1)], []) == ([], [])


def test_processes_are_hidden_where_proc_is_mounted_so(fake_proc: FakeProc) -> None:
    line = "1 0 0:21 / /proc rw,relatime - proc proc rw"
    assert not hides_processes(with_mounts(fake_proc, line))
    assert hides_processes(with_mounts(fake_proc, f"{line},hidepid=invisible"))


def test_namespace_of_a_process_that_cannot_be_seen_is_none(fake_proc: FakeProc) -> None:
    assert mount_namespace(str(fake_proc.path), 1) == 1
    assert mount_namespace(str(fake_proc.path), 99) == 0
