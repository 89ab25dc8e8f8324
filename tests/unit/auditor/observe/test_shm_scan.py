from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmlease.auditor.judge.evidence import Root
from shmlease.auditor.observe.shm_scan import count_filesystem, list_root, usage_of


def names(root: Root) -> set[str]:
    return {file.name for file in list_root(root).files.values()}


def test_files_of_sub_directories_are_listed_by_their_path(root: Root, shm: Path) -> None:
    (shm / "joblib" / "inner").mkdir(parents=True)
    (shm / "a").write_bytes(b"x")
    (shm / "joblib" / "b").write_bytes(b"x")
    (shm / "joblib" / "inner" / "c").write_bytes(b"x")
    assert names(root) == {"a", "joblib/b", "joblib/inner/c"}
    assert set(list_root(root).directories) == {"joblib", "joblib/inner"}


def test_sizes_and_memory_are_those_of_the_file(root: Root, shm: Path) -> None:
    with open(shm / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    (file_,) = list_root(root).files.values()
    assert (file_.size_bytes, file_.resident_bytes) == (1 << 20, 4096)
    assert file_.born_ns is not None
    assert file_.uid == os.geteuid()


def test_file_with_two_links_is_listed_once_with_its_other_name(root: Root, shm: Path) -> None:
    (shm / "a").write_bytes(b"x")
    os.link(shm / "a", shm / "b")
    (file,) = list_root(root).files.values()
    assert {file.name, *file.aliases} == {"a", "b"}
    assert list_root(root).names == 2


def test_links_fifos_and_sockets_are_no_segments_and_take_inodes(root: Root, shm: Path) -> None:
    (shm / "link").symlink_to("/etc/passwd")
    os.mkfifo(shm / "fifo")
    listing = list_root(root)
    assert listing.files == {}
    assert listing.names == 2


def test_link_to_a_directory_is_not_followed(root: Root, shm: Path) -> None:
    (shm / "loop").symlink_to(shm)
    assert list_root(root).names == 1


def test_name_that_is_no_utf8_can_be_opened_again(root: Root, shm: Path) -> None:
    raw = os.fsencode(shm) + b"/\xff\n"
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY))
    (file,) = list_root(root).files.values()
    assert os.path.exists(file.path)


def test_nesting_without_end_is_cut_off_and_said(root: Root, shm: Path) -> None:
    (shm / "/".join("d" * 40)).mkdir(parents=True)
    (gap,) = list_root(root).gaps
    assert "nested deeper" in gap.why


def test_missing_root_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        list_root(Root("/dev/shm/there-is-no-such-root", 0))


def test_another_filesystem_inside_is_not_entered(shm: Path) -> None:
    (shm / "a").write_bytes(b"x")
    elsewhere = Root(str(shm), os.stat("/proc").st_dev)  # as if all of it were mounted inside of this one
    assert list_root(elsewhere).files == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_directory_closed_to_this_user_is_a_gap(shm: Path) -> None:
    program = (
        "import os, sys; from shmlease.auditor.judge.evidence import Root; from shmlease.auditor.observe.shm_scan import "
        "list_root;"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534);"
        "gap, = list_root(Root(sys.argv[1], os.stat(sys.argv[1]).st_dev)).gaps; print(gap.what, gap.why)"
    )
    import subprocess
    import sys

    (shm / "closed").mkdir(mode=0o700)
    shm.chmod(0o755)
    told = subprocess.run([sys.executable, "-c", program, str(shm)], capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"the directory {shm}/closed Permission denied; it belongs to uid 0"


def test_usage_is_steady_only_if_the_count_was_the_same_before_and_after(root: Root) -> None:
    listing = list_root(root)
    assert usage_of(listing, (4096, 2), (4096, 2)).is_steady
    assert not usage_of(listing, (4096, 2), (8192, 3)).is_steady
    assert not usage_of(listing, (4096, 2), (4096, 2)).is_whole, "a directory is not a whole filesystem"


def test_filesystem_counts_what_a_file_takes(root: Root, shm: Path) -> None:
    for _ in range(50):  # others may write to the same filesystem
        before = count_filesystem(root)[0]
        (shm / "a").write_bytes(b"x" * 40960)
        after = count_filesystem(root)[0]
        (shm / "a").unlink()
        if before is None or (after is not None and after - before == 40960):
            return
    pytest.fail("never counted the 10 pages of a file")
