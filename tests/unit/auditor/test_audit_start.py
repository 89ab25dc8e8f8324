"""What a command loads before it does anything: it is in the way of the program that is to be run."""

from __future__ import annotations

import subprocess
import sys

import pytest

import leasehold.auditor


def loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_run_begins_its_command_without_what_judges_it() -> None:
    loaded = loaded_by("import leasehold.cli.run")
    judges = {
        "leasehold.auditor.looking",
        "leasehold.auditor.observer",
        "leasehold.auditor.reaping",
        "leasehold.core.picture",
    }
    assert not loaded & {*judges, "hashlib", "tomllib", "numpy"}


def test_audit_loads_no_reaper() -> None:
    assert not loaded_by("import leasehold.cli.audit") & {"leasehold.auditor.reaping", "tomllib", "numpy"}


@pytest.mark.parametrize("name", leasehold.auditor.__all__)
def test_every_export_is_where_it_is_said_to_be(name: str) -> None:
    assert getattr(leasehold.auditor, name) is not None
    assert name in dir(leasehold.auditor)


def test_what_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"leasehold\.auditor.*'nothing'"):
        _ = leasehold.auditor.nothing
