"""What a command loads before it does anything: it is in the way of the program that is to be run."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_run_begins_its_command_without_what_judges_it() -> None:
    loaded = loaded_by("import shmlease.cli.run")
    judges = {
        "shmlease.auditor.audit",
        "shmlease.auditor.observe.observer",
        "shmlease.auditor.reap",
        "shmlease.auditor.judge.indexed_evidence",
    }
    assert not loaded & {*judges, "hashlib", "tomllib", "numpy", "psutil", "jinja2"}


def test_audit_loads_no_reaper() -> None:
    assert not loaded_by("import shmlease.cli.audit") & {"shmlease.auditor.reap", "tomllib", "numpy"}
