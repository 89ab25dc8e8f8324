"""A registry's log has the rows that were committed, on disk, in memory, and on the simulation's kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from seams_under_test import real_system, simulated_system

from shmlease.core.model import (
    AppliedRow,
    EventKind,
    EventRow,
    Gone,
    Identity,
    LeaseMode,
    LeaseRow,
    LeaseState,
    RegistryRow,
)
from shmlease.core.snapshot import Snapshot
from shmlease.registry.interfaces import Log
from shmlease.system.ledger import Ledger, read_ledger
from shmlease.testing.memory_ledger import MemoryLedger

REGISTRY = RegistryRow("r", Identity(1, 2, "boot", 3, 4, "command"), 1, 2, 3, 1, 0, None)


def lease(number: int, state: LeaseState = LeaseState.HELD) -> LeaseRow:
    return LeaseRow(number, 1, LeaseMode.READ, state, 0, 1, "site", 0)


class LogConformance:
    """What a `Log` must do; a subclass has fixtures `log` and `snapshot`, which tells what a successor would find in it."""

    def test_rows_stand_as_they_were_committed_last(self, log: Log, snapshot: Callable[[], Snapshot]) -> None:
        log.commit([REGISTRY, lease(1), lease(2), AppliedRow(3, 4)])
        log.commit([lease(1, LeaseState.LINGERING), Gone("L", 2), AppliedRow(3, 5)])
        found = snapshot()
        assert (found.registry, found.applied) == (REGISTRY, {3: 5})
        assert found.leases == {1: lease(1, LeaseState.LINGERING)}

    def test_row_that_never_was_goes_without_harm(self, log: Log, snapshot: Callable[[], Snapshot]) -> None:
        log.commit([REGISTRY, Gone("L", 7)])
        assert not snapshot().leases

    def test_compacted_log_has_the_rows_that_it_was_given(self, log: Log, snapshot: Callable[[], Snapshot]) -> None:
        log.commit([REGISTRY, lease(1), lease(2)])
        log.compact([REGISTRY, lease(2)])
        assert snapshot().leases == {2: lease(2)}
        log.commit([lease(3)])
        assert snapshot().leases == {2: lease(2), 3: lease(3)}
        assert not log.wants_compaction()

    def test_events_come_in_their_order(self, log: Log, snapshot: Callable[[], Snapshot]) -> None:
        log.commit([EventRow(number, 0, EventKind.TAKEOVER) for number in (3, 1, 2)])
        assert [event.number for event in snapshot().events] == [1, 2, 3]

    def test_small_table_has_room_to_grow(self, log: Log) -> None:
        assert log.has_room()


class TestLedger(LogConformance):
    @pytest.fixture
    def path(self) -> Iterator[str]:
        with real_system() as system:
            yield f"{system.root}/ledger"

    @pytest.fixture
    def log(self, path: str) -> Iterator[Log]:
        ledger = Ledger(path, [REGISTRY])
        yield ledger
        ledger.close()

    @pytest.fixture
    def snapshot(self, path: str) -> Callable[[], Snapshot]:
        return lambda: read_ledger(path)


class TestSimulatedLedger(TestLedger):
    @pytest.fixture
    def path(self) -> Iterator[str]:
        with simulated_system() as system:
            yield f"{system.root}/ledger"


class TestMemoryLedger(LogConformance):
    @pytest.fixture
    def log(self) -> MemoryLedger:
        return MemoryLedger()

    @pytest.fixture
    def snapshot(self, log: MemoryLedger) -> Callable[[], Snapshot]:
        return log.snapshot
