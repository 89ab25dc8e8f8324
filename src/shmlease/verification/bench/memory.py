"""What shmlease itself takes of memory, beside the arrays."""

from __future__ import annotations

import os
import subprocess
from typing import Final

import shmlease
from shmlease.system.interpreter import find_interpreter
from shmlease.system.ledger import read_ledger
from shmlease.verification.bench.timing import Figure, Measurement, machine

__all__ = ["measure_memory"]

_QUANTIFIES: Final = (
    "Resident memory that is not an array: of the registry process and of its ledger in /dev/shm, against the number of "
    "live leases of one page; of a SharedMemoryManager's process that has made none; and what importing shmlease and "
    "connecting "
    "adds to a Python process that has numpy."
)
_PROBE: Final = (
    "import numpy, sys, os\n"
    "def now(): return sum(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(('RssAnon', "
    "'RssFile')))\n"
    "before = now(); import shmlease; shmlease.connect(sys.argv[1]).statistics(); print((now() - before) * 1024)"
)


def measure_memory(counts: tuple[int, ...] = (0, 100, 1_000, 10_000)) -> Measurement:
    """Measure with each number of live leases in `counts`, ascending."""
    figures = []
    with shmlease.Registry(capacity=max(counts) * 4096 + (16 << 20)) as registry:
        command = [find_interpreter(), "-P", "-c", _PROBE, registry.id]
        client = subprocess.run(command, capture_output=True, text=True, check=True)
        figures.append(_figure("client: import and connect", 0, float(client.stdout)))
        held: list[shmlease.Lease] = []
        for count in counts:
            held += [registry.lease(shape=1) for _ in range(count - len(held))]
            registry.statistics()
            ledger = f"/dev/shm/shmlease-{registry.id}/ledger"
            row = read_ledger(ledger).registry
            assert row is not None
            figures.append(_figure("registry process", count, _resident_bytes(row.identity.pid)))
            figures.append(_figure("ledger", count, os.stat(ledger).st_blocks * 512))
        for lease in held:
            lease.release()
    figures.append(_figure("SharedMemoryManager process", 0, _manager_bytes()))
    return Measurement("memory", _QUANTIFIES, "bytes", "live leases", "SharedMemoryManager process", figures, machine())


def _manager_bytes() -> float:
    from multiprocessing.managers import SharedMemoryManager  # noqa: PLC0415 - for this figure only

    with SharedMemoryManager() as manager:
        return _resident_bytes(manager._process.pid)  # type: ignore[attr-defined]


def _resident_bytes(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return sum(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))


def _figure(subject: str, at: float, size_bytes: float) -> Figure:
    return Figure(subject, float(at), size_bytes, size_bytes, 1.0, 1)
