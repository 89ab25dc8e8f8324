"""Many points on several processors, and the report."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec

from kill_sweep import processes, tracing
from kill_sweep.points import PLANS, Outcome, Point, run_point
from rig import guardian, private_shm

__all__ = ["find_points", "main", "run_points"]

# The number of stops differs a little from run to run; a point beyond the end of its run kills nobody, and does not count.
_BEYOND = 1.02
# Most stops of a starter are those of an interpreter that imports.
_STARTER_STRIDE = 12
_TELL_EVERY = 500
_MARK = "SHMLEASE_TEST_RUN"
_MOST_WORDS = 3000  # an outcome is written into a pipe in one piece: PIPE_BUF is 4096


def find_points(plans: Sequence[Point], lanes: int) -> list[Point]:
    """Every stop of a run in which nobody is killed, for each of the plans.

    Raises
    ------
    RuntimeError
        Such a run has failed.
    """
    points = []
    for outcome in run_points(plans, lanes):
        if outcome.failures:
            raise RuntimeError(f"{outcome.point} fails though nobody is killed:\n" + "\n".join(outcome.failures))
        stride = _STARTER_STRIDE if outcome.point.victim == "starter" else 1
        points += [replace(outcome.point, at=at) for at in range(1, int(outcome.stops * _BEYOND) + 1, stride)]
    return sorted(points)


def run_points(points: Sequence[Point], lanes: int) -> Iterator[Outcome]:
    """Run them side by side, each lane in a /dev/shm of its own if the system allows it; outcomes as they come."""
    read_end, write_end = os.pipe()
    pids = [_fork(lambda lane=lane: _run_lane(points[lane::lanes], write_end)) for lane in range(lanes)]
    os.close(write_end)
    with open(read_end, "rb") as outcomes:
        for line in outcomes:
            yield msgspec.json.decode(line, type=Outcome)
    for pid in pids:
        _wait_for(pid)


def _run_lane(points: Sequence[Point], out: int) -> None:
    is_private = private_shm.is_possible()
    if is_private:
        private_shm.enter()
    os.environ[_MARK] = f"kill-sweep-{os.getpid()}"
    guardian.guard(f"{_MARK}={os.environ[_MARK]}", is_private=is_private)
    _wait_for(
        _fork(lambda: _run_one_by_one(points, out, is_private=is_private))
    )  # the guardian is no child of that process


def _run_one_by_one(points: Sequence[Point], out: int, *, is_private: bool) -> None:
    processes.become_subreaper()
    warnings.simplefilter("ignore")
    for point in points:
        outcome = run_point(point, is_private=is_private)
        if outcome.failures:
            outcome = replace(outcome, failures=["\n".join(outcome.failures)[-_MOST_WORDS:]])
        os.write(out, msgspec.json.encode(outcome) + b"\n")


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return pid


def _wait_for(pid: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise RuntimeError(f"a lane has ended with {code}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: exit code 0 if no point has failed, 1 if one has, 2 if this system does not let processes be traced."""
    options = _options(arguments)
    if not tracing.is_possible():
        print("this system does not let a process trace another (ptrace): nothing was tried", file=sys.stderr)
        sys.exit(2)
    # side by side only where each lane has a /dev/shm of its own: what lies in it that was not there before is the point's
    lanes = options.lanes if private_shm.is_possible() else 1
    begun = time.monotonic()
    plans = [plan for plan in PLANS if options.only in ("", f"{plan.workload}/{plan.victim}")]
    if options.at:
        points = [replace(plan, at=options.at) for plan in plans]
    else:
        points = find_points(plans, lanes)
        points = sample(points, options.seed)[: options.points or None]
    killed: Counter[str] = Counter()
    failed = swept = 0
    for outcome in run_points(points, lanes):
        point = outcome.point
        killed[f"{point.workload}/{point.victim}"] += outcome.is_killed
        swept += outcome.is_swept
        if killed.total() % _TELL_EVERY == 0:
            print(f"{killed.total()} of {len(points)} points, {failed} failures", file=sys.stderr, flush=True)
        if outcome.failures:
            failed += 1
            print(f"FAILED {point}, killed at {outcome.place}:\n" + "\n".join(outcome.failures), flush=True)
    for name, count in sorted(killed.items()):
        print(f"{count:6} kills of {name}")
    print(
        f"{killed.total()} points, {failed} failures; after {swept} of them the next start had something to remove; "
        f"{time.monotonic() - begun:.0f} s, seed {options.seed}"
    )
    sys.exit(1 if failed else 0)


def sample(points: Sequence[Point], seed: int) -> list[Point]:
    """The points in random order, one of each kind before the others: so a few of them are of every kind."""
    shuffled = random.Random(seed).sample(points, len(points))
    first = {(point.workload, point.victim): point for point in reversed(shuffled)}.values()
    return [*first, *(point for point in shuffled if point not in first)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kill_sweep", description=__doc__)
    parser.add_argument("--points", type=int, default=0, help="how many, chosen at random; all of them by default")
    parser.add_argument("--seed", type=int, default=1, help="which of them, and in which order")
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)), help="how many run side by side")
    parser.add_argument("--only", default="", metavar="WORKLOAD/VICTIM", help="one kind of point")
    parser.add_argument("--at", type=int, default=0, help="one stop, again")
    return parser.parse_args(arguments)
