"""Episodes until enough steps are taken or a promise is broken, and what to say about them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from typing import Final

from shmlease.client.hold import held
from simulation.episode import Episode, Outcome

__all__ = ["EPISODE_STEPS", "Failure", "Verdict", "run_episode", "simulate"]

# Long enough for some ten takeovers and hundreds of leases; short enough that the trace of a failure can be read.
EPISODE_STEPS: Final = 3_000
_ROOT: Final = "/dev/shm"


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An episode in which a promise was broken; `run_episode(seed, steps)` repeats it."""

    seed: str
    steps: int
    violation: str
    trace: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What a simulation found.

    Attributes
    ----------
    steps : int
        System calls that simulated processes made, each a point at which one may have died.
    episodes : int
        Registries from start to end.
    simulated_s, wall_s : float
        Time on the simulated clocks, and on the real one.
    counts : Counter
        Registry processes, clients, and how often what was done to them.
    failures : tuple of Failure
        Broken promises; none is what is hoped for.
    """

    steps: int
    episodes: int
    simulated_s: float
    wall_s: float
    counts: Counter[str]
    failures: tuple[Failure, ...]

    @property
    def steps_a_minute(self) -> float:
        """How fast it went."""
        return self.steps / self.wall_s * 60


def run_episode(seed: str, steps: int = EPISODE_STEPS, *, root: str = _ROOT) -> Outcome:
    """Live through one episode.

    Parameters
    ----------
    seed : str
        Decides everything in it.
    steps : int
        System calls after which calm begins.
    root : str
        Where its directory is made, and removed; a tmpfs.
    """
    place = tempfile.mkdtemp(prefix="shmlease-simulation-", dir=root)
    try:
        with _orderly_collection():
            return Episode(seed, steps, place).run()
    finally:
        shutil.rmtree(place)


def simulate(
    steps: int,
    seed: str | int = 0,
    *,
    episode_steps: int = EPISODE_STEPS,
    jobs: int = 1,
    failures: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Run episodes until `steps` are taken, or `failures` promises are broken.

    Parameters
    ----------
    steps : int
        How many steps to take at least.
    seed : str or int
        Episode number n has the seed ``"{seed}:{n}"``.
    episode_steps : int
        Steps of an episode before its calm.
    jobs : int
        Processes that run episodes side by side.
    failures : int
        Broken promises to stop at.
    on_progress : callable, optional
        Told the steps and the broken promises so far.
    """
    started = time.monotonic()
    done = episodes = 0
    simulated_s = 0.0
    counts: Counter[str] = Counter()
    broken: list[Failure] = []
    with contextlib.closing(_outcomes(str(seed), episode_steps, jobs)) as outcomes:
        for episode_seed, outcome in outcomes:
            done += outcome.steps
            episodes += 1
            simulated_s += outcome.simulated_s
            counts.update(outcome.counts)
            if outcome.violation:
                broken.append(Failure(episode_seed, episode_steps, outcome.violation, outcome.trace))
            if on_progress is not None:
                on_progress(done, len(broken))
            if done >= steps or len(broken) >= failures:
                break
    return Verdict(done, episodes, simulated_s, time.monotonic() - started, counts, tuple(broken))


def _outcomes(seed: str, steps: int, jobs: int) -> Generator[tuple[str, Outcome], None, None]:
    seeds = (f"{seed}:{number}" for number in range(2**31))
    if jobs == 1:
        for episode_seed in seeds:
            yield episode_seed, run_episode(episode_seed, steps)
        return
    context = multiprocessing.get_context("spawn")
    # left in order, so that those under way end, and remove what is theirs
    with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
        running: deque[tuple[str, concurrent.futures.Future[Outcome]]] = deque()
        for episode_seed in seeds:
            running.append((episode_seed, pool.submit(run_episode, episode_seed, steps)))
            if len(running) > 2 * jobs:
                first_seed, first = running.popleft()
                yield first_seed, first.result()


@contextlib.contextmanager
def _orderly_collection() -> Iterator[None]:
    """No garbage collection in between: it would run finalizers, which take steps, at moments that no seed decides."""
    was_enabled, before = gc.isenabled(), dict(held)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        held.clear()  # of those that were killed: it would keep all that they had, and slow down the episodes to come
        held.update(before)
        if was_enabled:
            gc.enable()
