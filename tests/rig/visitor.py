"""Uses everything of shmlease once, in one process, and tells how it went: run as a user among others.

``python visitor.py VISIT...`` writes one JSON object for each visit: its name, exit code, output, and what it raised.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable

__all__ = ["VISITS"]

# A hang shows as this. Generous: the machine may be busy.
DEADLINE_S = 60


def registry() -> None:
    """A registry from its start to its end, with all that it can be asked for."""
    from multiprocessing import resource_tracker, shared_memory

    import numpy as np

    import shmlease

    with shmlease.Registry("4MiB") as registry:
        with registry.share(np.arange(1000), "numbers") as lease:
            by_any_program = shared_memory.SharedMemory(lease.segment)
            resource_tracker.unregister(f"/{lease.segment}", "shared_memory")
            assert int(np.frombuffer(by_any_program.buf, np.int64)[7]) == 7
            with registry.attach("numbers") as reader, registry.redeem(lease.ticket()) as redeemer:
                assert int(reader.array.sum()) == int(redeemer.array.sum()) == 499500
            by_any_program.close()
        assert registry.statistics().epoch == 1


def connect() -> None:
    """A client of the default registry, which `shmlease serve` runs meanwhile."""
    import numpy as np

    import shmlease

    with shmlease.connect().share(np.arange(10), "mine") as lease:
        assert int(lease.array.sum()) == 45


def leaks() -> None:
    """What the pytest plugin does after each test."""
    from multiprocessing import shared_memory

    from shmlease.testing import LeakError, assert_no_leaks

    with assert_no_leaks():
        pass
    try:
        with assert_no_leaks():
            left = shared_memory.SharedMemory(create=True, size=4096)
    except LeakError:
        left.close()
        left.unlink()
    else:
        raise AssertionError("a leak went unseen")


def command(*words: str, codes: tuple[int, ...] = (0,)) -> Callable[[], None]:
    """A command in this process."""

    def run() -> None:
        from shmlease.cli import main

        code: object = 0
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code or 0
        assert code in codes, f"exit code {code}"

    return run


def run(*options: str) -> Callable[[], None]:
    """`shmlease run`, which changes its process: in one of its own."""

    def run() -> None:
        words = [sys.executable, "-P", "-m", "shmlease", "run", "--settle", "0", *options, "--", "true"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr

    return run


VISITS: dict[str, Callable[[], None]] = {
    "registry": registry,
    "connect": connect,
    "status": command("status"),
    "status --json": command("status", "--json"),
    "top": command("top"),
    "audit": command("audit", "-v", codes=(0, 23)),
    "leaks": leaks,
    "run": run(),
    "run shared": run("--no-isolate"),
    "reap": command("reap"),
    "reap --yes": command("reap", "--yes"),
}


def _visit(name: str) -> dict[str, object]:
    words = io.StringIO()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = ""
    signal.alarm(DEADLINE_S)
    try:
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
            VISITS[name]()
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
    finally:
        signal.alarm(0)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"visit": name, "error": error, "output": words.getvalue(), "grown_mib": grown_kib / 1024}


def _late(*_: object) -> None:
    raise TimeoutError(f"hangs: not done in {DEADLINE_S} s")


if __name__ == "__main__":
    sys.path.pop(0)  # its own directory: the modules there are the tests'
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, _late)
    for visit in sys.argv[1:]:
        print(json.dumps(_visit(visit)), flush=True)
