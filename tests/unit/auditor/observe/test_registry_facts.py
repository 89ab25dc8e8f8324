from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shmlease.auditor.judge.evidence import LockState, RegistryFacts, Root
from shmlease.auditor.observe import registry_facts as module
from shmlease.auditor.observe.registry_facts import read_registries
from shmlease.auditor.observe.shm_scan import list_root
from shmlease.core.model import RegistryRow, SegmentRow, SegmentState
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import own_identity
from shmlease.system.ledger import Ledger


@pytest.fixture
def directory(shm: Path) -> RegistryDirectory:
    directory = RegistryDirectory("abc", str(shm))
    directory.create()
    return directory


def facts(root: Root) -> RegistryFacts:
    (registry,), gaps = read_registries(list_root(root))
    assert gaps == []
    return registry


def write_ledger(directory: RegistryDirectory, *segments: SegmentRow) -> None:
    row = RegistryRow(directory.id, own_identity(), 1 << 20, 0, 0, 1, 0, None)
    Ledger(directory.ledger_path, [row, *segments]).close()


def test_lock_is_held_as_long_as_its_holder_lives(root: Root, directory: RegistryDirectory) -> None:
    lock = directory.lock()
    assert lock is not None
    assert facts(root).lock is LockState.HELD
    directory.unlock(lock)
    assert facts(root).lock is LockState.FREE


def test_looking_neither_makes_nor_keeps_a_lock(root: Root, directory: RegistryDirectory) -> None:
    assert facts(root).lock is LockState.FREE
    assert os.listdir(directory.path) == []
    directory.unlock(directory.lock() or -1)
    facts(root)
    lock = directory.lock()
    assert lock is not None
    directory.unlock(lock)


def test_table_is_read_from_the_ledger(root: Root, directory: RegistryDirectory) -> None:
    write_ledger(directory, SegmentRow(3, 1, 4096, SegmentState.WARM))
    registry = facts(root)
    assert registry.snapshot is not None
    assert set(registry.snapshot.segments) == {3}
    assert (registry.id, registry.path, registry.problem) == ("abc", directory.path, "")


def test_segments_whose_file_is_gone_are_absent(root: Root, directory: RegistryDirectory) -> None:
    directory.create_segment(1, 4096)
    states = [SegmentState.FILLING, SegmentState.PUBLISHED, SegmentState.CREATING, SegmentState.RETIRING]
    write_ledger(directory, *(SegmentRow(number, 1, 4096, state) for number, state in enumerate(states, 1)))
    assert facts(root).absent == {2}, "one has its file, and two need none"


def test_segment_made_after_the_listing_is_not_absent(root: Root, directory: RegistryDirectory) -> None:
    write_ledger(directory, SegmentRow(1, 1, 4096, SegmentState.FILLING))
    listing = list_root(root)
    directory.create_segment(1, 4096)
    ((registry,), _) = read_registries(listing)
    assert registry.absent == frozenset()


def test_table_of_another_version_is_a_problem_and_not_an_error(root: Root, directory: RegistryDirectory) -> None:
    Path(directory.ledger_path).write_bytes(b"shmlease ledger 99\n")
    registry = facts(root)
    assert registry.snapshot is None
    assert "a ledger begins with" in registry.problem


def test_registry_in_a_sub_directory_is_found(root: Root, shm: Path) -> None:
    (shm / "inner").mkdir()
    RegistryDirectory("abc", str(shm / "inner")).create()
    assert facts(root).path == f"{shm}/inner/shmlease-abc"


def test_other_directories_are_no_registries(root: Root, shm: Path) -> None:
    for name in ("joblib_1", "shmlease-UPPER", "shmlease-", "xlh-abc"):
        (shm / name).mkdir()
    assert read_registries(list_root(root)) == ([], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_registry_of_another_user_is_a_gap(shm: Path, directory: RegistryDirectory) -> None:
    shm.chmod(0o755)
    program = (
        "import os, sys; from shmlease.auditor.judge.evidence import Root; from shmlease.auditor.observe.shm_scan import "
        "list_root;"
        "from shmlease.auditor.observe.registry_facts import read_registries;"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534);"
        "_, (gap,) = read_registries(list_root(Root(sys.argv[1], os.stat(sys.argv[1]).st_dev))); print(gap.what, gap.why)"
    )
    told = subprocess.run([sys.executable, "-c", program, str(shm)], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "the lease table of registry abc it belongs to uid 0"


# --- what a neighbour may have made -----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["ledger", "lock"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a FIFO, not a regular file"),
        (lambda path: os.symlink("/etc/passwd", path), "is a symbolic link, not a regular file"),
        (os.mkdir, "is a directory, not a regular file"),
    ],
)
def test_what_is_no_file_is_reported_and_the_next_registry_is_read(
    root: Root, shm: Path, directory: RegistryDirectory, entry: str, make: Callable[[str], None], words: str
) -> None:
    make(f"{directory.path}/{entry}")
    sound = RegistryDirectory("sound", str(shm))
    sound.create()
    write_ledger(sound)
    registries, gaps = read_registries(list_root(root))
    assert gaps == []
    by_id = {registry.id: registry for registry in registries}
    assert f"{directory.path}/{entry} {words}" in by_id["abc"].problem
    assert by_id["abc"].snapshot is None
    assert (by_id["abc"].lock is LockState.UNKNOWN) == (entry == "lock")
    assert by_id["sound"].snapshot is not None


def test_file_of_somebody_else_in_a_registry_is_not_read(root: Root, directory: RegistryDirectory) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can give a file away")
    write_ledger(directory)
    os.chown(directory.ledger_path, 65534, 65534)
    assert f"belongs to uid 65534; this process runs as uid {os.geteuid()}" in facts(root).problem


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can give a file away")
def test_ledgers_of_others_are_read_as_far_as_one_look_can_bear(
    root: Root, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FOREIGN_BYTES", 200_000)  # each has 64 KiB and some rows
    for id in ("a", "b", "c", "d"):
        theirs = RegistryDirectory(id, str(shm))
        theirs.create()
        write_ledger(theirs)
        os.chown(theirs.ledger_path, 65534, 65534)
        os.chown(theirs.path, 65534, 65534)
    registries, _ = read_registries(list_root(root))
    assert sorted(registry.snapshot is not None for registry in registries) == [False, True, True, True]
    (unread,) = (registry.problem for registry in registries if registry.snapshot is None)
    assert "is read" in unread


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can give a file away")
def test_rows_of_others_are_judged_as_far_as_one_report_can_bear(
    root: Root, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FOREIGN_ROWS", 15)
    for id in ("a", "b"):
        theirs = RegistryDirectory(id, str(shm))
        theirs.create()
        write_ledger(theirs, *(SegmentRow(number, 1, 4096, SegmentState.CREATING) for number in range(10)))
        os.chown(theirs.ledger_path, 65534, 65534)
        os.chown(theirs.path, 65534, 65534)
    write_ledger_of_ours(shm)
    registries, _ = read_registries(list_root(root))
    by_owner = {(registry.uid, registry.snapshot is not None): registry for registry in registries}
    assert set(by_owner) == {(65534, True), (65534, False), (0, True)}
    assert "it has 10 rows" in by_owner[65534, False].problem


def write_ledger_of_ours(shm: Path) -> None:
    ours = RegistryDirectory("ours", str(shm))
    ours.create()
    write_ledger(ours, *(SegmentRow(number, 1, 4096, SegmentState.CREATING) for number in range(100)))


def test_directory_that_was_swapped_since_it_was_listed_is_not_entered(root: Root, directory: RegistryDirectory) -> None:
    write_ledger(directory)
    listing = list_root(root)
    os.rename(directory.path, f"{directory.path}x")
    os.symlink(f"{directory.path}x", directory.path)
    assert read_registries(listing)[0] == []
    os.unlink(directory.path)
    os.mkdir(directory.path)
    assert read_registries(listing) == ([], [])


def test_directory_on_the_way_that_was_swapped_is_not_entered(root: Root, shm: Path) -> None:
    (shm / "inner").mkdir()
    RegistryDirectory("abc", str(shm / "inner")).create()
    listing = list_root(root)
    (shm / "inner").rename(shm / "moved")
    (shm / "inner").symlink_to("moved")
    registries, (gap,) = read_registries(listing)
    assert registries == []
    assert "is a symbolic link" in gap.why
