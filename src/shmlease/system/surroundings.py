"""What a registry process inherits from whoever starts it, and what it has instead.

A client may run under limits, a umask, a niceness or signal dispositions of its own when it happens to start the registry
of many. What a process may change for itself is set here; what it may not, its hard limits, is measured
(`shmlease.core.limits`).

Sources: getrlimit(2), proc(5) for oom_score_adj, sched_setaffinity(2).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Collection, Mapping
from typing import Final

from shmlease.core.limits import UNLIMITED, Limits
from shmlease.interrupts import is_from_handler
from shmlease.system.safe_open import read_kernel_file

__all__ = ["DEFAULT_SIGNALS", "environment_for", "own_limits", "settle_in"]

_RESOURCES: Final = {
    "file_size_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "address_space_bytes": resource.RLIMIT_AS,
    "data_bytes": resource.RLIMIT_DATA,
    "stack_bytes": resource.RLIMIT_STACK,
    "cpu_s": resource.RLIMIT_CPU,
    "processes": resource.RLIMIT_NPROC,
}
_OOM_SCORE_ADJ: Final = "/proc/self/oom_score_adj"
# What an interpreter needs to start and to write its messages, and what is ours; the rest of a client's environment, which
# may hold secrets, is not kept by a process that outlives it.
_KEPT: Final = ("LANG", "LC_", "LD_LIBRARY_PATH", "SHMLEASE_")
# All whose disposition can be set.
DEFAULT_SIGNALS: Final = frozenset(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def own_limits(*, soft: bool = False) -> Limits:
    """What this process, and so one that it starts, may use at most; or, `soft`, may use until it raises that."""
    return Limits(
        **{field: _limit(number, soft=soft) for field, number in _RESOURCES.items()},
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
        oom_score_adj=_read_oom_score_adj(),
    )


def settle_in(wanted: Limits | None = None, cpus: Collection[int] = ()) -> Limits:
    """Take up as much of what the first registry might use as this process may, and use all of it; what that is.

    Parameters
    ----------
    wanted : Limits or None
        What the first registry might use; None for the first.
    cpus : collection of int
        The processors that the first registry ran on; empty for the first.
    """
    for field, number in _RESOURCES.items():
        hard = _limit(number, soft=False)
        target = hard if wanted is None else max(hard, getattr(wanted, field))
        if not _raise_limit(number, target):
            _raise_limit(number, hard)
    if wanted is not None:
        with contextlib.suppress(OSError):  # only root may, or whom RLIMIT_NICE allows it
            os.setpriority(os.PRIO_PROCESS, 0, wanted.niceness)
        with contextlib.suppress(OSError), open(_OOM_SCORE_ADJ, "w") as file:  # not below what root has set
            file.write(str(wanted.oom_score_adj))
    if cpus:
        with contextlib.suppress(OSError):  # none of them is there any more
            os.sched_setaffinity(0, cpus)
    return own_limits()


def environment_for(environment: Mapping[str, str]) -> dict[str, str]:
    """What a registry process keeps of its starter's environment."""
    return {name: value for name, value in environment.items() if name.startswith(_KEPT)}


def _limit(number: int, *, soft: bool) -> int:
    limit = resource.getrlimit(number)[0 if soft else 1]
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


def _raise_limit(number: int, value: int) -> bool:
    """Set soft and hard limit to `value`; False if that is not allowed."""
    limit = resource.RLIM_INFINITY if value == UNLIMITED else value
    try:
        resource.setrlimit(number, (limit, limit))
    except (ValueError, OSError):  # above the hard limit, without privilege; or above what the system has
        return False
    return True


def _read_oom_score_adj() -> int:
    try:
        return int(read_kernel_file(_OOM_SCORE_ADJ))
    except OSError as error:
        if is_from_handler(error):
            raise
        return 0
