"""`shmlease run` as an ordinary user: through a user namespace, or in the shared directory, where it says what
it misses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from running import environment

import shmlease
from shmlease.auditor.judge.findings import Report

NOBODY = 65534
PACKAGES = [Path(shmlease.__file__).parent.parent, Path(msgspec.__file__).parent.parent]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; the other tests run as you")

LEAK = "from multiprocessing.shared_memory import SharedMemory\nsegment = SharedMemory(create=True, size=5000)\n"


def as_nobody(directory: Path, python: str, *words: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(map(str, PACKAGES))
    return subprocess.run(
        [python, "-B", *words],
        capture_output=True,
        text=True,
        cwd=directory,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env=environment(PYTHONPATH=search, HOME=str(directory)),
        check=False,
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that is nobody's."""
    path = Path(tempfile.mkdtemp(prefix="shmlease-nobody-"))
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def python(directory: Path) -> str:
    """An interpreter that nobody can run, with shmlease."""
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            if as_nobody(directory, candidate, "-c", "import shmlease.cli.run").returncode == 0:
                return candidate
        except OSError:
            continue
    pytest.skip("no interpreter here can be run by another user")


def run(directory: Path, python: str, *options: str) -> tuple[int, str, Report]:
    (directory / "program.py").write_text(LEAK)
    words = ["-m", "shmlease", "run", "-o", "report.json", *options, "--", python, "program.py"]
    done = as_nobody(directory, python, *words)
    if "does not allow" in done.stderr or "cannot have a /dev/shm of its own" in done.stderr:
        pytest.skip(f"this system has no namespaces for ordinary users: {done.stderr}")
    return done.returncode, done.stderr, Report.from_json((directory / "report.json").read_bytes())


@pytest.mark.parametrize("isolation", ["--isolate", "--no-isolate"])
def test_leak_is_found_and_its_line_named(directory: Path, python: str, isolation: str) -> None:
    code, text, report = run(directory, python, isolation)
    assert code == 23, text
    assert [(one.rule, str(one.creator.place)) for one in report.leaks if one.creator] == [
        ("LH015", "program.py:2 in <module>")
    ]


def test_isolated_user_is_not_blind(directory: Path, python: str) -> None:
    _, _, report = run(directory, python, "--isolate")
    assert not report.coverage.is_blind


def test_program_keeps_its_user_and_its_files(directory: Path, python: str) -> None:
    done = as_nobody(directory, python, "-m", "shmlease", "run", "--", "sh", "-c", "id -u; touch made; stat -c %u made")
    assert done.stdout.split() == [str(NOBODY), str(NOBODY)]
    assert (directory / "made").stat().st_uid == NOBODY
