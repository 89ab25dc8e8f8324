"""Nothing that is in use is ever called a leak, whatever others do meanwhile."""

from __future__ import annotations

import mmap
import os
import secrets
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from isolated import isolated

from shmlease.auditor.audit import audit
from shmlease.auditor.observe.observer import Observer
from shmlease.auditor.reap import reap

SECONDS = 3.0
PATIENCE_S = 20.0  # a machine that is busy with something else may not let the churners run


@contextmanager
def churning(turn: Callable[[str], None], processes: int = 2) -> Iterator[str]:
    """That many processes do `turn` over and over, each time with a new path; their prefix."""
    prefix = f"churn-{secrets.token_hex(4)}-"
    children = []
    for number in range(processes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads
            child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            count = 0
            while True:
                count += 1
                turn(f"/dev/shm/{prefix}{number}-{count}")
        children.append(child)
    try:
        yield prefix
    finally:
        for child in children:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        for name in os.listdir("/dev/shm"):
            if name.startswith(prefix):
                os.unlink(f"/dev/shm/{name}")


def make_map_unlink(path: str) -> None:
    """A segment's life, its name going before its mapping."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(descriptor, 8192)
    mapping = mmap.mmap(descriptor, 8192)
    os.close(descriptor)
    mapping[0] = 1
    os.unlink(path)
    mapping.close()


def make_map_unmap_unlink(path: str) -> None:
    """The same with its mapping going first: for a moment, nobody holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(descriptor, 8192)
    mapping = mmap.mmap(descriptor, 8192)
    os.close(descriptor)
    mapping[0] = 1
    mapping.close()
    os.unlink(path)


def close_and_open_again(path: str) -> None:
    """A segment that is handed over by name: closed by one, opened by the other."""
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDWR, os.O_RDONLY):
        descriptor = os.open(path, flags, 0o600)
        os.pwrite(descriptor, b"x", 0) if flags != os.O_RDONLY else None
        os.close(descriptor)
    os.unlink(path)


def audit_for(seconds: float, prefix: str) -> tuple[int, list[str]]:
    """How many of the churning files were met in looks, and what audits said of them."""
    deadline, met = time.monotonic() + seconds, 0
    said: list[str] = []
    while time.monotonic() < deadline or (not met and time.monotonic() < deadline + PATIENCE_S):
        report = audit()
        met += sum(prefix in file.name for file in Observer(foreign=False).observe().evidence.files.values())
        said += [f"{finding.rule} {finding.message}" for finding in report.leaks if prefix in finding.name]
    return met, said


def test_segments_that_come_and_go_are_never_called_leaks() -> None:
    for turn in (make_map_unlink, make_map_unmap_unlink, close_and_open_again):
        with churning(turn) as prefix:
            met, said = audit_for(SECONDS / 3, prefix)
        assert said == [], f"{turn.__name__}: {said[:3]}"
        assert met > 0, "the churn was never seen"


@isolated
def test_segment_in_use_is_never_reaped_while_others_come_and_go() -> None:
    with churning(make_map_unmap_unlink), open("/dev/shm/in-use", "wb") as file:
        file.write(b"x")
        file.flush()
        with open("/dev/shm/orphan", "wb") as orphan:
            os.fchmod(orphan.fileno(), 0o600)  # as shm_open(3) is called: what others may read looks like a file to keep
            orphan.write(b"x")
        result = reap(yes=True)
        assert [one.path for one in result.removed] == ["/dev/shm/orphan"], result
        assert os.path.exists("/dev/shm/in-use")
        os.unlink("/dev/shm/in-use")
