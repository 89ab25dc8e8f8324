"""The one line that a project needs in its workflow, as the documentation has it, tried."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from running import environment

DOCS = Path(__file__).resolve().parents[2] / "docs"
LEAK = "from multiprocessing.shared_memory import SharedMemory\n\ndef test_it():\n    SharedMemory(create=True, size=100)\n"
CLEAN = "def test_it():\n    pass\n"


def call(directory: Path, line: str, test: str) -> subprocess.CompletedProcess[str]:
    """Run the line of a workflow with this interpreter's shmlease and pytest, on a project with one test."""
    (directory / "test_it.py").write_text(test)
    functions = f'shmlease() {{ "{sys.executable}" -m shmlease "$@"; }}\n'
    line = re.sub(r"\bpython\b", sys.executable, line)
    return subprocess.run(
        ["bash", "-c", functions + line], capture_output=True, text=True, cwd=directory, env=environment(), check=False
    )


def test_line_of_the_workflow_fails_on_a_leak_and_on_nothing_else(tmp_path: Path) -> None:
    found = re.search(r"^ +- run: (shmlease run .*)$", (DOCS / "ci.md").read_text(), re.MULTILINE)
    assert found is not None
    clean = call(tmp_path, found[1], CLEAN)
    assert clean.returncode == 0, clean.stderr
    leaking = call(tmp_path, found[1], LEAK)
    assert leaking.returncode == 23, leaking.stderr
    assert "at test_it.py:4 in test_it" in " ".join(leaking.stderr.split())


def test_line_of_the_pytest_settings_is_valid_and_known() -> None:
    found = re.search(r"```toml\n(.*?)```", (DOCS / "pytest.md").read_text(), re.DOTALL)
    assert found is not None
    assert tomllib.loads(found[1]) == {"tool": {"pytest": {"ini_options": {"shmlease_audit": "fail"}}}}


def test_lines_of_the_baseline_make_old_leaks_pass_and_new_ones_fail(tmp_path: Path) -> None:
    found = re.search(
        r"^(shmlease run --write-baseline .*)\n(shmlease run --baseline .*)$", (DOCS / "ci.md").read_text(), re.M
    )
    assert found is not None
    assert call(tmp_path, found[1], LEAK).returncode == 0
    assert call(tmp_path, found[2], LEAK).returncode == 0
    new = LEAK + "\ndef test_another():\n    SharedMemory(create=True, size=100)\n"
    finished = call(tmp_path, found[2], new)
    assert finished.returncode == 23, finished.stderr
    assert "in test_another" in " ".join(finished.stderr.split())
