from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.auditor.judge.evidence import File, Key, Probe, Root
from shmlease.auditor.observe import lease_probe
from shmlease.auditor.observe.lease_probe import compiled_probe, holding_lease, probe, probe_files

NEEDS_COMPILED = pytest.mark.skipif(compiled_probe() is None, reason="lease_probe.c was not compiled")


@pytest.fixture
def path() -> Iterator[str]:
    path = f"/dev/shm/test-probe-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"x" * 4096)
    yield path
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def key_of(path: str) -> Key:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def test_file_that_nobody_holds_is_free(path: str) -> None:
    assert probe(path, key_of(path)) == (Probe.FREE, "")


def test_open_descriptor_holds(path: str) -> None:
    with open(path, "rb"):
        assert probe(path, key_of(path))[0] is Probe.HELD
    assert probe(path, key_of(path))[0] is Probe.FREE


def file_at(path: str) -> File:
    """What a scan of /dev/shm knows of it."""
    key = key_of(path)
    return File(key, None, Root("/dev/shm", key[0]), path.removeprefix("/dev/shm/"), 4096, 4096, 0, 0)


@pytest.fixture
def files(path: str) -> Iterator[dict[str, File]]:
    """Files as a scan found them, by what has become of them since."""
    paths = {
        kind: f"{path}-d/{kind}"
        for kind in ("free", "open", "mapped", "sent", "gone", "another", "link", "fifo", "é\udcff")
    }
    os.mkdir(f"{path}-d")
    for each in paths.values():
        Path(each).write_bytes(b"x" * 4096)
    files = {kind: file_at(each) for kind, each in paths.items()}
    for kind in ("gone", "link", "fifo"):
        os.unlink(paths[kind])
    os.symlink("/dev/null", paths["link"])
    os.mkfifo(paths["fifo"])
    Path(f"{path}-d/new").write_bytes(b"y")
    os.rename(f"{path}-d/new", paths["another"])
    ends = socket.socketpair()
    with open(paths["open"], "rb"), open(paths["mapped"], "rb") as mapped, open(paths["sent"], "rb") as sent:
        socket.send_fds(ends[0], [b"x"], [sent.fileno()])
        with mmap.mmap(mapped.fileno(), 0, prot=mmap.PROT_READ):
            mapped.close()
            sent.close()
            yield files
    for end in ends:
        end.close()
    shutil.rmtree(f"{path}-d")


BECOME = dict.fromkeys(("open", "mapped", "sent"), Probe.HELD) | {"free": Probe.FREE, "é\udcff": Probe.FREE}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=NEEDS_COMPILED)])
def test_many_files_are_asked_about_together(files: dict[str, File], compiled: bool, monkeypatch) -> None:
    if not compiled:
        monkeypatch.setattr(lease_probe, "compiled_probe", lambda: None)
    probes = probe_files(files.values(), wait=lambda _: None)
    assert {kind: probes[file.key] for kind, file in files.items()} == {
        kind: (BECOME.get(kind, Probe.GONE), "") for kind in files
    }


@NEEDS_COMPILED
def test_only_what_is_odd_is_asked_about_one_by_one(files: dict[str, File], monkeypatch) -> None:
    asked = []

    def noting(name: str, key: Key, directory: int) -> tuple[Probe, str]:
        asked.append(name)
        return probe(name, key, directory=directory)

    monkeypatch.setattr(lease_probe, "probe", noting)
    probe_files(files.values(), wait=lambda _: None)
    assert set(asked) == files.keys() - BECOME.keys()


def test_file_that_only_another_probe_had_open_is_free_when_asked_again(path: str) -> None:
    file = file_at(path)
    other = os.open(path, os.O_RDONLY)
    assert probe_files([file], wait=lambda _: os.close(other)) == {file.key: (Probe.FREE, "")}
    with open(path, "rb"):
        waits: list[float] = []
        assert probe_files([file], wait=waits.append)[file.key][0] is Probe.HELD
    assert 1 <= len(waits) <= 5
    assert sum(waits) < 0.1


def test_lease_on_a_file_that_only_another_probe_had_open_is_had_when_asked_again(path: str) -> None:
    other = os.open(path, os.O_RDONLY)
    with holding_lease(path, key_of(path), wait=lambda _: os.close(other)) as (lease, verdict, _):
        assert (lease is not None, verdict) == (True, Probe.FREE)
    with open(path, "rb"), holding_lease(path, key_of(path), wait=lambda _: None) as (lease, verdict, _):
        assert (lease, verdict) == (None, Probe.HELD)


def test_mapping_without_a_descriptor_holds(path: str) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        file.close()
        assert probe(path, key_of(path))[0] is Probe.HELD


def test_descriptor_in_a_message_holds(path: str) -> None:
    ends = socket.socketpair()
    with open(path, "rb") as file:
        socket.send_fds(ends[0], [b"x"], [file.fileno()])
    assert probe(path, key_of(path))[0] is Probe.HELD
    for end in ends:
        end.close()
    assert probe(path, key_of(path))[0] is Probe.FREE


def test_another_file_under_the_name_is_not_the_one_asked_for(path: str) -> None:
    key = key_of(path)
    other = f"{path}-other"
    Path(other).write_bytes(b"y")
    os.rename(other, path)
    assert probe(path, key)[0] is Probe.GONE


@pytest.mark.parametrize("kind", ["missing", "link", "fifo"])
def test_what_is_no_file_any_more_is_gone_and_blocks_nobody(path: str, kind: str) -> None:
    key = key_of(path)
    os.unlink(path)
    if kind == "link":
        os.symlink("/dev/null", path)
    elif kind == "fifo":
        os.mkfifo(path)
    assert probe(path, key)[0] is Probe.GONE


AS_NOBODY = """
import os, sys
from shmlease.auditor.observe.lease_probe import probe
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print(*probe(sys.argv[1], (int(sys.argv[2]), int(sys.argv[3]))))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("mode", "reason"), [(0o600, "open: Permission denied"), (0o644, "F_SETLEASE: Permission denied")])
def test_file_of_somebody_else_is_unknown_and_never_free(path: str, mode: int, reason: str) -> None:
    os.chmod(path, mode)
    words = [sys.executable, "-c", AS_NOBODY, path, *map(str, key_of(path))]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"Probe.UNKNOWN {reason}"


def test_opener_that_meets_a_lease_waits_and_the_prober_survives_the_signal(path: str) -> None:
    opened = threading.Event()

    def open_it() -> None:
        with open(path, "rb"):
            opened.set()

    with holding_lease(path, key_of(path)) as (lease, verdict, _):
        assert verdict is Probe.FREE
        assert lease is not None
        assert lease.is_unbroken()
        opener = threading.Thread(target=open_it)
        opener.start()
        while lease.is_unbroken():
            pass
        assert not opened.is_set()
    opener.join()
    assert opened.is_set()


def test_the_signal_of_a_broken_lease_is_not_the_one_that_kills(path: str) -> None:
    with holding_lease(path, key_of(path)) as (lease, _, _):
        assert lease is not None
        assert fcntl.fcntl(lease.descriptor, 11) == signal.SIGURG  # F_GETSIG


def test_lease_is_given_back_even_when_a_child_has_inherited_the_descriptor(path: str) -> None:
    with holding_lease(path, key_of(path)):
        release, gate = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gate)
            os.read(release, 1)
            os._exit(0)
    # the child still has the file open, but no lease stands in the way of an opener
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    os.close(gate)
    os.waitpid(child, 0)
    os.close(release)


def test_two_probes_at_once_do_not_call_a_free_file_gone(path: str) -> None:
    with holding_lease(path, key_of(path)):
        assert probe(path, key_of(path))[0] is Probe.HELD
