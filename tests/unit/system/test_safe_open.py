"""What others can write is opened without following, waiting or trusting; what is made has its mode whatever the umask."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmlease.errors import PermissionDeniedError
from shmlease.system import syscalls
from shmlease.system.safe_open import create_regular, directory_of, open_directory, open_regular, read_regular

ME = os.geteuid()
F_SETSIG = 10  # linux/fcntl.h; the fcntl module does not name it


def make_link(path: Path) -> None:
    (path.parent / "target").write_text("secret")
    path.symlink_to("target")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (make_link, "is a symbolic link, not a regular file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "is a symbolic link, not a regular file"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "is a symbolic link, not a regular file"),
    "FIFO": (os.mkfifo, "is a FIFO, not a regular file"),
    "directory": (Path.mkdir, "is a directory, not a regular file"),
    "socket": (make_socket, "is a socket, not a regular file"),
}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR], ids=["read", "write", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_regular_file_is_opened_and_what_else_is_there_is_told_at_once(
    tmp_path: Path, kind: str, flags: int
) -> None:
    make, words = KINDS[kind]
    make(tmp_path / "x")
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(PermissionDeniedError, match=f"{tmp_path}/x {words}"):
        open_regular(str(tmp_path / "x"), flags, owner=ME)
    with within(tmp_path) as directory, pytest.raises(PermissionDeniedError, match=f"{tmp_path}/x {words}"):
        open_regular("x", flags, directory=directory, owner=ME)
    assert os.listdir("/proc/self/fd") == descriptors, "nothing stays open"
    assert not (tmp_path / "nowhere").exists()


class within:  # noqa: N801 - reads as a word
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._fd = open_directory(str(self._path))
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(PermissionDeniedError, match=rf"belongs to uid {ME}; uid {ME + 1} was expected") as refused:
        open_regular(str(tmp_path / "x"), owner=ME + 1)
    assert refused.value.uid == ME


def test_nothing_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(str(tmp_path / "x"), owner=ME)
    with pytest.raises(FileNotFoundError):
        open_directory(str(tmp_path / "x"))


def test_file_under_a_lease_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    holder = os.open(tmp_path / "x", os.O_RDONLY)
    fcntl.fcntl(holder, F_SETSIG, signal.SIGURG)  # and not SIGIO, which would end this process
    fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        with pytest.raises(BlockingIOError):
            open_regular(str(tmp_path / "x"), owner=ME)
    finally:
        os.close(holder)


def test_file_is_read_up_to_a_bound_and_a_larger_one_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 3_000_000)
    assert read_regular(str(path), 3_000_000) == b"x" * 3_000_000
    monkeypatch.setattr(syscalls, "pread", None)
    with pytest.raises(PermissionDeniedError, match=r"holds 2.861 MiB; not more than 2.861 MiB is read"):
        read_regular(str(path), 2_999_999)
    os.truncate(path, 1 << 40)
    with pytest.raises(PermissionDeniedError, match="holds 1 TiB"):
        read_regular(str(path), 1 << 20)


def test_file_that_grows_while_it_is_read_is_read_up_to_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.touch()
    pread = os.pread

    def growing(descriptor: int, length: int, offset: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x" * 1_000_000)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(syscalls, "pread", growing)
    with pytest.raises(PermissionDeniedError, match="not more than 5 MiB is read"):
        read_regular(str(path), 5 << 20)


@pytest.fixture(params=[0o000, 0o022, 0o177, 0o377, 0o777], ids="umask {:04o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_file_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    os.close(create_regular(str(tmp_path / "x")))
    assert stat.S_IMODE(os.stat(tmp_path / "x").st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_regular(str(tmp_path / "x"))


def test_file_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("made-by-following")
    with pytest.raises(FileExistsError):
        create_regular(str(tmp_path / "x"))
    assert os.listdir(tmp_path) == ["x"]


def test_directory_is_not_entered_through_a_link_nor_are_those_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDeniedError, match="is a symbolic link, not a directory"):
        open_directory(str(tmp_path / "root" / "a"))
    with (
        pytest.raises(PermissionDeniedError, match="a is a symbolic link, not a directory"),
        directory_of(str(tmp_path / "root"), "a/b/file"),
    ):
        pass
    (tmp_path / "root" / "c" / "d").mkdir(parents=True)
    with directory_of(str(tmp_path / "root"), "c/d/file") as (directory, name):
        assert (os.fstat(directory).st_ino, name) == (os.stat(tmp_path / "root" / "c" / "d").st_ino, "file")
