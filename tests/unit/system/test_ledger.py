"""The writer's side of the ledger: room ahead of need, compaction, and a full /dev/shm that is an error and no signal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from shmlease.core.model import (
    AppliedRow,
    ClientRow,
    ClientState,
    EventKind,
    EventRow,
    Gone,
    Identity,
    LeaseMode,
    LeaseRow,
    LeaseState,
    RegistryRow,
)
from shmlease.errors import ProtocolError
from shmlease.system import ledger as module
from shmlease.system import syscalls
from shmlease.system.ledger import RESERVE_BYTES, Ledger, read_ledger

WHO = Identity(1, 2, "boot", 3, 4, "x")
REGISTRY = RegistryRow("r", WHO, 1, 2, 3, 1, 0, None)


def lease(number: int) -> LeaseRow:
    return LeaseRow(1 << 40 | number, 1, LeaseMode.READ, LeaseState.HELD, 0, number, "some/where.py:17 in work")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger")


@pytest.fixture
def ledger(path: str) -> Ledger:
    return Ledger(path, [REGISTRY])


def test_what_was_committed_is_read(ledger: Ledger, path: str) -> None:
    ledger.commit([lease(1), lease(2)])
    ledger.commit([Gone("L", lease(1).id), AppliedRow(1, 9)])
    snapshot = read_ledger(path)
    assert (snapshot.registry, snapshot.leases, snapshot.applied) == (REGISTRY, {lease(2).id: lease(2)}, {1: 9})
    ledger.close()


def test_ledger_is_for_this_user_alone(ledger: Ledger, path: str) -> None:
    before = os.umask(0)
    ledger.compact([REGISTRY])
    os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    ledger.close()


def test_room_is_reserved_before_it_is_needed(ledger: Ledger, path: str) -> None:
    for number in range(20_000):
        assert ledger.has_room()
        reserved = os.stat(path).st_blocks * 512 - ledger._length
        assert reserved >= RESERVE_BYTES // 2 - 4096
        ledger.commit([lease(number)])
        if ledger.wants_compaction():
            ledger.compact([REGISTRY])
    ledger.close()


def test_log_is_compacted_when_most_of_it_is_history(ledger: Ledger, path: str) -> None:
    rows = {number: lease(number) for number in range(100)}
    ledger.commit(list(rows.values()))
    compactions = 0
    for number in range(20_000):
        ledger.has_room()
        ledger.commit([rows[number % 100]])
        if ledger.wants_compaction():
            ledger.compact([REGISTRY, *rows.values()])
            compactions += 1
        assert os.stat(path).st_size < 1 << 20
    assert compactions > 3
    assert read_ledger(path).leases == {row.id: row for row in rows.values()}
    ledger.close()


def test_compaction_is_not_wanted_again_at_once(ledger: Ledger) -> None:
    rows = [lease(number) for number in range(20_000)]
    ledger.compact([REGISTRY, *rows])
    assert not ledger.wants_compaction()
    ledger.close()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_ledger_without_room_to_begin_is_an_error_and_leaves_no_file(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Ledger(path, [REGISTRY])
    assert not os.path.exists(path)
    assert not os.path.exists(f"{path}.new")


def test_ledger_that_cannot_grow_says_so_and_goes_on(ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.has_room()
    monkeypatch.setattr(syscalls, "posix_fallocate", full)
    number = 0
    while ledger.has_room():
        ledger.commit([lease(number)])
        number += 1
    for _ in range(100):  # what was reserved is enough for the releases that must always be written
        ledger.commit([Gone("L", lease(number).id)])
    assert len(read_ledger(path).leases) == number
    ledger.close()


def test_compaction_without_room_keeps_the_old_log(ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.commit([lease(1)])
    before = read_ledger(path)
    monkeypatch.setattr(syscalls, "posix_fallocate", full)
    ledger.compact([REGISTRY])
    assert read_ledger(path) == before
    ledger.commit([lease(2)])
    assert set(read_ledger(path).leases) == {lease(1).id, lease(2).id}
    assert not os.path.exists(f"{path}.new")
    ledger.close()


def test_commit_that_was_cut_short_never_happened(ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_ledger(path)
    pwrite = os.pwrite
    with monkeypatch.context() as short:
        short.setattr(syscalls, "pwrite", lambda fd, data, offset: pwrite(fd, data[:-3], offset))
        with pytest.raises(OSError, match=r"\d+ of \d+ bytes"):
            ledger.commit([lease(1)])
    assert read_ledger(path) == before
    ledger.commit([EventRow(1, 2, EventKind.TAKEOVER)])
    snapshot = read_ledger(path)
    assert not snapshot.leases
    assert len(snapshot.events) == 1
    ledger.close()


@pytest.mark.parametrize("field", ["pid", "start_ticks", "uid"])
@pytest.mark.parametrize("value", [-1, 2**40 * 2**23])
def test_process_that_cannot_be_is_no_row(path: str, field: str, value: int) -> None:
    """Another user writes into his ledger what he likes; os.kill and the like would raise OverflowError for it."""
    identity = replace(WHO, **{field: value})
    Ledger(path, [ClientRow(1, identity, b"", ClientState.CONNECTED, 0)]).close()
    if field == "start_ticks" and value > 0:
        assert read_ledger(path).clients[1].identity == identity
    else:
        with pytest.raises(ProtocolError, match="Expected `int`"):
            read_ledger(path)


def test_ledger_is_written_anew_in_the_directory_that_it_was_begun_in(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    ledger = Ledger(str(tmp_path / "own" / "ledger"), [REGISTRY])
    (tmp_path / "own").rename(tmp_path / "moved")
    (tmp_path / "own").mkdir()
    ledger.compact([REGISTRY, lease(1)])
    ledger.close()
    assert os.listdir(tmp_path / "own") == []
    assert set(read_ledger(str(tmp_path / "moved" / "ledger")).leases) == {lease(1).id}


def test_what_a_killed_predecessor_was_writing_is_in_nobodys_way(path: str) -> None:
    os.symlink("/etc/passwd", f"{path}.new")
    Ledger(path, [REGISTRY]).close()
    assert read_ledger(path).registry == REGISTRY
    assert not os.path.lexists(f"{path}.new")


def test_log_does_not_grow_beyond_what_is_read(path: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEDGER_LIMIT_BYTES", 4 * RESERVE_BYTES)
    number = 0
    while ledger.has_room():
        number += 1
        ledger.commit([lease(number)])
        assert number < 10_000, "there is always room"
    assert os.stat(path).st_size <= 4 * RESERVE_BYTES
    assert len(read_ledger(path, limit_bytes=4 * RESERVE_BYTES).leases) == number
    ledger.close()
