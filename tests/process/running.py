"""Calls `shmlease run` on a small Python program, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shmlease.auditor.judge.findings import Report


@dataclass(frozen=True)
class Finished:
    """How it went: exit code, what was written, and the report."""

    code: int
    stdout: str
    stderr: str
    report: Report

    @property
    def rules(self) -> list[str]:
        return [finding.rule for finding in self.report.leaks]

    @property
    def places(self) -> list[str]:
        """Where what leaked was made: file and line."""
        creators = [finding.creator for finding in self.report.leaks]
        return [f"{one.place.file}:{one.place.line}" for one in creators if one is not None and one.place is not None]


# For sessions of pytest that a test starts: plugins that take long to import, and that no such session needs.
FEW_PLUGINS = "-p no:hypothesispytest -p no:anyio -p no:pytest_cov -p no:rerunfailures"


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would make the run another."""
    dropped = ("GITHUB_", "SHMLEASE_REGISTRY", "SHMLEASE_RECORDS", "SHMLEASE_ISOLATED", "PYTEST_CURRENT_TEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    wide = "200"  # columns: the paths of tests stand in one line
    return {**kept, "PYTEST_ADDOPTS": FEW_PLUGINS, "COLUMNS": wide, **more}


def run_here(
    command: list[str], directory: Path, *, timeout: float = 280, **popen: Any
) -> subprocess.CompletedProcess[str]:
    """Run `command` in `directory`, with nothing in its environment of the run that tests it."""
    return subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, timeout=timeout, check=False, **popen
    )


def run_command(
    tmp_path: Path, *command: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, **popen: Any
) -> Finished:
    """Run `command` in `tmp_path` under `shmlease run`."""
    output = tmp_path / "report.json"
    words = [sys.executable, "-m", "shmlease", "run", "-o", str(output), *options, "--", *command]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(**(env or {})),
        check=False,
        **popen,
    )
    report = Report.from_json(output.read_bytes()) if output.exists() else Report()
    return Finished(done.returncode, done.stdout, done.stderr, report)


def run_program(tmp_path: Path, program: str, *options: str, **more: Any) -> Finished:
    """Run the Python `program` in `tmp_path` under `shmlease run`."""
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    return run_command(tmp_path, sys.executable, "program.py", options=options, **more)
