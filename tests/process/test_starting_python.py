"""Processes of ours start whatever the program around them did to its interpreter, directory, descriptors and SIGCHLD."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ingesting import OPTIONS, expected, make_table, rows_of
from running import run_here

USE = textwrap.dedent("""
    import shmlease, numpy as np
    with shmlease.Registry(capacity="16MiB") as registry:
        with registry.share(np.arange(3), "three") as lease:
            assert lease.array.sum() == 3
            import os, signal
            from shmlease.system.ledger import read_ledger
            os.kill(read_ledger(f"/dev/shm/shmlease-{registry.id}/ledger").registry.identity.pid, signal.SIGKILL)
            with registry.attach("three") as again:  # of a successor
                print("sum", again.array.sum())
""")
BEFORE = {
    "no interpreter is named": "import sys; sys.executable = ''",
    "the interpreter is None": "import sys; sys.executable = None",
    "the interpreter is missing": "import sys; sys.executable = '/no/such/python'",
    "the interpreter is another program": "import sys; sys.executable = '/usr/bin/true'",
    "the working directory was removed": (
        "import os, sys; os.mkdir('w'); os.chdir('w'); os.rmdir('../w'); sys.path.insert(0, '')"
    ),
    "SIGCHLD is ignored": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "all children are reaped": (
        "import os, signal\n"
        "def reap(*_):\n"
        "    try:\n"
        "        while os.waitpid(-1, os.WNOHANG)[0]: pass\n"
        "    except ChildProcessError: pass\n"
        "signal.signal(signal.SIGCHLD, reap)"
    ),
    "all signals are blocked": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "the standard streams are closed": "import os; said = os.dup(1); [os.close(fd) for fd in (0, 1, 2)]",
    "the environment is large": "import os; os.environ.update({f'LARGE{i}': 'x' * 100_000 for i in range(15)})",
    "the import path is long": "import sys; sys.path += ['/no/such/' + str(i) + 'x' * 200 for i in range(2000)]",
    "a module of the standard library is shadowed": (
        "import sys, os; open('signal.py', 'w').write('raise SystemExit(\"foreign code\")'); sys.path.insert(0, "
        "os.getcwd())"
    ),
}


def run(program: str, directory: Path, **popen: object) -> subprocess.CompletedProcess[str]:
    return run_here([sys.executable, "-c", program], directory, **popen)


@pytest.mark.parametrize("before", BEFORE)
def test_registry_and_successor_start_when(before: str, tmp_path: Path) -> None:
    use = USE.replace("print(", "import os; os.dup2(said, 1); os.write(1, b'sum 3') or (") if "streams" in before else USE
    done = run(f"import shmlease.client.registry, shmlease.system.interpreter\n{BEFORE[before]}\n{use}", tmp_path)
    assert "sum 3" in done.stdout, done.stderr
    assert "foreign code" not in done.stderr


@pytest.mark.parametrize("before", ["no interpreter is named", "SIGCHLD is ignored", "all children are reaped"])
def test_ingest_when(before: str, tmp_path: Path) -> None:
    table = make_table(tmp_path / "one.cov", 5_000)
    words = [str(table), "-o", "out.h5", "--workers", "2", *OPTIONS]
    done = run(f"{BEFORE[before]}\nfrom shmlease.cli.ingest import command; command.main({words!r})", tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "out.h5", "one").tobytes() == expected(table).tobytes()


def test_run_returns_the_exit_code_though_sigchld_is_ignored(tmp_path: Path) -> None:
    """As whoever started us left it: it is inherited over exec."""
    words = [sys.executable, "-m", "shmlease", "run", "--", "sh", "-c", "exit 7"]
    done = run(
        f"import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv({words[0]!r}, {words!r})", tmp_path
    )
    assert done.returncode == 7, done.stderr
    assert "no leaks" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["selftest", "--rule", "LH001", "--rule", "LH002", "--rule", "LH015", "--json"],
        ["stress", "--operations", "5", "--clients", "2", "--json"],
        ["ingest", "one.cov", "-o", "out.h5", *OPTIONS],
        ["bench", "handover", "--sizes", "4KiB", "--seconds", "10ms", "--json"],
    ],
    ids=lambda command: "-".join(command[:3]),
)
@pytest.mark.parametrize("way", ["as a script", "as a module"])
def test_code_in_the_current_directory_is_not_run_by(command: list[str], way: str, tmp_path: Path) -> None:
    make_table(tmp_path / "one.cov", 100)
    witness = tmp_path / "witness"
    for name in ("shmlease", "numpy", "random", "signal", "multiprocessing", "msgspec", "h5py", "secrets"):
        (tmp_path / f"{name}.py").write_text(f"import sys; open({str(witness)!r}, 'a').write('{name} ' + repr(sys.argv))")
    words = [sys.executable, "-P", "-c", "from shmlease.cli import main; main()"]
    if way == "as a module":
        # python -m looks in the current directory first, for shmlease itself as well
        (tmp_path / "shmlease.py").unlink()
        words = [sys.executable, "-m", "shmlease"]
        if command[0] == "bench":
            pytest.skip("the same as a script")
    done = run_here([*words, *command], tmp_path, timeout=280)
    assert not witness.exists(), witness.read_text()
    assert done.returncode == 0, done.stderr


def test_a_registry_whose_starter_was_killed_ends_though_nobody_reads_why() -> None:
    """`process.main` reports to its standard output; a pipe that nobody reads is no traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    code = "from shmlease.registry.process import main; main('no settings')"
    done = subprocess.run([sys.executable, "-c", code], stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")
