"""Shared memory that is charged to control groups without processes.

A page of shared memory is charged to the group of the process that touched it first, and stays charged there after that
process is gone. Both versions of the hierarchy are read: `memory.stat` has `shmem` (v2) or `total_shmem` (v1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from shmlease.auditor.judge.evidence import Charge
from shmlease.auditor.observe.procfs import parse_table

__all__ = ["list_charges"]

# Where the memory controller is mounted: alone (v1), or with all others (v2).
_HIERARCHIES: Final = ("memory", "")


def list_charges(root: str = "/sys/fs/cgroup") -> tuple[Charge, ...]:
    """The groups below `root` that hold shared memory and no process, themselves or beneath them."""
    charges: list[Charge] = []
    for hierarchy in _HIERARCHIES:
        top = os.path.join(root, hierarchy).rstrip("/")
        if os.path.exists(f"{top}/memory.stat") or os.path.exists(f"{top}/cgroup.controllers"):
            charges.extend(_charges(top))
            break
    return tuple(charges)


def _charges(top: str) -> Iterator[Charge]:
    occupied: set[str] = set()
    # from the bottom up, so that a group knows whether any group beneath it has a process
    for path, _, files in os.walk(top, topdown=False):
        if path in occupied or _has_processes(path):
            occupied.update((path, os.path.dirname(path)))
            continue
        if path == top or "memory.stat" not in files:
            continue
        source = f"{path}/memory.stat"
        counters = parse_table(_read(source))
        shmem_bytes = counters.get("shmem", 0)
        if shmem_bytes:
            yield Charge(path[len(top) :] or "/", shmem_bytes, source, _is_populated(path) is False)


def _has_processes(path: str) -> bool:
    return _is_populated(path) or bool(_read(f"{path}/cgroup.procs").strip())


def _is_populated(path: str) -> bool | None:
    """Whether there is a process in the group or beneath it, in whatever pid namespace; version 1 does not tell."""
    for line in _read(f"{path}/cgroup.events").splitlines():
        if line.startswith("populated "):
            return line != "populated 0"
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
