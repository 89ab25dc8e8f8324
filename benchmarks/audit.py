"""How long an audit takes, and whether it is ever wrong about what is in use.

Two questions, each with its method:

``speed``
    The time of one `shmlease.audit()`, in milliseconds, median of several, with 10,000 segments and 300 processes on the
    system: first all segments mapped by those processes (nothing to report), then all of them orphans (everything to
    report, so that it has to look three times). The reference, measured in the same run, is reading the maps and the
    descriptors of the same processes and listing the same directory, without judging anything.

``churn``
    The number of false findings while two processes create, map, unmap and unlink files as fast as they can, for 30
    seconds; none of those files is ever left. The reference is what a scan that lists first and then reads /proc would have
    called orphans in looks of the same run.

Both run in a /dev/shm of their own where the system allows it, so that what others keep there does not count; other mount
namespaces are not looked into. Run ``python benchmarks/audit.py speed`` or ``python benchmarks/audit.py churn --seconds
30``; ``--json`` is for machines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Iterator

from shmlease.auditor.audit import audit
from shmlease.auditor.judge.evidence import Probe
from shmlease.auditor.observe.observer import Observer
from shmlease.auditor.run.isolation import enter_isolation
from shmlease.errors import UnsupportedPlatformError

SHM = "/dev/shm"


def speed(segments: int, processes: int, repeats: int) -> dict[str, float]:
    """Milliseconds of one audit, held and orphaned, and of the bare reading."""
    prefix = f"{SHM}/audit-bench-{secrets.token_hex(4)}-"
    paths = [f"{prefix}{number}" for number in range(segments)]
    figures: dict[str, float] = {}
    try:
        for path in paths:
            with open(path, "xb") as file:
                file.write(b"x" * 64)
        with _holders(paths, processes):
            figures["reading_ms"] = _median_ms(_read_everything, repeats)
            figures["held_ms"] = _median_ms(lambda: _expect(0), repeats)
            figures["held_vs_reading"] = figures["held_ms"] / figures["reading_ms"]
        with _holders([], processes):
            figures["orphans_ms"] = _median_ms(lambda: _expect(segments), repeats)
    finally:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    return figures


def _expect(leaks: int) -> None:
    report = audit(foreign=False)
    seen = len([finding for finding in report.leaks if "audit-bench-" in finding.name])
    if seen != leaks:
        raise SystemExit(f"{seen} leaks reported where {leaks} were expected")


def _read_everything() -> None:
    with os.scandir(SHM) as entries:
        for entry in entries:
            entry.stat()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/maps", "rb") as file:
                file.read()
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    os.readlink(f"/proc/{pid}/fd/{descriptor}")


def _median_ms(action: object, repeats: int) -> float:
    assert callable(action)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


@contextlib.contextmanager
def _holders(paths: list[str], processes: int) -> Iterator[None]:
    """Processes that each map their share of `paths` until the block ends."""
    release, gate = os.pipe()
    ready, report = os.pipe()
    pids = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            os.close(gate)
            mapped = []
            for path in paths[number::processes]:
                with open(path, "rb") as file:
                    mapped.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            os.write(report, b".")
            os.read(release, 1)  # returns when the parent closes the gate
            os._exit(0)
        pids.append(pid)
    try:
        for _ in range(processes):
            os.read(ready, 1)
        yield
    finally:
        for descriptor in (gate, release, ready, report):
            os.close(descriptor)
        for pid in pids:
            os.waitpid(pid, 0)


def churn(seconds: float) -> dict[str, float]:
    """Audits, files met, what a scan without a probe would have said of them, and what the audits said."""
    prefix = f"audit-churn-{secrets.token_hex(4)}-"
    churners = [_start_churner(f"{SHM}/{prefix}{number}-") for number in range(2)]
    audits = met = suspected = free_once = false_orphans = false_others = 0
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            indexed = Observer(foreign=False).observe()
            met += sum(file.name.startswith(prefix) for file in indexed.evidence.files.values())
            suspects = [file for file in indexed.suspects if file.name.startswith(prefix)]
            suspected += len(suspects)
            free_once += sum(indexed.verdict(file) is Probe.FREE for file in suspects)
            report = audit(foreign=False)
            audits += 1
            wrong = [finding for finding in report.leaks if prefix in finding.name]
            false_orphans += sum(finding.rule in {"LH001", "LH005"} for finding in wrong)
            false_others += sum(finding.rule not in {"LH001", "LH005"} for finding in wrong)
            for finding in wrong:
                print(finding.rule, finding.message, file=sys.stderr)
    finally:
        for pid in churners:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        for name in os.listdir(SHM):
            if name.startswith(prefix):
                os.unlink(f"{SHM}/{name}")
    return {
        "audits": audits,
        "files met": met,
        "called orphans by listing and /proc": suspected,
        "free in one probe": free_once,
        "false orphans": false_orphans,
        "other false findings": false_others,
    }


def _start_churner(prefix: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    number = 0
    while True:
        number += 1
        path = f"{prefix}{number}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(descriptor, 8192)
        mapping = mmap.mmap(descriptor, 8192)
        os.close(descriptor)
        mapping[0] = 1
        if number % 2:  # both orders are usual; in the second, nobody holds the file for a moment
            os.unlink(path)
            mapping.close()
        else:
            mapping.close()
            os.unlink(path)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "churn"])
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        enter_isolation()
    except UnsupportedPlatformError as refusal:
        print(f"in the system's own /dev/shm: {refusal}", file=sys.stderr)
    is_speed = options.what == "speed"
    figures = speed(options.segments, options.processes, options.repeats) if is_speed else churn(options.seconds)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(f"{name:36} {figure:12.6g}")


if __name__ == "__main__":
    main()
