"""What a process may use, as far as a registry needs it, and which of two processes may use more.

A registry that a client starts has that client's hard limits, which nobody without privilege can raise. So each registry
writes down what it may use and what the first one might, and each client tells what it could offer: a registry that lacks
something ends in favour of the first client that is short of less, which starts the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from shmlease.units import format_bytes

__all__ = ["ENOUGH_TO_START", "UNLIMITED", "Limits", "is_better", "shortfalls"]

UNLIMITED: Final = 2**62


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """Hard limits of a process (getrlimit(2)), `UNLIMITED` where there is none, and how the kernel ranks it.

    Of `niceness` and `oom_score_adj` less is better, of all others more.
    """

    file_size_bytes: int
    open_files: int
    address_space_bytes: int
    data_bytes: int
    stack_bytes: int
    cpu_s: int
    processes: int
    niceness: int
    oom_score_adj: int


# An interpreter with a small registry takes 50 MiB of address space, 15 of them data; the rest is for its first minutes.
ENOUGH_TO_START: Final = Limits(1 << 20, 64, 256 << 20, 64 << 20, 1 << 20, 60, 64, 19, 1000)
# What each is called where a user can change it.
_NAMES: Final = {
    "file_size_bytes": "RLIMIT_FSIZE",
    "open_files": "RLIMIT_NOFILE",
    "address_space_bytes": "RLIMIT_AS",
    "data_bytes": "RLIMIT_DATA",
    "stack_bytes": "RLIMIT_STACK",
    "cpu_s": "RLIMIT_CPU",
    "processes": "RLIMIT_NPROC",
    "niceness": "niceness",
    "oom_score_adj": "oom_score_adj",
}


def is_better(candidate: Limits, current: Limits, wanted: Limits) -> bool:
    """Whether a process with `candidate` is short of less than one with `current`, where `wanted` is enough, and of nothing
    else.

    It is a strict order: handing over from one to a better one comes to an end.
    """
    pairs = list(zip(_shortages(candidate, wanted), _shortages(current, wanted), strict=True))
    return all(new <= old for new, old in pairs) and any(new < old for new, old in pairs)


def shortfalls(limits: Limits, wanted: Limits) -> str:
    """In what a process with `limits` is short of `wanted`, in words; empty if in nothing."""
    return ", ".join(
        f"{_NAMES[field]} {_words(field, getattr(limits, field))} instead of {_words(field, getattr(wanted, field))}"
        for field, shortage in zip(Limits.__struct_fields__, _shortages(limits, wanted), strict=True)
        if shortage
    )


def _shortages(limits: Limits, wanted: Limits) -> Iterator[int]:
    for field in Limits.__struct_fields__:
        missing = getattr(wanted, field) - getattr(limits, field)
        yield max(-missing if field in ("niceness", "oom_score_adj") else missing, 0)


def _words(field: str, value: int) -> str:
    if value == UNLIMITED:
        return "unlimited"
    return format_bytes(value) if field.endswith("_bytes") else f"{value}{' s' if field == 'cpu_s' else ''}"
