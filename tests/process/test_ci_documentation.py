"""What a project needs in its workflow, as the documentation has it, tried: on each system, with and without a leak."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
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


def block(language: str, beginning: str) -> str:
    """The block of docs/ci.md that begins so."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (DOCS / "ci.md").read_text(), re.MULTILINE | re.DOTALL)
    (one,) = [text for text in found if text.lstrip().startswith(beginning)]
    return str(one)


def lines() -> dict[str, str]:
    """The line that runs the tests, on each system; and the files that the rest of its configuration names."""
    (github,) = yaml.safe_load(block("yaml", "- run:"))
    gitlab = yaml.safe_load(block("yaml", "test:"))["test"]
    (gitlab_line,) = gitlab["script"]
    assert gitlab["artifacts"]["when"] == "always"
    (jenkins,) = re.findall(r"^ +sh '(.*)'$", block("groovy", "pipeline"), re.MULTILINE)
    return {"GitHub": github["run"], "GitLab": gitlab_line, "Jenkins": jenkins}


def reports_kept() -> dict[str, list[str]]:
    """The reports that each system is told to keep."""
    artifacts = yaml.safe_load(block("yaml", "test:"))["test"]["artifacts"]
    jenkins = re.findall(r"^ +(?:junit|archiveArtifacts) '(.*)'$", block("groovy", "pipeline"), re.MULTILINE)
    return {"GitHub": [], "GitLab": [*artifacts["paths"], artifacts["reports"]["junit"]], "Jenkins": jenkins}


@pytest.mark.parametrize("line", sorted(set(lines().values())))
def test_line_of_each_system_fails_on_a_leak_and_on_nothing_else(line: str, tmp_path: Path) -> None:
    clean = call(tmp_path, line, CLEAN)
    assert clean.returncode == 0, clean.stderr
    leaking = call(tmp_path, line, LEAK)
    assert leaking.returncode == 23, leaking.stderr
    assert "at test_it.py:4 in test_it" in " ".join(leaking.stderr.split())
    written = {path.name for path in tmp_path.glob("leaks.*")}
    for system in (system for system, used in lines().items() if used == line):
        assert written == set(reports_kept()[system]), system
    if "leaks.xml" in written:
        failed = ET.parse(tmp_path / "leaks.xml").findall(".//testcase[failure]")
        assert ["test_it.py" in ET.tostring(case, "unicode") for case in failed] == [True]


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
