"""The ledger is crash-consistent: whatever part of it was written, a reader finds the table after some whole commit.

The log is made by the real writer from the changes of a real table; then it is cut at every byte, torn, and overwritten, as
a writer killed between any two stores, or a reader that looks in the middle of one, would find it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from rig.repeated import for_each
from rig.shell import Shell
from shmlease.core import messages as m
from shmlease.core.snapshot import Snapshot, key_of
from shmlease.core.table import Table
from shmlease.errors import ProtocolError
from shmlease.system.ledger import MAGIC, Ledger, parse_ledger, read_ledger


class Recorder(Shell):
    """A shell that writes the ledger as the server does, and remembers the table after each commit."""

    def __init__(self, path: str) -> None:
        super().__init__(40, 10)
        self.ledger = Ledger(path, self.table.rows.all_rows())
        self.table.rows.take_changes()
        self.path = path
        self.whole = [self.snapshot()]
        self.ends = [self.ledger._length]

    def settle(self) -> None:
        table = self.table
        while table.effects or table.wants_to_grant_ahead():
            if table.wants_to_grant_ahead():
                table.grant_ahead(self.now)
            while table.effects:
                self._carry_out(table.effects.popleft())
                self.commit()
        self.commit()

    def commit(self) -> None:
        changes = self.table.rows.take_changes()
        if changes and hasattr(self, "ledger"):
            self.ledger.commit(changes)
            self.whole.append(self.snapshot())
            self.ends.append(self.ledger._length)


def live(recorder: Recorder, seed: int, steps: int = 40) -> None:
    """Some clients do what clients do."""
    rng = random.Random(seed)
    clients = [recorder.hello() for _ in range(3)]
    held: list[tuple[int, int]] = []
    for _ in range(steps):
        client = rng.choice(clients)
        act = rng.random()
        if act < 0.4:
            granted = recorder.lease(client, rng.randrange(1, 6), rng.choice([None, f"name {rng.random()}"]))
            if isinstance(granted, m.Granted):
                recorder.publish(client, granted.lease, readers=rng.choice([0, 1]))
                held.append((client, granted.lease))
        elif act < 0.55 and held:
            recorder.redeem(client, recorder.mint(*rng.choice(held)))
        elif act < 0.9 and held:
            recorder.release(*held.pop(rng.randrange(len(held))))
        elif act < 0.95:
            recorder.wait(rng.choice([0.1, 6, 70]))
        else:
            recorder.die(client)
            clients[clients.index(client)] = recorder.hello()
            held = [(who, lease) for who, lease in held if who != client]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    recorder = Recorder(str(tmp_path / "ledger"))
    live(recorder, seed=1)
    assert len(recorder.whole) > 50
    return recorder


def test_any_prefix_is_the_table_after_some_whole_commit(recorder: Recorder) -> None:
    with open(recorder.path, "rb") as file:
        content = file.read()
    for length in range(len(MAGIC), recorder.ends[-1] + 1, 1):
        commits = sum(end <= length for end in recorder.ends)
        found = parse_ledger(content[:length])
        assert found == (recorder.whole[commits - 1] if commits else Snapshot()), f"cut at byte {length}"


@for_each("seed", range(300))
def test_torn_last_record_is_as_if_it_was_not_there(recorder: Recorder, seed: int) -> None:
    """Of a write that was under way, any of its bytes may be there and any may not."""
    rng = random.Random(seed)
    with open(recorder.path, "rb") as file:
        content = bytearray(file.read())
    last = rng.randrange(1, len(recorder.ends))
    start, end = recorder.ends[last - 1], recorder.ends[last]
    old = bytes(end - start) if rng.random() < 0.5 else rng.randbytes(end - start)
    torn = bytearray(content[start:end])
    for index in range(len(torn)):
        if rng.random() < rng.choice([0.02, 0.5, 0.98]):
            torn[index] = old[index]
    whole = bytes(torn) == bytes(content[start:end])
    found = parse_ledger(bytes(content[:start] + torn + bytes(1000)))
    assert found == recorder.whole[last if whole else last - 1]


def test_successor_goes_on_from_every_commit(recorder: Recorder) -> None:
    """Killed between any two commits, the table restores, serves, and ends in order."""
    with open(recorder.path, "rb") as file:
        content = file.read()
    for end in recorder.ends[::3]:
        snapshot = parse_ledger(content[:end])
        table = Table(recorder.row, snapshot, recorder.now)
        shell = Shell()
        shell.table, shell.row, shell.now = table, recorder.row, recorder.now
        shell.files = {number: row.size_bytes for number, row in snapshot.segments.items()}
        shell.tokens = dict.fromkeys(snapshot.tickets)
        shell.settle()
        for client in list(snapshot.clients):
            shell.die(client)
        shell.wait(3600)
        assert not shell.files
        assert not shell.table.rows.segments
        assert not shell.table.rows.leases
        assert not shell.table.rows.tickets


def test_compaction_changes_nothing_that_a_reader_finds(recorder: Recorder) -> None:
    before = read_ledger(recorder.path)
    recorder.ledger.compact(recorder.table.rows.all_rows())
    assert read_ledger(recorder.path) == before == recorder.snapshot()
    live(recorder, seed=2)
    assert read_ledger(recorder.path) == recorder.snapshot()


def test_reader_with_the_old_file_open_has_a_consistent_table(recorder: Recorder) -> None:
    before = recorder.snapshot()
    with open(recorder.path, "rb") as file:
        recorder.ledger.compact(recorder.table.rows.all_rows())
        live(recorder, seed=3)
        assert parse_ledger(file.read()) == before


def test_ledger_of_a_writer_killed_in_compaction_is_the_old_one(recorder: Recorder) -> None:
    before = recorder.snapshot()
    with open(f"{recorder.path}.new", "wb") as file:
        file.write(MAGIC + os.urandom(500))
    assert read_ledger(recorder.path) == before
    again = Ledger(recorder.path, recorder.table.rows.all_rows())
    assert read_ledger(recorder.path) == before
    again.close()


def test_rows_replayed_are_rows_of_the_table(recorder: Recorder) -> None:
    snapshot = read_ledger(recorder.path)
    assert snapshot == Snapshot.of({key_of(row): row for row in recorder.table.rows.all_rows()})


@pytest.mark.parametrize("content", [b"", b"x", b"shmlease ledger 2\n", MAGIC[:-1], b"\0" * 4096])
def test_file_that_is_no_ledger_is_a_protocol_error(content: bytes) -> None:
    with pytest.raises(ProtocolError, match="a ledger begins with"):
        parse_ledger(content)
