"""The writer of outputs: what it replaces, what it writes into, what it refuses, and what it leaves when it fails."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.errors import LeaseError
from shmlease.output_file import append_output, check_output, resolve_regular, write_output

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
OTHER = 65534  # nobody


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "report.json"


@pytest.fixture
def everybodys(tmp_path: Path) -> Path:
    """A directory as /tmp is."""
    folder = tmp_path / "everybodys"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def masked() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_new_file_has_the_mode_that_new_files_have(out: Path, masked: None) -> None:
    write_output(str(out), "new")
    assert (out.read_text(), stat.S_IMODE(out.stat().st_mode)) == ("new", 0o640)
    assert os.listdir(out.parent) == ["report.json"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(out: Path, mode: int, masked: None) -> None:
    out.write_text("old, and longer")
    out.chmod(mode)
    write_output(str(out), b"new")
    assert (out.read_text(), stat.S_IMODE(out.stat().st_mode)) == ("new", mode)


@needs_root
def test_a_file_that_root_replaces_keeps_its_owner(out: Path) -> None:
    out.write_text("old")
    os.chown(out, OTHER, OTHER)
    write_output(str(out), "new")
    assert (out.stat().st_uid, out.stat().st_gid, out.read_text()) == (OTHER, OTHER, "new")


def test_a_group_that_cannot_be_kept_gets_no_more_than_all_others(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    out.write_text("old")
    out.chmod(0o664)
    real = os.lstat

    class Other:
        """The file, as if it were of another user and group."""

        def __init__(self, found: os.stat_result) -> None:
            self.st_mode, self.st_uid, self.st_gid = found.st_mode, found.st_uid + 1, found.st_gid + 1

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "lstat", lambda path: Other(real(path)))
    write_output(str(out), "new")
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


def test_links_are_followed_and_stay(out: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "link").symlink_to("real.json")
    out.symlink_to("far/link")
    for content in ("made where a dangling link points to", "replaced there"):
        write_output(str(out), content)
        assert (tmp_path / "far" / "real.json").read_text() == content
        assert out.is_symlink()
        assert (tmp_path / "far" / "link").is_symlink()


def test_a_link_to_itself_is_an_error(out: Path) -> None:
    out.symlink_to(out.name)
    with pytest.raises(LeaseError, match=r"cannot write .*Too many levels of symbolic links"):
        write_output(str(out), "new")


def test_a_fifo_is_written_into_and_stays(out: Path) -> None:
    os.mkfifo(out)
    check_output(str(out))
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(out.read_text()))
    reader.start()
    write_output(str(out), "to the reader")
    reader.join(60)
    assert seen == ["to the reader"]
    assert stat.S_ISFIFO(out.lstat().st_mode)


def test_a_terminal_is_written_into() -> None:
    ours, theirs = os.openpty()
    try:
        write_output(os.ttyname(theirs), "shown")
        assert os.read(ours, 100) == b"shown"
    finally:
        os.close(ours)
        os.close(theirs)


def test_dev_null_takes_everything_and_dev_full_nothing_and_both_stay() -> None:
    before = os.lstat("/dev/null"), os.lstat("/dev/full")
    write_output("/dev/null", "gone")
    check_output("/dev/full")
    with pytest.raises(LeaseError, match="cannot write /dev/full: No space left on device"):
        write_output("/dev/full", "refused")
    assert [(each.st_ino, each.st_mode) for each in before] == [
        (each.st_ino, each.st_mode) for each in (os.lstat("/dev/null"), os.lstat("/dev/full"))
    ]


def test_an_open_file_named_through_proc_is_added_to(out: Path) -> None:
    with out.open("w") as file:
        file.write("what was printed before\n")
        file.flush()
        write_output(f"/dev/fd/{file.fileno()}", "and the report\n")
    assert out.read_text() == "what was printed before\nand the report\n"
    here, there = os.pipe()
    write_output(f"/proc/self/fd/{there}", "into a pipe")
    assert os.read(here, 100) == b"into a pipe"
    os.close(here)
    os.close(there)


def test_directories_sockets_and_block_devices_are_refused_and_stay(out: Path, tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match="it is a directory; give the name of a file"):
        write_output(str(tmp_path), "new")
    with pytest.raises(LeaseError, match="it names a directory"):
        write_output(f"{tmp_path}/", "new")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out))
        for call in (check_output, lambda path: write_output(path, "new"), resolve_regular):
            with pytest.raises(OSError if call is resolve_regular else LeaseError, match="it is a socket"):
                call(str(out))
        assert stat.S_ISSOCK(out.lstat().st_mode)


@needs_root
def test_a_block_device_is_refused_and_stays(out: Path) -> None:
    try:
        os.mknod(out, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("this system allows no device nodes to be made")
    with pytest.raises(LeaseError, match="it is a block device"):
        write_output(str(out), "new")
    assert stat.S_ISBLK(out.lstat().st_mode)


def test_a_file_that_must_be_regular_goes_into_no_fifo_device_or_open_file(out: Path) -> None:
    os.mkfifo(out)
    for path, why in (
        (out, "it is a FIFO"),
        ("/dev/full", "it is a character device"),
        ("/dev/fd/0", "it is an open file"),
    ):
        with pytest.raises(OSError, match=why):
            resolve_regular(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent/report.json", "there is no directory .*absent"),
        ("report.json/report.json", "Not a directory|there is no directory"),
        ("n" * 300, "File name too long"),
        ("nul\0.json", "holds a NUL"),
        ("..", "it names a directory"),
    ],
)
def test_names_that_cannot_be_are_refused_at_once_and_when_written(name: str, why: str, out: Path) -> None:
    out.write_text("old")
    for call in (check_output, lambda path: write_output(path, "new")):
        with pytest.raises(LeaseError, match=why):
            call(f"{out.parent}/{name}")
    assert os.listdir(out.parent) == ["report.json"]


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(LeaseError, match="its name is empty"):
        write_output("", "new")


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_what_is_write_protected_is_neither_replaced_nor_added_to(out: Path) -> None:
    out.write_text("old")
    out.chmod(0o444)
    for call in (check_output, lambda path: write_output(path, "new")):
        with pytest.raises(LeaseError, match="write-protected"):
            call(str(out))
    out.parent.chmod(0o555)
    with pytest.raises(LeaseError, match=r"no file can be made in .*Permission denied"):
        check_output(f"{out.parent}/another.json")
    out.parent.chmod(0o755)
    assert out.read_text() == "old"


def test_checking_leaves_everything_as_it_was(out: Path) -> None:
    check_output(str(out))
    assert os.listdir(out.parent) == []
    out.write_text("old")
    check_output(str(out))
    assert (out.read_text(), os.listdir(out.parent)) == ("old", ["report.json"])


@pytest.mark.parametrize("failing", ["rename", "fchmod"])
def test_a_failure_leaves_the_old_file_and_nothing_else(out: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    out.write_text("old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(LeaseError, match="No space left on device"):
        write_output(str(out), "new")
    assert (out.read_text(), os.listdir(out.parent)) == ("old", ["report.json"])


def test_an_interrupt_leaves_the_old_file_and_nothing_else(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out.write_text("old")
    monkeypatch.setattr(os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_output(str(out), "new")
    assert (out.read_text(), os.listdir(out.parent)) == ("old", ["report.json"])


@needs_root
@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_what_another_user_left_where_everybody_may_write_is_refused(everybodys: Path, out: Path, kind: str) -> None:
    out.write_text("precious")
    planted = everybodys / "report.json"
    if kind == "symlink":
        planted.symlink_to(out)
    else:
        os.mkfifo(planted)
    os.chown(planted, OTHER, OTHER, follow_symlinks=False)
    for call in (check_output, lambda path: write_output(path, "new"), lambda path: append_output(path, "new")):
        with pytest.raises(LeaseError, match=f"belongs to user {OTHER}"):
            call(str(planted))
    assert out.read_text() == "precious"


def test_ones_own_links_where_everybody_may_write_are_followed(everybodys: Path, out: Path) -> None:
    (everybodys / "report.json").symlink_to(out)
    write_output(str(everybodys / "report.json"), "new")
    assert out.read_text() == "new"


def test_text_is_added_to_the_end(out: Path) -> None:
    append_output(str(out), "one\n")
    append_output(str(out), "two\n")
    assert out.read_text() == "one\ntwo\n"
    with pytest.raises(LeaseError, match="cannot write"):
        append_output(f"{out}/x", "three")


def test_characters_that_are_no_utf8_are_escaped(out: Path) -> None:
    write_output(str(out), "name \udcff")
    assert out.read_bytes() == rb"name \udcff"
