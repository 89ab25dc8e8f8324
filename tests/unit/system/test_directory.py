"""A registry's directory: who may own it, and the operations on it of which only one of two can succeed."""

from __future__ import annotations

import errno
import glob
import io
import mmap
import os
import re
import resource
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shmlease.errors import (
    CapacityError,
    LeaseError,
    PermissionDeniedError,
    RegistryUnavailableError,
    UnsupportedPlatformError,
)
from shmlease.system import syscalls
from shmlease.system.directory import RegistryDirectory
from shmlease.system.owned_descriptor import OwnedDescriptor
from shmlease.system.registries import default_registry_id, registry_directories

PAGE = 4096
OS_NAME = "shmlease-0a1b2c3d-1-0123456789abcdef"


@pytest.fixture
def directory(tmp_path: Path) -> RegistryDirectory:
    made = RegistryDirectory("0a1b2c3d", str(tmp_path))
    made.create()
    return made


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_segment_beyond_the_limit_of_this_process_leaves_no_file(directory: RegistryDirectory) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            directory.create_segment(1, 2 * PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(directory.path) == []


def test_directory_and_all_in_it_are_this_users_alone(directory: RegistryDirectory) -> None:
    before = os.umask(0)
    try:
        fd = directory.lock()
        assert fd is not None
        directory.create_segment(1, PAGE)
        directory.create_notice_log(2)
        directory.mint_token(3)
        other = RegistryDirectory("other", directory.root)
        other.create()
        assert mode(other.path) == 0o700
    finally:
        os.umask(before)
    assert mode(directory.path) == 0o700
    assert {mode(f"{directory.path}/{name}") for name in os.listdir(directory.path)} == {0o600}
    os.close(fd)


@pytest.mark.parametrize("bits", [0o701, 0o710, 0o704, 0o777])
def test_directory_that_others_may_enter_is_refused(directory: RegistryDirectory, bits: int) -> None:
    os.chmod(directory.path, bits)
    with pytest.raises(PermissionDeniedError, match=f"mode {bits:04o}.*must be 0700"):
        directory.create()
    os.chmod(directory.path, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused(directory: RegistryDirectory) -> None:
    os.chown(directory.path, 65534, 65534)
    with pytest.raises(PermissionDeniedError, match="belongs to uid 65534"):
        directory.create()


def test_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "shmlease-x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDeniedError, match="not a directory"):
        RegistryDirectory("x", str(tmp_path)).create()


def test_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shmlease-x").touch()
    with pytest.raises(PermissionDeniedError, match="not a directory"):
        RegistryDirectory("x", str(tmp_path)).create()


def test_lock_has_one_holder(directory: RegistryDirectory) -> None:
    fd = directory.lock()
    assert fd is not None
    assert directory.lock() is None
    assert directory.is_served()
    directory.unlock(fd)
    assert not directory.is_served()
    again = directory.lock()
    assert again is not None
    directory.unlock(again)


def test_lock_does_not_pass_to_programs_that_are_started(directory: RegistryDirectory) -> None:
    fd = directory.lock()
    assert fd is not None
    assert not os.get_inheritable(fd)
    directory.unlock(fd)


def test_descriptor_that_is_no_lock_any_more_is_left_alone_in_a_forked_child(directory: RegistryDirectory) -> None:
    fd = directory.lock()
    assert fd is not None
    os.close(fd)  # behind the module's back
    reading, writing = os.pipe()
    assert fd in {reading, writing}
    child = os.fork()
    if child == 0:
        os.write(writing, b"open")
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"open"
    os.waitpid(child, 0)


def test_lock_of_a_registry_that_has_ended_is_not_given(directory: RegistryDirectory) -> None:
    directory.remove()
    assert directory.lock() is None
    assert not directory.exists()


def test_lock_taken_while_the_registry_was_ending_is_not_given(
    directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was opened, then unlinked by the one that ended, then locked: nobody else will ever see that lock."""
    flock = syscalls.flock

    def unlink_first(fd: int, operation: int) -> None:
        os.unlink(directory.lock_path)
        flock(fd, operation)

    monkeypatch.setattr(syscalls, "flock", unlink_first)
    assert directory.lock() is None


def test_segment_is_made_once_and_takes_no_memory_before_it_is_written(directory: RegistryDirectory) -> None:
    directory.create_segment(7, 8 * PAGE)
    with pytest.raises(FileExistsError):
        directory.create_segment(7, PAGE)
    assert os.stat(directory.segment_path(7)).st_size == 8 * PAGE
    assert directory.unreserved_bytes(7) == 8 * PAGE
    with open(directory.segment_path(7), "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * PAGE)
    assert directory.unreserved_bytes(7) == 0
    assert directory.unreserved_bytes(8) == 0, "what is gone needs nothing"


@pytest.mark.parametrize("punch", [True, False])
def test_retired_segment_and_its_alias_are_gone(directory: RegistryDirectory, punch: bool) -> None:
    directory.create_segment(7, PAGE)
    directory.link_alias(7, OS_NAME)
    directory.retire_segment(7, OS_NAME, punch=punch)
    assert os.listdir(directory.path) == []
    assert sorted(os.listdir(directory.root)) == ["shmlease-0a1b2c3d"]
    directory.retire_segment(7, OS_NAME, punch=punch)  # a predecessor was killed in the middle


def test_punched_segment_reads_as_zeros_and_keeps_its_size() -> None:
    """A mapping that some cache still has must not be a bus error. On tmpfs itself: other file systems may not punch."""
    directory = RegistryDirectory(f"t{os.getpid()}")
    directory.create()
    try:
        directory.create_segment(1, 4 * PAGE)
        with open(directory.segment_path(1), "r+b") as file:
            file.write(b"x" * 4 * PAGE)
            file.flush()
            directory.retire_segment(1, "", punch=True)
            assert os.fstat(file.fileno()).st_size == 4 * PAGE
            assert os.fstat(file.fileno()).st_blocks == 0
            assert os.pread(file.fileno(), 10, 0) == bytes(10)
    finally:
        directory.remove()


def mapped(path: str) -> object:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def punched(path: str) -> None:
    with open(path, "r+b") as file:
        syscalls.fallocate(file.fileno(), 3, 0, PAGE)


# What others can do to a file that they find in /dev/shm.
DONE_BY_OTHERS: dict[str, Callable[[str], object]] = {
    "nothing": lambda path: None,
    "truncated within its last page": lambda path: os.truncate(path, 2 * PAGE - 1),
    "open": open,
    "mapped": mapped,
    "named": lambda path: os.link(path, f"{path}-too"),
    "without a page": punched,
    "truncated": lambda path: os.truncate(path, PAGE),
    "of another mode": lambda path: os.chmod(path, 0o644),
    "unlinked": os.unlink,
}


@pytest.mark.parametrize("done", DONE_BY_OTHERS)
def test_file_is_recycled_if_it_is_as_it_was_made_and_nobody_has_it_open(done: str) -> None:
    directory, kept = RegistryDirectory(f"r{os.getpid()}"), None
    directory.create()
    try:
        directory.create_segment(1, 2 * PAGE)
        with open(directory.segment_path(1), "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * PAGE)
        directory.link_alias(1, f"name-{os.getpid()}")
        kept = DONE_BY_OTHERS[done](f"{directory.root}/name-{os.getpid()}")
        is_recycled = directory.recycle_segment(1, f"name-{os.getpid()}", 2 * PAGE, 2)
        assert is_recycled == (done in ("nothing", "truncated within its last page", "unlinked"))
        assert not os.path.exists(f"{directory.root}/name-{os.getpid()}")
        assert os.path.exists(directory.segment_path(2)) == is_recycled != os.path.exists(directory.segment_path(1))
        if is_recycled:
            assert os.stat(directory.segment_path(2)).st_size == 2 * PAGE
    finally:
        if isinstance(kept, io.IOBase | mmap.mmap):
            kept.close()
        for name in glob.glob(f"{directory.root}/name-{os.getpid()}*"):
            os.unlink(name)
        directory.remove()


def test_alias_is_linked_once_more_without_complaint(directory: RegistryDirectory) -> None:
    """A registry killed between linking and saying so is succeeded by one that links again."""
    directory.create_segment(7, PAGE)
    directory.link_alias(7, "alias")
    directory.link_alias(7, "alias")
    assert os.path.samefile(f"{directory.root}/alias", directory.segment_path(7))


def test_alias_that_is_anothers_is_not_taken(directory: RegistryDirectory) -> None:
    directory.create_segment(7, PAGE)
    (Path(directory.root) / "alias").write_text("somebody's")
    with pytest.raises(FileExistsError):
        directory.link_alias(7, "alias")
    assert (Path(directory.root) / "alias").read_text() == "somebody's"


def test_file_that_is_named_by_its_user_is_exactly_as_large_as_its_array(directory: RegistryDirectory) -> None:
    directory.create_segment(7, 2 * PAGE)
    directory.link_alias(7, "frames", PAGE + 1)
    assert os.stat(f"{directory.root}/frames").st_size == PAGE + 1


def test_name_that_was_given_to_another_file_since_is_not_taken_from_it(directory: RegistryDirectory) -> None:
    directory.create_segment(7, PAGE)
    directory.link_alias(7, "frames", PAGE)
    os.unlink(f"{directory.root}/frames")
    (Path(directory.root) / "frames").write_text("somebody's")
    directory.unlink_alias(7, "frames")
    directory.retire_segment(7, "frames", punch=False)
    directory.remove()
    assert (Path(directory.root) / "frames").read_text() == "somebody's"


def test_names_that_users_have_chosen_go_with_the_registry(directory: RegistryDirectory) -> None:
    for number in range(3):
        directory.create_segment(number, PAGE)
    directory.link_alias(1, "frames", PAGE)
    (Path(directory.root) / "bystander").touch()
    directory.remove()
    assert os.listdir(directory.root) == ["bystander"]


def test_spare_of_a_registry_that_has_ended_cannot_be_claimed(directory: RegistryDirectory) -> None:
    claim = OwnedDescriptor()
    directory.create_segment(1, PAGE)
    directory.remove()
    assert not directory.claim_spare(1, 1, claim)
    assert claim.fds == []


@pytest.mark.parametrize("what", [lambda path: os.symlink("/dev/zero", path), os.mkfifo, os.mkdir])
def test_what_lies_in_place_of_a_spare_is_refused(directory: RegistryDirectory, what: Callable[[str], None]) -> None:
    claim = OwnedDescriptor()
    what(directory.segment_path(1))
    with pytest.raises(PermissionDeniedError, match=f"{directory.segment_path(1)} is a"):
        directory.claim_spare(1, 1, claim)
    claim.close()


def test_of_claim_and_revocation_exactly_one_succeeds(directory: RegistryDirectory) -> None:
    for number in range(200):
        directory.create_segment(number, PAGE)
        claim, claimed = OwnedDescriptor(), []
        thread = threading.Thread(
            target=lambda n=number, c=claim, done=claimed: done.append(directory.claim_spare(n, 1, c))  # type: ignore[misc]
        )
        thread.start()
        revoked = directory.revoke_spare(number, 1)
        thread.join()
        assert claimed == [not revoked]
        if not revoked:
            assert os.fstat(claim.fds[0]).st_nlink == 1
        claim.close()
        directory.revoke_spare(number, 1)


def test_of_many_that_redeem_exactly_one_succeeds(directory: RegistryDirectory) -> None:
    for ticket in range(100):
        directory.mint_token(ticket)
        won: list[int] = []
        barrier = threading.Barrier(4)

        def redeem(client: int, ticket: int = ticket, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if directory.claim_token(ticket, client):
                won.append(client)

        threads = [threading.Thread(target=redeem, args=(client,)) for client in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        directory.drop_token(ticket, won[0])


def test_entries_are_what_the_registry_made_and_nothing_else(directory: RegistryDirectory) -> None:
    directory.create_segment(12, PAGE)
    directory.create_notice_log(3)
    directory.mint_token(77)
    directory.mint_token(78)
    directory.claim_token(78, 4)
    for stray in ("lock", "ledger", "socket", "ledger.new", "s", "sx", "s1x", "q1", "t1.2.3", "s-1"):
        Path(directory.path, stray).touch()
    assert sorted(directory.entries(), key=str) == [("j", 3, None), ("s", 12, None), ("t", 77, None), ("t", 78, 4)]
    for entry in list(directory.entries()):
        directory.remove_entry(*entry)
    assert list(directory.entries()) == []


def test_removal_leaves_nothing_and_may_be_finished_by_another(directory: RegistryDirectory) -> None:
    directory.create_segment(1, PAGE)
    directory.link_alias(1, OS_NAME)
    directory.create_notice_log(3)
    directory.mint_token(77)
    fd = directory.lock()
    Path(directory.ledger_path).touch()
    Path(directory.path, "ledger.new").touch()
    bystander = Path(directory.root, "shmlease-0a1b2c3d-x")
    bystander.touch()
    directory.remove()
    directory.remove()
    assert os.listdir(directory.root) == ["shmlease-0a1b2c3d-x"]
    directory.unlock(fd or 0)


@pytest.mark.parametrize("steps", range(12))
def test_removal_cut_short_anywhere_is_finished_by_the_next(
    directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    directory.create_segment(1, PAGE)
    directory.link_alias(1, OS_NAME)
    directory.create_segment(2, PAGE)
    directory.create_notice_log(3)
    directory.mint_token(77)
    Path(directory.ledger_path).touch()
    directory.unlock(directory.lock() or 0)
    unlink, left = os.unlink, steps

    def until_killed(path: str, *, dir_fd: int | None = None) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as killed:
        killed.setattr(syscalls, "unlink", until_killed)
        try:
            directory.remove()
        except KeyboardInterrupt:
            assert directory.exists(), "the directory goes last: else nobody would finish"
    directory.remove()
    assert os.listdir(directory.root) == []


def test_alias_of_a_segment_that_is_gone_does_not_outlive_the_registry(directory: RegistryDirectory) -> None:
    """Killed between the two unlinks of a retirement, in whatever order they come, and then removed as a whole."""
    directory.create_segment(1, PAGE)
    directory.link_alias(1, OS_NAME)
    os.unlink(directory.segment_path(1))
    directory.remove()
    assert os.listdir(directory.root) == []


def test_own_directories_are_found_and_only_those(tmp_path: Path) -> None:
    for name in (
        "shmlease-a1",
        "shmlease-zz9",
        "shmlease-UPPER",
        "shmlease-",
        "psm_x",
        "shmlease-a1-7",
        "shmlease-toolong" + "g" * 40,
    ):
        (tmp_path / name).mkdir(0o700)
    (tmp_path / "shmlease-file").touch()
    (tmp_path / "shmlease-open").mkdir()
    (tmp_path / "shmlease-open").chmod(0o755)
    assert sorted(found.id for found in registry_directories(str(tmp_path))) == ["a1", "zz9"]


def test_notice_log_has_its_pages_before_anybody_writes(directory: RegistryDirectory) -> None:
    directory.create_notice_log(3)
    status = os.stat(directory.notice_log_path(3))
    assert status.st_blocks * 512 >= status.st_size > 0
    directory.drop_notice_log(3)
    directory.drop_notice_log(3)


def test_notice_log_that_has_no_room_leaves_no_file(directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(syscalls, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        directory.create_notice_log(3)
    assert os.listdir(directory.path) == []


# --- one directory, by inode ---------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[RegistryDirectory], object]] = {
    "lock": lambda directory: directory.lock(),
    "is_served": RegistryDirectory.is_served,
    "create_segment": lambda directory: directory.create_segment(9, PAGE),
    "open_segment": lambda directory: directory.open_segment(1, writable=True),
    "retire_segment": lambda directory: directory.retire_segment(1, "", punch=True),
    "revoke_spare": lambda directory: directory.revoke_spare(1, 1),
    "claim_spare": lambda directory: directory.claim_spare(1, 1, OwnedDescriptor()),
    "link_alias": lambda directory: directory.link_alias(1, OS_NAME),
    "mint_token": lambda directory: directory.mint_token(78),
    "claim_token": lambda directory: directory.claim_token(77, 3),
    "void_token": lambda directory: directory.void_token(77),
    "create_notice_log": lambda directory: directory.create_notice_log(4),
    "open_notice_log": lambda directory: directory.open_notice_log(3, writable=True),
    "drop_notice_log": lambda directory: directory.drop_notice_log(3),
    "remove_entry": lambda directory: directory.remove_entry("s", 1, None),
    "remove": RegistryDirectory.remove,
}


def filled(directory: RegistryDirectory) -> RegistryDirectory:
    directory.create()
    directory.create_segment(1, PAGE)
    directory.mint_token(77)
    directory.create_notice_log(3)
    Path(directory.ledger_path).touch()
    return directory


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_done_to_a_namesake_of_a_directory_that_was_removed(
    directory: RegistryDirectory, operation: str
) -> None:
    filled(directory)
    pinned = os.open(directory.path, os.O_PATH)  # tmpfs does not use an inode number again; where tests lie, others may
    shutil.rmtree(directory.path)
    namesake = filled(RegistryDirectory(directory.id, directory.root))
    before = {name: os.stat(f"{namesake.path}/{name}").st_blocks for name in os.listdir(namesake.path)}
    try:
        done = OPERATIONS[operation](directory)
    except FileNotFoundError:
        done = None
    assert done in (None, False) or operation == "revoke_spare"
    assert {name: os.stat(f"{namesake.path}/{name}").st_blocks for name in os.listdir(namesake.path)} == before
    assert os.listdir(directory.root) == [f"shmlease-{directory.id}"]
    assert not directory.exists()
    assert namesake.exists()
    os.close(pinned)


def test_made_again_it_is_the_new_one(directory: RegistryDirectory) -> None:
    shutil.rmtree(directory.path)
    filled(directory)
    assert sorted(directory.entries()) == [("j", 3, None), ("s", 1, None), ("t", 77, None)]


def test_link_that_takes_the_place_of_the_directory_while_it_is_removed_is_not_followed(
    directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    filled(directory)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in os.listdir(directory.path):
        (elsewhere / name).touch()
    listdir = os.listdir

    def swap_first(path: int | str) -> list[str]:
        names = listdir(path)
        if "ledger" in names and not os.path.islink(directory.path):
            os.rename(directory.path, f"{directory.root}/aside")
            os.symlink(elsewhere, directory.path)
        return names

    monkeypatch.setattr(syscalls, "listdir", swap_first)
    directory.remove()
    monkeypatch.undo()
    assert sorted(os.listdir(elsewhere)) == ["j3", "ledger", "s1", "t77"]
    assert os.listdir(f"{directory.root}/aside") == [], "what was checked is what was emptied"
    assert os.path.islink(directory.path)


def test_what_no_registry_has_made_is_left_and_told_of_and_all_else_is_removed(directory: RegistryDirectory) -> None:
    filled(directory)
    os.mkdir(f"{directory.path}/s5")
    with pytest.raises(OSError, match="something that no registry has made is in it"):
        directory.remove()
    assert os.listdir(directory.path) == ["s5"]


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_name_given_out_that_somebody_else_has_taken_is_left(directory: RegistryDirectory, kind: str) -> None:
    directory.create_segment(1, PAGE)
    path = f"{directory.root}/{OS_NAME}"
    {"directory": os.mkdir, "link": lambda path: os.symlink("/etc/passwd", path), "fifo": os.mkfifo}[kind](path)
    directory.retire_segment(1, OS_NAME, punch=False)
    directory.remove()
    assert os.listdir(directory.root) == [OS_NAME]


# --- where nothing can be made ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, CapacityError, "`shmlease audit`"),
        (errno.EROFS, RegistryUnavailableError, "mounted read-only"),
        (errno.EACCES, PermissionDeniedError, "may not write there; its mode is to be 1777"),
        (errno.EIO, RegistryUnavailableError, "Input/output error"),
    ],
)
def test_directory_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[LeaseError], words: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(syscalls, "mkdir", refuse)
    with pytest.raises(error, match=f"registry x cannot be made.*{words}"):
        RegistryDirectory("x", str(tmp_path)).create()


def test_root_that_is_not_there_is_told_of_by_all_who_look_into_it(tmp_path: Path) -> None:
    root = str(tmp_path / "none")
    directory = RegistryDirectory("x", root)
    for look in (directory.create, directory.exists, directory.free_bytes):
        with pytest.raises(UnsupportedPlatformError, match=f"there is no {root}.*mount"):
            look()
    for find in (registry_directories, default_registry_id):
        with pytest.raises(UnsupportedPlatformError, match="there is no"):
            find(root)


# --- the default registry ---------------------------------------------------------------------------------------------


def test_default_registry_is_known_by_its_user_unless_somebody_else_has_that_name(tmp_path: Path) -> None:
    root, usual = str(tmp_path), f"u{os.geteuid()}"
    assert default_registry_id(root) == usual
    (tmp_path / f"shmlease-{usual}").touch()
    first = default_registry_id(root)
    assert re.fullmatch(rf"{usual}x[0-9a-f]{{8}}", first)
    RegistryDirectory(first, root).create()
    assert default_registry_id(root) == first, "who joins finds what was started"
    (tmp_path / f"shmlease-{usual}").unlink()
    assert default_registry_id(root) == first, "also when the name is free again"
    RegistryDirectory(usual, root).create()
    assert default_registry_id(root) == usual


def test_registry_whose_directory_was_opened_to_others_goes_on_and_one_whose_directory_is_gone_does_not(
    directory: RegistryDirectory, tmp_path: Path
) -> None:
    lock = directory.lock()
    assert lock is not None
    os.chmod(directory.path, 0o755)
    assert directory.is_locked_by(lock)
    os.rename(directory.path, tmp_path / "elsewhere")
    assert not directory.is_locked_by(lock)
    os.symlink(tmp_path / "elsewhere", directory.path)
    assert not directory.is_locked_by(lock), "a link that somebody has put there"
    os.close(lock)
