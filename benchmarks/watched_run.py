"""A program's wall time, and processor time and memory of all its processes together.

It runs twice: once left alone, for its wall time from start to exit, and once watched, which takes a tenth of the machine.
Memory is the most that all processes had at once, sampled every 10 ms: private memory and file pages by share (PSS without
shared memory), and the files in /dev/shm. A program that prints a number of seconds is taken at its word for the wall time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from dataclasses import dataclass, replace

MARK = "SHMLEASE_BENCHMARK"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One run of one program."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    file_bytes: int = 0  # of what it wrote


def measure(command: list[str]) -> Measured:
    """The command run twice: watched for processor time and memory, and left alone for the wall time."""
    watched = watch(command)
    began = time.perf_counter()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall_s = time.perf_counter() - began
    with contextlib.suppress(ValueError):
        wall_s = float(said)
    return replace(watched, wall_s=wall_s)


def watch(command: list[str]) -> Measured:
    mark = f"shmbench{secrets.token_hex(4)}"
    before = set(os.listdir("/dev/shm"))
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL)
    watched: dict[int, bool] = {}
    registries: dict[str, bool] = {}
    cpu: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        peak = max(peak, sample(mark, before, watched, registries, cpu))
        time.sleep(0.01)
    wall_s = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed with {process.returncode}")
    return Measured(wall_s, sum(cpu.values()), peak)


def sample(
    mark: str, before: set[str], watched: dict[int, bool], registries: dict[str, bool], cpu: dict[int, float]
) -> int:
    """Bytes that the marked processes have now; notes their processor time."""
    total = 0
    needle = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            if not watched.get(pid):
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if needle not in file.read():
                        continue
                watched[pid] = True
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
            with open(f"/proc/{pid}/smaps_rollup") as file:
                sizes = dict(line.split(":") for line in file.read().splitlines()[1:])
            total += sum(int(sizes[key].split()[0]) * 1024 for key in ("Pss_Anon", "Pss_File"))
        except (OSError, ValueError):
            continue
    with os.scandir("/dev/shm") as entries:
        for entry in entries:
            if entry.name.startswith(mark) or (entry.name not in before and is_ours(entry, watched, registries)):
                total += size_of(entry)
    return total


def is_ours(entry: os.DirEntry[str], watched: dict[int, bool], registries: dict[str, bool]) -> bool:
    """Whether a registry's directory was made by a process that is watched: the ledger's name is in its open files."""
    if not entry.name.startswith("shmlease-"):
        return False
    if entry.name not in registries:
        for pid in watched:
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(entry.path + "/"):
                        registries[entry.name] = True
    return registries.get(entry.name, False)


def size_of(entry: os.DirEntry[str]) -> int:
    try:
        if entry.is_dir():
            with os.scandir(entry.path) as inside:
                return sum(size_of(each) for each in inside)
        return entry.stat().st_blocks * 512
    except OSError:
        return 0
