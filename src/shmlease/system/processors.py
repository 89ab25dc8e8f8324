"""How many processors this process may use that nobody else uses just now."""

from __future__ import annotations

import os

from shmlease.interrupts import is_from_handler

__all__ = ["count_running", "idle_processors"]


def idle_processors(path: str = "/proc/loadavg") -> int:
    """Processors that are free for this process just now, the one that it runs on included: at least 1.

    Where the system does not tell what else runs, all that this process may use count as free.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        with open(path, encoding="ascii") as file:
            others = count_running(file.read()) - 1  # this thread is one of them
    except (OSError, ValueError) as error:
        if is_from_handler(error):
            raise
        return allowed
    return max(min(allowed, (os.cpu_count() or 1) - others), 1)


def count_running(loadavg: str) -> int:
    """The threads that run or could run at this moment, of the text of /proc/loadavg (proc_loadavg(5)).

    Raises
    ------
    ValueError
        It is no such text.
    """
    running, separator, _ = loadavg.split()[3].partition("/") if loadavg.count(" ") > 3 else ("", "", "")
    if not separator:
        raise ValueError(f"{loadavg!r} is not what /proc/loadavg says")
    return int(running)
