"""For every test: nothing of it is left in /dev/shm, and no registry process outlives it; for every run: nothing outlives
it.

The check shares no code with shmlease and knows nothing of its ledger: it lists the directory, and reads /proc. A process
counts as ours if its environment carries the mark of this test run, so that other users of the machine do not disturb it.

A run that is killed is ended by its guardian (`rig.guardian`): processes, mounts and files.
"""

from __future__ import annotations

import gc
import os
import resource
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from rig import guardian, private_shm

MARK = "SHMLEASE_TEST_RUN"
SHM = "/dev/shm"
# A registry whose owner was killed ends when the kernel says so; on a loaded machine that is not at once.
PATIENCE_S = 60.0

# How long an example takes says nothing on a loaded machine. The same few examples each time: what fails, fails again.
# `make stress` looks for others. To explain a failure, each line of each example is traced, for minutes: not here.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=40,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", deadline=None, print_blob=True, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# Tests start some thousand interpreters: each would compile all that it imports anew, and start a pool of threads that
# nothing here uses, for a quarter of the time that importing numpy takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.dont_write_bytecode = False

_found_at_start: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than processors, if each can have a /dev/shm of its own: they would find each other's segments otherwise.

    A test waits for its processes two fifths of the time.
    """
    return len(os.sched_getaffinity(0)) + 1 if private_shm.is_possible() else 0


def pytest_configure(config: pytest.Config) -> None:
    is_private = private_shm.is_possible()
    if is_private:
        private_shm.enter()
    os.environ[MARK] = f"{os.getpid()}-{secrets.token_hex(4)}"
    guardian.guard(
        f"{MARK}={os.environ[MARK]}",
        directory="" if is_worker(config) else use_own_temporary_directory(config),
        is_private=is_private,
    )
    if "MAKELEVEL" in os.environ and not is_worker(config):  # killing make is meant to end what it has started
        guardian.die_with_parent()
    config.pluginmanager.register(_workers)
    _found_at_start.update(shm_entries())
    # a shell ignores Ctrl-C for what it starts in the background, and programs started from there would inherit that
    for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


def pytest_collection_finish() -> None:
    """What the collection made, some million objects, stays to the end: no search for garbage need look at it."""
    gc.collect()
    gc.freeze()


def use_own_temporary_directory(config: pytest.Config) -> str:
    """Let this process and all that it starts make their temporary files in a directory of the run's own."""
    directory = tempfile.mkdtemp(prefix="shmlease-tests-")
    os.chmod(directory, 0o711)  # some tests run programs as another user
    os.environ["TMPDIR"] = tempfile.tempdir = directory
    if config.option.basetemp is None:
        config.option.basetemp = f"{directory}/t"  # short: the path of a socket has 107 bytes at most
    return directory


class Workers:
    """What the workers of xdist tell at their end."""

    def __init__(self) -> None:
        self.left: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        del error
        self.left += getattr(node, "workeroutput", {}).get("left", [])


_workers = Workers()


def is_worker(config: pytest.Config) -> bool:
    """Whether this is a process of xdist that runs tests for another."""
    return hasattr(config, "workeroutput")


def pytest_sessionfinish(session: pytest.Session) -> None:
    left = what_is_left(_found_at_start, set()) + _workers.left
    if is_worker(session.config):
        session.config.workeroutput["left"] = left  # type: ignore[attr-defined]
    elif left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"left behind by the session: {', '.join(left)}", red=True, bold=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A child forked by a test that did not end in it must not go on with the tests of its parent."""
    if os.environ[MARK].split("-")[0] != str(os.getpid()):
        sys.stderr.write(f"a child forked in {item.nodeid} went on after its test: {call.excinfo}\n")
        os._exit(70)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """/dev/shm, the registry processes and what signals do are as they were before the test."""
    entries, processes, handlers = shm_entries(), set(os.listdir("/proc")), signal_handlers()
    yield
    left = what_is_left(entries, processes)
    assert not left, f"left behind: {', '.join(left)}"
    # a child that Pool() forks loses a SIGTERM that comes too soon, if Python is to handle it: the pool waits for ever
    assert signal_handlers() == handlers


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process has so many files open that the next descriptor is beyond what select() knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 1200:
        pytest.skip(f"at most {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1200 if 0 <= soft < 1200 else soft, hard))
    opened = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(1100)]
    yield
    for fd in opened:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def what_is_left(entries_before: set[str], processes_before: set[str]) -> list[str]:
    """Entries of /dev/shm and registry processes that are ours, new, and still there after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        new = shm_entries() - entries_before
        files = [f"{SHM}/{name}" for name in sorted(new - (held_by_others() if new else set()))]
        processes = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid not in processes_before]
        left = files + [f"registry pid {pid}" for pid in processes if is_our_registry(pid)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def signal_handlers() -> dict[int, object]:
    """What is done at signals; all but SIGALRM, with which pytest-timeout watches over tests."""
    return {number: signal.getsignal(number) for number in signal.valid_signals() if number != signal.SIGALRM}


def shm_entries() -> set[str]:
    """What lies in /dev/shm, but for the file that iceoryx2, if it is installed to measure beside, never removes."""
    return {name for name in os.listdir(SHM) if not (name.startswith("iox2_") and name.endswith(".global_mgmt"))}


def is_our_registry(pid: str) -> bool:
    """Whether `pid` is a registry process that this test run has started."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"shmlease.registry" not in file.read():
                return False
        return is_ours(pid)
    except OSError:  # it has ended, or is another user's
        return False


def is_ours(pid: str) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return f"{MARK}={os.environ[MARK]}".encode() in file.read().split(b"\0")


def held_by_others() -> set[str]:
    """Entries of /dev/shm that a process of another program has open or mapped, or something in them."""
    held: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps") as file:
                paths = [line.split(maxsplit=5)[5] for line in file if f" {SHM}/" in line]
            paths += [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            names = {path[len(SHM) + 1 :].split("/")[0].strip() for path in paths if path.startswith(f"{SHM}/")}
            if names and not is_ours(pid):
                held |= names
        except OSError:  # it has ended, or is another user's
            continue
    return held
