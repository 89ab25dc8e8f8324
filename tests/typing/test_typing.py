"""Users' type checkers understand the public interface: mypy and pyright say of sample code what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("samples/*.py"))

# File and line of each complaint, and what it is.
Complaints = dict[tuple[str, int], str]


def run(*command: str) -> str:
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=280).stdout


def mypy(cache: Path) -> Complaints:
    found: Complaints = {}
    settings = ("--strict", "--no-error-summary", "--hide-error-context", "--config-file=", f"--cache-dir={cache}")
    for line in run("mypy", *settings, *map(str, FILES)).splitlines():
        path, number, kind, message = line.split(":", 3)
        if kind.strip() == "error":
            found[Path(path).name, int(number)] = message
    return found


def pyright(cache: Path) -> Complaints:
    settings = cache / "pyrightconfig.json"
    settings.write_text(
        json.dumps({"typeCheckingMode": "strict", "include": list(map(str, FILES)), "pythonPlatform": "Linux"})
    )
    told = json.loads(run("basedpyright", "--outputjson", "--project", str(settings), "--pythonpath", sys.executable))
    assert told["summary"]["filesAnalyzed"] == len(FILES)
    return {
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1): found["message"]
        for found in told["generalDiagnostics"]
        if found["severity"] == "error"
    }


@pytest.mark.parametrize("check", [mypy, pyright], ids=lambda check: check.__name__)
def test_type_checker_accepts_what_is_right_and_refuses_what_is_wrong(
    check: Callable[[Path], Complaints], pytestconfig: pytest.Config
) -> None:
    pytest.importorskip({mypy: "mypy", pyright: "basedpyright"}[check], reason="the extra `dev` has it")
    wrong = {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.endswith("# wrong")
    }
    assert pytestconfig.cache is not None
    complaints = check(pytestconfig.cache.mkdir(f"typing-{check.__name__}"))  # kept: numpy's types take 10 s to read
    assert len(wrong) > 10
    assert {place: complaints[place] for place in complaints.keys() - wrong} == {}
    assert wrong - complaints.keys() == set()
