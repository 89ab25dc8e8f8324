"""What `leasehold run` and the pytest plugin cost.

Quantified: (1) the time of a program that creates, fills and removes 1,000 plain `SharedMemory` segments, as taken by itself,
under `leasehold run` with the recorder, as a ratio to the same program alone; and what `leasehold run` takes for a command
that does nothing, in starts of a bare interpreter. (2) The time that the plugin adds to each of 500 tests that do nothing, and
of 500 that use one segment each. All times are processor time, user and system, of all processes that take part, so that what
else runs on the machine disturbs little; each is the least of several rounds in which the variants take turns.

    python benchmarks/overhead.py [--rounds 5] [--size 1MiB]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

from leasehold.units import format_bytes, format_duration, parse_bytes

SEGMENTS = 1000
TESTS = 500
PROGRAM = """
import sys, time
from multiprocessing.shared_memory import SharedMemory
size = int(sys.argv[1])
content = bytes(size)
began = time.process_time()
for _ in range({segments}):
    segment = SharedMemory(create=True, size=size)
    segment.buf[:size] = content
    segment.close()
    segment.unlink()
print(time.process_time() - began)
"""
IDLE_TEST = "import pytest\n@pytest.mark.parametrize('number', range({tests}))\ndef test_it(number):\n    pass\n"
BUSY_TEST = """
import pytest
from multiprocessing.shared_memory import SharedMemory
@pytest.mark.parametrize("number", range({tests}))
def test_it(number):
    segment = SharedMemory(create=True, size=4096)
    segment.close()
    segment.unlink()
"""


def timed(command: list[str], directory: Path) -> tuple[float, str]:
    """Processor time of a command and its descendants, and what it wrote to stdout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def measure_run(directory: Path, size_bytes: int, rounds: int) -> None:
    (directory / "program.py").write_text(PROGRAM.format(segments=SEGMENTS))
    alone = [sys.executable, "program.py", str(size_bytes)]
    under = [sys.executable, "-m", "leasehold", "run", "--quiet", "--"]
    inside: dict[str, list[float]] = {"alone": [], "run": []}
    wall: dict[str, list[float]] = {"true": [], "python": []}
    for _ in range(rounds):
        inside["alone"].append(float(timed(alone, directory)[1]))
        inside["run"].append(float(timed([*under, *alone], directory)[1]))
        wall["true"].append(timed([*under, "true"], directory)[0])
        wall["python"].append(timed([sys.executable, "-c", "pass"], directory)[0])
    plain, hooked = min(inside["alone"]), min(inside["run"])
    print(
        f"{SEGMENTS} segments of {format_bytes(size_bytes)}: {hooked / plain:.3f} of the time alone ({format_duration(plain)})"
    )
    print(f"  the recorder costs {format_duration((hooked - plain) / SEGMENTS)} a segment")
    starts = min(wall["true"]) / min(wall["python"])
    print(f"`leasehold run -- true`: {format_duration(min(wall['true']))}, {starts:.1f} starts of a bare interpreter")


def measure_plugin(directory: Path, rounds: int) -> None:
    for name, text in (("do nothing", IDLE_TEST), ("use one segment", BUSY_TEST)):
        (directory / "test_it.py").write_text(text.format(tests=TESTS))
        base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        if not any(point.value == "leasehold.pytest_plugin" for point in entry_points(group="pytest11")):
            base += ["-p", "leasehold.pytest_plugin"]  # leasehold is in the path, and not installed
        spent: dict[str, list[float]] = {"off": [], "fail": []}
        one: dict[str, list[float]] = {"off": [], "fail": []}
        for _ in range(rounds):
            for mode in ("off", "fail"):
                command = [*base, f"--leasehold-audit={mode}", "test_it.py"]
                spent[mode].append(timed(command, directory)[0])
                one[mode].append(timed([*command[:-1], "test_it.py::test_it[0]"], directory)[0])
        # the start of the session, with the import of the auditor, is taken out
        added = (min(spent["fail"]) - min(one["fail"])) - (min(spent["off"]) - min(one["off"]))
        print(f"plugin, tests that {name}: {format_duration(max(added, 0) / (TESTS - 1))} a test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="1MiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure_run(Path(name), parse_bytes(options.size), options.rounds)
        measure_plugin(Path(name), options.rounds)


if __name__ == "__main__":
    main()
