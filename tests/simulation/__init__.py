"""The whole protocol in one process, on a simulated kernel that crashes, delays and stops it, reproducibly from a seed.

The code that runs is shmlease's own: the registry process with its loop, table, ledger and takeover, and clients with their
links, leases and notice logs. Simulated are the clock, the sockets, the processes and who runs when; a process may die at
each of its system calls, in the middle of a write too. An oracle that shares no code with the lease table checks the
promises.

    python -m simulation --steps 1000000
"""

from __future__ import annotations

from simulation.episode import Outcome
from simulation.run import EPISODE_STEPS, Failure, Verdict, run_episode, simulate

__all__ = ["EPISODE_STEPS", "Failure", "Outcome", "Verdict", "run_episode", "simulate"]
