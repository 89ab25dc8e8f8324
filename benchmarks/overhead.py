"""What `shmlease run` and the pytest plugin cost.

Quantified:

(1) The time of a program that creates, fills and removes 1,000 plain `SharedMemory` segments, of 4 KiB and of 1 MiB, as
taken
    by itself: under `shmlease run`, with the recorder and with `--no-hook`, as ratios to the same program alone. Processor
    time of the program is what the recorder takes from it; elapsed time is what a user sees, with Python's resource tracker
    on another processor. At 4 KiB a segment costs little but system calls, so nothing that looks at each can be cheap
    beside it.
(2) What `shmlease run` takes for a command that does nothing, in processor time, as a multiple of a bare interpreter's
start. (3) The processor time that the plugin adds to each of 500 tests that do nothing, and of 500 that use one segment
each.

The variants take turns, and each figure of (1) and (2) is the median of all rounds, with the least beside it; (3) is the
difference of the least. Run it on a quiet machine: what else runs there disturbs elapsed time most, processor time less.

    python benchmarks/overhead.py [--rounds 9] [--size 4KiB --size 1MiB] [--only run|plugin]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median

from shmlease.units import format_bytes, format_duration, parse_bytes

SEGMENTS = 1000
UNDER = [sys.executable, "-m", "shmlease", "run", "--quiet"]
TESTS = 500
PROGRAM = """
import sys, time
from multiprocessing.shared_memory import SharedMemory
size = int(sys.argv[1])
content = bytes(size)
began, began_elapsed = time.process_time(), time.perf_counter()
for _ in range({segments}):
    segment = SharedMemory(create=True, size=size)
    segment.buf[:size] = content
    segment.close()
    segment.unlink()
print(time.process_time() - began, time.perf_counter() - began_elapsed)
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


def measure_segments(directory: Path, size_bytes: int, rounds: int) -> None:
    (directory / "program.py").write_text(PROGRAM.format(segments=SEGMENTS))
    alone = [sys.executable, "program.py", str(size_bytes)]
    variants = {"alone": alone, "--no-hook": [*UNDER, "--no-hook", "--", *alone], "hook": [*UNDER, "--", *alone]}
    spent: dict[str, list[tuple[float, ...]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, command in variants.items():
            spent[name].append(tuple(map(float, timed(command, directory)[1].split())))
    print(f"{SEGMENTS} segments of {format_bytes(size_bytes)}, times of the program alone:")
    for position, kind in enumerate(("processor", "elapsed")):
        reference = [one[position] for one in spent["alone"]]
        print(f"  {kind} time alone: {format_duration(median(reference))}, least {format_duration(min(reference))}")
        for name in ("--no-hook", "hook"):
            times = [one[position] for one in spent[name]]
            more = (median(times) - median(reference)) / SEGMENTS
            print(
                f"    {name:<9} {median(times) / median(reference):.3f}, of the least {min(times) / min(reference):.3f}; "
                f"{'' if more < 0 else '+'}{more * 1e6:.1f} us a segment"
            )


def measure_start(directory: Path, rounds: int) -> None:
    spent: dict[str, list[float]] = {"true": [], "python": []}
    for _ in range(rounds):
        spent["true"].append(timed([*UNDER, "--", "true"], directory)[0])
        spent["python"].append(timed([sys.executable, "-c", "pass"], directory)[0])
    run, python = median(spent["true"]), median(spent["python"])
    print(
        f"`shmlease run -- true`: {format_duration(run)} of processor time, {run / python:.1f} times "
        f"the {format_duration(python)} of a bare interpreter"
    )


def measure_plugin(directory: Path, rounds: int) -> None:
    for name, text in (("do nothing", IDLE_TEST), ("use one segment", BUSY_TEST)):
        (directory / "test_it.py").write_text(text.format(tests=TESTS))
        base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        if not any(point.value == "shmlease.integrations.pytest" for point in entry_points(group="pytest11")):
            base += ["-p", "shmlease.integrations.pytest"]  # shmlease is in the path, and not installed
        spent: dict[str, list[float]] = {"off": [], "fail": []}
        one: dict[str, list[float]] = {"off": [], "fail": []}
        for _ in range(rounds):
            for mode in ("off", "fail"):
                command = [*base, f"--shmlease-audit={mode}", "test_it.py"]
                spent[mode].append(timed(command, directory)[0])
                one[mode].append(timed([*command[:-1], "test_it.py::test_it[0]"], directory)[0])
        # the start of the session, with the import of the auditor, is taken out
        added = (min(spent["fail"]) - min(one["fail"])) - (min(spent["off"]) - min(one["off"]))
        print(f"plugin, tests that {name}: {format_duration(max(added, 0) / (TESTS - 1))} a test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", action="append", help="of a segment; may be repeated")
    parser.add_argument("--only", choices=["run", "plugin"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.only != "plugin":
            for size in options.size or ["4KiB", "1MiB"]:
                measure_segments(Path(name), parse_bytes(size), options.rounds)
            measure_start(Path(name), options.rounds)
        if options.only != "run":
            measure_plugin(Path(name), options.rounds)


if __name__ == "__main__":
    main()
