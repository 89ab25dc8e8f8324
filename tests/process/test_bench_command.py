"""`shmlease bench` measures, beside its references, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from shmlease.verification.bench import handover
from shmlease.verification.bench.timing import Measurement


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmlease", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hand_over_is_measured_beside_its_references() -> None:
    finished = bench("handover", "--sizes", "4KiB", "--seconds", "50ms", "--json")
    assert finished.returncode == 0, finished.stderr
    (measured,) = msgspec.json.decode(finished.stdout, type=list[Measurement])
    assert {"shmlease", "stdlib SharedMemory", "SharedMemoryManager", "memory copy"} <= set(measured.subjects())
    assert "resource_tracker" not in finished.stderr


def test_round_trip_and_memory_are_shown_with_what_they_mean() -> None:
    finished = bench("roundtrip", "memory", "--seconds", "50ms")
    assert finished.returncode == 0, finished.stderr
    assert "lease, unnamed" in finished.stdout
    assert "1,000 live leases" in finished.stdout
    assert "medians, (ratio to AF_UNIX ping-pong)" in finished.stdout


def test_sizes_that_hold_no_number_are_refused() -> None:
    finished = bench("handover", "--sizes", "4")
    assert finished.returncode == 2
    assert "at least 8 bytes" in finished.stderr


def test_figures_that_take_no_time_are_refused() -> None:
    finished = bench("roundtrip", "--seconds", "0")
    assert finished.returncode == 2
    assert "--seconds 0: a figure takes some time" in finished.stderr


def test_peer_that_fails_in_the_other_process_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides waited for one another."""
    monkeypatch.setitem(handover.PEERS, "known here only", handover.PEERS["stdlib SharedMemory"])
    with pytest.raises(EOFError):
        handover.measure_handover([4096], 0.1, ["known here only"])
