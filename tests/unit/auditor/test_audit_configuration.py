from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from shmlease.auditor.configuration import Configuration, load_configuration
from shmlease.errors import LeaseError

PYPROJECT = """
[tool.shmlease.audit]
strict = true
ignore = ["dark-bytes"]
overdue-after = "1h"
baseline = "leaks.json"

[[tool.shmlease.audit.suppress]]
rule = "orphan"
name = "cache-*"
reason = "kept for the next run"
expires = 2030-01-31
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_pyproject_is_found_in_a_directory_above(tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", PYPROJECT)
    (tmp_path / "src" / "app").mkdir(parents=True)
    found = load_configuration(beneath=str(tmp_path / "src" / "app"))
    assert (found.strict, found.ignore, found.overdue_after) == (True, ["dark-bytes"], "1h")
    assert found.source == path
    (suppression,) = found.suppressions
    assert (suppression.rule, suppression.name, suppression.expires) == ("orphan", "cache-*", date(2030, 1, 31))
    assert suppression.source == path


def test_baseline_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", PYPROJECT)
    assert load_configuration(beneath=str(tmp_path)).baseline == str(tmp_path / "leaks.json")


def test_shmlease_toml_has_shorter_tables_and_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", PYPROJECT)
    write(tmp_path / "shmlease.toml", "[audit]\nstrict = false\nignore = ['sysv']\n")
    assert load_configuration(beneath=str(tmp_path)).ignore == ["sysv"]


def test_pyproject_that_says_nothing_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", PYPROJECT)
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner / "pyproject.toml", "[project]\nname = 'x'\n")
    assert load_configuration(beneath=str(inner)).strict


def test_without_any_file_there_are_defaults(tmp_path: Path) -> None:
    found = load_configuration(beneath=str(tmp_path))
    assert found == Configuration() or found.source  # a directory above the temporary one may have one


def test_options_are_also_understood_with_underscores(tmp_path: Path) -> None:
    path = write(tmp_path / "shmlease.toml", "[audit]\noverdue_after = '5s'\ndefault_suppressions = false\n")
    found = load_configuration(path)
    assert (found.overdue_after, found.default_suppressions) == ("5s", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[audit]\nstrickt = true\n", "unknown field `strickt`.*\\[audit\\] knows strict, rules"),
        ("[audit]\nstrict = 'yes'\n", "Expected `bool`, got `str`.*strict"),
        ("[audit]\nrules = ['LH999']\n", "there is no rule 'LH999'; the rules are LH001 orphan"),
        ("[audit]\noverdue-after = 'long'\n", "overdue-after: 'long' is not a duration"),
        ("[[audit.suppress]]\nname = 'x'\n", "missing required field `reason`"),
        ("[[audit.suppress]]\nname = 'x'\nreason = ' '\n", "has no reason; say why it is not a leak"),
        ("[[audit.suppress]]\nreason = 'x'\nuntil = 2030-01-01\n", "unknown field `until`"),
        ("[[audit.suppress]]\nreason = 'x'\nexpires = 'soon'\n", "Invalid RFC3339|Expected `date`"),
        ("audit = 3\n", "must be a table, not 3"),
        ("[audit\n", "is not valid TOML"),
    ],
)
def test_mistake_is_reported_with_the_file_and_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "shmlease.toml", text)
    with pytest.raises(LeaseError, match=f"(?s){path}.*({message})"):
        load_configuration(path)


def test_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match=r"cannot read .*nothing\.toml: No such file"):
        load_configuration(str(tmp_path / "nothing.toml"))


@pytest.mark.parametrize(
    ("owner", "mode", "counts"),
    [(65534, 0o1777, False), (65534, 0o755, True), (None, 0o1777, True), (0, 0o777, True)],
    ids=["a stranger's in a directory for all", "a colleague's in his own", "one's own", "root's"],
)
def test_what_a_stranger_has_put_above_a_project_suppresses_nothing(
    tmp_path: Path, owner: int | None, mode: int, counts: bool
) -> None:
    if owner is not None and os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can give a file away")
    path = write(tmp_path / "shmlease.toml", "[audit]\nstrict = true\n")
    if owner is not None:
        os.chown(path, owner, owner)
    (tmp_path / "project").mkdir()
    tmp_path.chmod(mode)
    assert load_configuration(beneath=str(tmp_path / "project")).strict is counts


def test_configuration_without_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "endless.toml").symlink_to("/dev/zero")
    with pytest.raises(LeaseError, match="it holds more than 64 MiB"):
        load_configuration(str(tmp_path / "endless.toml"))
