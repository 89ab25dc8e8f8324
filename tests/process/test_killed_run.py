"""A test run that is killed leaves no process, no mount and no file, whatever its tests had planted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rig import private_shm
from rig.until import until

TESTS = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a private /dev/shm, and mount")

# A test that plants what has been seen to outlive runs, or could, and then does not end.
PLANTS = """
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import conftest
import shmlease
from rig import planted_bugs, private_shm
from rig.site import Site

conftest.PATIENCE_S = 0  # a run that is interrupted need not wait for what cannot end

SPIN = '''
import os, signal
os.fork() and os._exit(0)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
print(os.getpid(), flush=True)
while True:
    pass
'''


def spin(**options):
    options = {"start_new_session": True, "stdout": subprocess.PIPE, **options}
    with subprocess.Popen([sys.executable, "-S", "-c", SPIN], **options) as process:
        return int(process.stdout.readline())


def fork_one_that_spins():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
        while True:
            pass
    return pid


def test_that_does_not_end(tmp_path):
    with planted_bugs.planted(planted_bugs.ENDLESS.__name__):
        faulty = shmlease.Registry("1MiB")
    sound = shmlease.Registry("1MiB")
    lease = sound.lease(shape=100)
    Path("/dev/shm/psm_planted").write_bytes(bytes(100))
    private_shm.mount("tmpfs", str(tmp_path), "tmpfs", 0)
    spinning = [fork_one_that_spins(), spin(), spin(env={})]
    pids = [os.getpid(), Site(faulty.id).pid, Site(sound.id).pid, *spinning]
    Path("planted.new").write_text("\\n".join(map(str, [os.getpid(), tempfile.mkdtemp(), *pids])))
    os.rename("planted.new", "planted")
    signal.pause()
"""


class Planted(NamedTuple):
    """What is there while the run's test does not end."""

    runner: int
    directory: str
    processes: dict[int, str]

    def left(self) -> list[str]:
        """What of it is still there."""
        left = [f"process {pid}" for pid, start in self.processes.items() if start_of(pid) == start]
        return left + [self.directory] * os.path.exists(self.directory)


def start_of(pid: int) -> str:
    """When the process was started; empty if it has died."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A directory with the test in it; what it reports is there, too."""
    if not private_shm.is_possible():
        pytest.skip("this system gives no private /dev/shm")
    (tmp_path / "test_planting.py").write_text(PLANTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


@contextlib.contextmanager
def started(run: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """The run, in a session of its own as in a terminal of its own."""
    dropped = ("PYTEST_", "MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment["PYTHONPATH"] = str(TESTS)
    with (
        open(run / "output", "wb") as output,
        subprocess.Popen(
            command, cwd=run, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def pytest_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", *options]


def planted(run: Path, process: subprocess.Popen[bytes]) -> Planted:
    """What there is, as soon as it is all there."""
    until(lambda: (run / "planted").exists() or process.poll() is not None, what="the planting")
    assert process.poll() is None, (run / "output").read_text()
    runner, directory, *pids = (run / "planted").read_text().splitlines()
    processes = {int(pid): start_of(int(pid)) for pid in pids}
    assert all(processes.values())
    return Planted(int(runner), directory, processes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_killed_run(run: Path, number: int) -> None:
    with started(run, *pytest_command("-p", "no:xdist")) as process:
        left = planted(run, process).left
        assert len(left()) == 7
        os.kill(process.pid, number)
    until(lambda: not left(), what=f"the end of {left()}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_killed_run_with_workers(run: Path, number: int) -> None:
    with started(run, *pytest_command("-n", "1")) as process:
        left = planted(run, process).left
        if number == signal.SIGINT:  # Ctrl-C reaches all that run in the terminal's foreground
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    until(lambda: not left(), what=f"the end of {left()}")


def test_processes_of_a_killed_worker_end_while_the_run_goes_on(run: Path) -> None:
    with started(run, *pytest_command("-n", "1", "--maxfail", "1")) as process:
        runner, _, processes = seen = planted(run, process)
        os.kill(runner, signal.SIGKILL)
        until(lambda: not any(start_of(pid) == start for pid, start in processes.items()))
        assert process.wait() == pytest.ExitCode.TESTS_FAILED
    until(lambda: not seen.left())
    assert "crashed while running" in (run / "output").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_killing_make_ends_the_run(run: Path) -> None:
    command = " ".join(pytest_command("-n", "1"))
    (run / "Makefile").write_text(f"test:\n\t{command}\n")
    with started(run, "make", "test") as process:
        left = planted(run, process).left
        process.kill()
    until(lambda: not left(), what=f"the end of {left()}")
