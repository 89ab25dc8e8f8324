"""The registry process: in a session of its own, nobody's child, with nothing inherited; and what a failed start says."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from rig.until import until
from shmlease.core.settings import NewRegistry, Settings
from shmlease.errors import RegistryUnavailableError
from shmlease.system import launch as module
from shmlease.system.directory import SHM_ROOT, RegistryDirectory
from shmlease.system.identity import identify
from shmlease.system.interpreter import find_interpreter
from shmlease.system.launch import launch
from shmlease.system.ledger import read_ledger


@pytest.fixture
def directory() -> Iterator[RegistryDirectory]:
    directory = RegistryDirectory(f"l{os.getpid()}{threading.get_ident() % 1000}")
    directory.create()
    yield directory
    if directory.exists():
        try:
            os.kill(read_ledger(directory.ledger_path).registry.identity.pid, signal.SIGTERM)  # type: ignore[union-attr]
            until(lambda: not directory.exists())
        except (FileNotFoundError, ProcessLookupError):
            directory.remove()


def start(directory: RegistryDirectory, **changes: object) -> int:
    """A registry is started; its pid."""
    settings = Settings(directory.id, SHM_ROOT, NewRegistry(1 << 20, 1 << 19, 1.0))
    lock_fd = directory.lock()
    assert lock_fd is not None
    try:
        launch(settings, lock_fd)
    finally:
        directory.unlock(lock_fd)
    registry = read_ledger(directory.ledger_path).registry
    assert registry is not None
    return registry.identity.pid


def settings_of_a_dead_owner(directory: RegistryDirectory) -> Settings:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    settings = Settings(directory.id, SHM_ROOT, NewRegistry(1 << 20, 0, 1.0, identify(owner.pid)))
    owner.communicate(b"\n")
    return settings


def stat_of(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()


def test_registry_is_in_a_session_of_its_own_and_nobodys_child(directory: RegistryDirectory) -> None:
    pid = start(directory)
    _, parent, _, session, terminal = stat_of(pid)[:5]
    assert int(session) != os.getsid(0)
    assert int(terminal) == 0
    assert int(parent) != os.getpid()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_registry_inherits_no_descriptor(directory: RegistryDirectory) -> None:
    mine_r, mine_w = os.pipe()
    os.set_inheritable(mine_w, True)
    pid = start(directory)
    os.close(mine_w)
    held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    own = (directory.path, "socket:", "anon_inode:", "/dev/null", "pipe:")
    assert not [target for target in held if not target.startswith(own)]
    assert os.read(mine_r, 1) == b"", "nobody but us held the pipe"
    os.close(mine_r)
    until(lambda: all(os.readlink(f"/proc/{pid}/fd/{fd}") == os.devnull for fd in (0, 1, 2)))
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_registry_runs_without_numpy(directory: RegistryDirectory) -> None:
    pid = start(directory)
    with open(f"/proc/{pid}/maps") as file:
        assert "numpy" not in file.read()


def test_registry_holds_the_lock_that_its_starter_took(directory: RegistryDirectory) -> None:
    pid = start(directory)
    assert directory.is_served()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not directory.is_served())
    directory.remove()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_registry_told_to_end_leaves_nothing(directory: RegistryDirectory, number: int) -> None:
    os.kill(start(directory), number)
    until(lambda: not directory.exists())


def test_registry_ends_on_a_signal_though_its_starter_blocked_it(directory: RegistryDirectory) -> None:
    """A thread that waits for signals has them blocked, and what it starts would inherit that."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        pid = start(directory)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not directory.exists(), what="the end of the registry")


def test_registry_that_cannot_start_says_why(directory: RegistryDirectory) -> None:
    os.mkdir(directory.socket_path + ".new")
    try:
        with pytest.raises(RegistryUnavailableError, match=r"did not start: (IsADirectory|Permission)Error"):
            start(directory)
    finally:
        os.rmdir(directory.socket_path + ".new")


def test_interpreter_that_dies_at_once_is_not_waited_for(
    directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BOOT", "import os; os._exit(3)")
    with pytest.raises(RegistryUnavailableError, match="it said nothing"):
        start(directory)


def test_interpreter_that_says_nothing_is_not_waited_for_ever(
    directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BOOT", "import os, time; os.fork() and os._exit(0); time.sleep(0.5)")
    monkeypatch.setattr(module, "START_WITHIN_S", 0.1)
    with pytest.raises(RegistryUnavailableError, match="did not start within"):
        start(directory)


def test_failed_start_leaves_no_descriptor_open(directory: RegistryDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOT", "import os; os._exit(3)")
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(RegistryUnavailableError):
        start(directory)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_registry_of_an_owner_that_has_died_already_ends(directory: RegistryDirectory) -> None:
    settings = settings_of_a_dead_owner(directory)
    lock_fd = directory.lock()
    assert lock_fd is not None
    launch(settings, lock_fd)
    directory.unlock(lock_fd)
    until(lambda: not directory.exists())


def test_registry_whose_starter_dies_while_it_starts_leaves_nothing(directory: RegistryDirectory) -> None:
    settings = settings_of_a_dead_owner(directory)
    lock_fd = directory.lock()
    assert lock_fd is not None
    nobody, report = socket.socketpair()
    nobody.close()
    module._spawn(find_interpreter(), settings, lock_fd, report.fileno())
    report.close()
    directory.unlock(lock_fd)
    until(lambda: not directory.exists())


def test_directory_that_never_had_a_ledger_is_not_succeeded_but_removed(directory: RegistryDirectory) -> None:
    """Its starter was killed before the registry began: a successor would have no capacity, no owner and no end."""
    lock_fd = directory.lock()
    assert lock_fd is not None
    with pytest.raises(RegistryUnavailableError):
        launch(Settings(directory.id, SHM_ROOT), lock_fd)
    directory.unlock(lock_fd)
    assert not directory.exists()


def test_registry_is_started_by_a_program_with_many_files_open(directory: RegistryDirectory, many_files: None) -> None:
    start(directory)


def test_registry_whose_directory_was_removed_before_it_began_leaves_its_namesake_alone(
    directory: RegistryDirectory,
) -> None:
    lock_fd = directory.lock()
    assert lock_fd is not None
    shutil.rmtree(directory.path)
    namesake = RegistryDirectory(directory.id)
    namesake.create()
    with pytest.raises(RegistryUnavailableError, match=r"was removed before registry .* began"):
        launch(Settings(directory.id, SHM_ROOT, NewRegistry(1 << 20, 0, 1.0)), lock_fd)
    directory.unlock(lock_fd)
    assert os.listdir(namesake.path) == []
    namesake.remove()
