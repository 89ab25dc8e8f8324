"""Kills at every system call: of a client, of the registry, of its successor, and of who starts a successor.

    python -m kill_sweep                      # everything, from the directory tests/
    python -m kill_sweep --points 300         # a sample, spread over the whole
    python -m kill_sweep --only ticket/client --at 137    # one again

A **point** is one short run of a workload by real processes, in which the victim is killed (SIGKILL) at its n-th stop. A
process that is traced with ptrace stops at the entry of each system call, before it is carried out, and at its exit, before
the process knows its result: between two such stops it can change nothing that others see but memory that it shares.

- `tracing`: ptrace, and the n-th stop.
- `processes`: forking what a point is made of, and a launcher of registries that need not start an interpreter first.
- `workloads`: what victim and witness do, and what the witness checks when the victim has died.
- `scenes`: who is killed, and when it begins; one function for each kind of victim.
- `points`: one point from begin to end, and what must hold then.
"""

from kill_sweep import processes  # before any client is imported: it puts in what they launch registries with

__all__ = ["processes"]
