"""Removing what dead registries left: exactly theirs, and only when nobody is left who could use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from shmlease.core.model import ClientRow, ClientState, Identity, RegistryRow
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import identify, own_identity
from shmlease.system.ledger import Ledger
from shmlease.system.reclaim import remove_if_abandoned, sweep


@pytest.fixture(scope="module")
def dead() -> Identity:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identify(process.pid)
    process.communicate(b"\n")
    return identity


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def left_behind(
    root: str,
    id: str,
    registry: Identity,
    *clients: Identity,
    owner: Identity | None = None,
    state: ClientState = ClientState.CONNECTED,
) -> RegistryDirectory:
    """The directory of a registry that was killed."""
    directory = RegistryDirectory(id, root)
    directory.create()
    rows = [ClientRow(number, client, b"", state, 0) for number, client in enumerate(clients, 1)]
    Ledger(directory.ledger_path, [RegistryRow(id, registry, 1, 1, 1, 1, 0, owner), *rows]).close()
    directory.create_segment(1, 4096)
    directory.link_alias(1, f"shmlease-{id}-1-0123456789abcdef")
    return directory


def test_registry_dead_with_all_its_clients_is_removed_and_nothing_else(root: str, dead: Identity) -> None:
    left_behind(root, "gone", dead, dead, dead, owner=dead)
    Path(root, "shmlease-gone-x").touch()
    Path(root, "psm_1234").touch()
    Path(root, "shmlease-gone-1-not").touch()
    assert sweep(root) == ["gone"]
    assert sorted(os.listdir(root)) == ["psm_1234", "shmlease-gone-1-not", "shmlease-gone-x"]


def test_registry_with_a_live_client_stays(root: str, dead: Identity) -> None:
    directory = left_behind(root, "kept", dead, dead, own_identity())
    assert sweep(root) == []
    assert f"pid {os.getpid()}" in remove_if_abandoned(directory)
    assert os.path.exists(directory.segment_path(1))


def test_registry_with_a_live_owner_stays(root: str, dead: Identity) -> None:
    left_behind(root, "kept", dead, owner=own_identity())
    assert sweep(root) == []


def test_client_that_ended_in_order_keeps_nothing(root: str, dead: Identity) -> None:
    left_behind(root, "gone", dead, own_identity(), state=ClientState.ENDED)
    assert sweep(root) == ["gone"]


def test_client_of_another_pid_namespace_counts_as_alive(root: str, dead: Identity) -> None:
    left_behind(root, "kept", dead, replace(dead, pid_namespace=1))
    assert sweep(root) == []


def test_client_whose_pid_is_used_again_is_dead(root: str, dead: Identity) -> None:
    left_behind(root, "gone", dead, replace(own_identity(), start_ticks=1))
    assert sweep(root) == ["gone"]


def test_registry_that_runs_is_left_alone(root: str, dead: Identity) -> None:
    directory = left_behind(root, "runs", dead)
    lock_fd = directory.lock()
    assert lock_fd is not None
    assert remove_if_abandoned(directory) == "its registry is running"
    assert sweep(root) == []
    directory.unlock(lock_fd)
    assert sweep(root) == ["runs"]


def test_ledger_that_cannot_be_read_stays_and_says_so(root: str, dead: Identity) -> None:
    directory = left_behind(root, "odd", dead)
    Path(directory.ledger_path).write_bytes(b"shmlease ledger 9\nsomething of the future")
    assert "cannot be read" in remove_if_abandoned(directory)
    assert directory.exists()


def test_directory_of_one_killed_before_its_first_ledger_is_removed(root: str) -> None:
    RegistryDirectory("bare", root).create()
    assert sweep(root) == ["bare"]
    assert os.listdir(root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_registry_of_another_user_is_left_alone(root: str, dead: Identity) -> None:
    directory = left_behind(root, "theirs", dead)
    os.chown(directory.path, 65534, 65534)
    assert sweep(root) == []
    assert os.path.exists(directory.segment_path(1))


def test_lock_is_held_while_it_is_decided(root: str, dead: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can succeed a registry in the middle of its removal."""
    left_behind(root, "gone", dead)
    seen: list[int | None] = []
    remove = RegistryDirectory.remove

    def look(self: RegistryDirectory) -> None:
        seen.append(self.lock())
        remove(self)

    monkeypatch.setattr(RegistryDirectory, "remove", look)
    sweep(root)
    assert seen == [None]
