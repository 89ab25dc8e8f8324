"""Tables for the tests of the ingest, what must come of them, and the command as a user calls it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rig.until import until

DTYPE = "chr:S10,pos:i4,pct:f4,c:i4,t:i4"
COLUMNS = [0, 1, 3, 4, 5]
OPTIONS = ("--dtype", DTYPE, "--columns", ",".join(map(str, COLUMNS)))
ROWS = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")])
# with this capacity, blocks of text have some 150 KiB, so that a table of a few MB has many
SMALL = "4MiB"


def text_of(rows: int, seed: int = 0) -> str:
    """Methylation calls, as Bismark writes them."""
    random = np.random.default_rng(seed)
    chromosome = np.sort(random.integers(1, 23, rows)).tolist()
    position = np.cumsum(random.integers(1, 180, rows)).tolist()
    coverage = random.poisson(12, rows) + 1
    methylated = random.binomial(coverage, np.where(random.random(rows) < 0.7, 0.9, 0.1)).tolist()
    cells = zip(chromosome, position, methylated, coverage.tolist(), strict=True)
    return "".join(f"chr{a}\t{b}\t{b}\t{100 * c / n:.6g}\t{c}\t{n - c}\n" for a, b, c, n in cells)


def make_table(path: Path, rows: int, seed: int = 0) -> Path:
    """A file of calls; packed where its name ends in .gz."""
    text = text_of(rows, seed).encode()
    path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)
    return path


def expected(path: Path) -> np.ndarray:
    """What numpy.loadtxt makes of it."""
    return np.loadtxt(path, dtype=ROWS, delimiter="\t", usecols=COLUMNS, ndmin=1)


def rows_of(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][...]


def contents(path: Path) -> dict[str, Any]:
    """Everything that a reader of the file can tell apart: the values and attributes of every object."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:

        def note(name: str, item: Any) -> None:
            values = item[...].tobytes() if isinstance(item, h5py.Dataset) else None
            found[name] = values, {key: str(value) for key, value in item.attrs.items()}

        note("/", file)
        file.visititems(note)
    return found


@dataclass(frozen=True)
class Finished:
    """How a call went."""

    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.stdout)


def kill_each(pids: Iterable[int]) -> None:
    """SIGKILL for processes that may just have ended by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start(*arguments: object, program: Sequence[str] = ("-m", "shmlease"), **popen: Any) -> subprocess.Popen[str]:
    """`shmlease ingest` with these arguments, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "SHMLEASE_REGISTRY"}
    return subprocess.Popen(
        [sys.executable, *program, "ingest", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **popen,
    )


def finish(process: subprocess.Popen[str]) -> Finished:
    stdout, stderr = process.communicate()
    return Finished(process.returncode, stdout, stderr)


def call(*arguments: object, **popen: Any) -> Finished:
    """The same, waited for."""
    return finish(start(*arguments, **popen))


def family(coordinator: int) -> dict[str, list[int]]:
    """The processes of a run, by what they are: workers, whose session their fork server began, and registry."""
    found: dict[str, list[int]] = {"worker": [], "registry": []}
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            parents[pid], sessions[pid] = int(stat[1]), int(stat[3])
            if stat[0] not in "ZX":
                commands[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
    for pid, command in commands.items():
        if b"ingestion.worker_process" in command:
            if pid != sessions[pid] and parents.get(sessions[pid]) == coordinator:
                found["worker"].append(pid)
        elif b"shmlease.registry.process" in command and f'"owner":[{coordinator},'.encode() in command:
            found["registry"].append(pid)
    return found


def begun(process: subprocess.Popen[str], out: Path, size_bytes: int) -> None:
    """Wait until a run has stored so much, or has ended."""
    data = Path(f"{out}.partial/data")
    until(lambda: process.poll() is not None or (data.exists() and data.stat().st_size > size_bytes))
