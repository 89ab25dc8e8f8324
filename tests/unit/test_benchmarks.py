"""The scripts of benchmarks/ run with the code as it is: each names only what exists, and a tiny round of each works."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from shmlease.verification.bench.timing import Measurement

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))
SCRIPTS = [name for name in FILES if "argparse" in (text := (FOLDER / f"{name}.py").read_text()) or "@click" in text]
# the smallest round of each that stores measurements
STORING = {
    "existing_code": "--only small --rounds 1",
    "handover": "--sizes 4KiB --seconds 0.05 --subjects shmlease",
    "ingest": "--cases none --scale 0.001 --rounds 1",
    "leases": "--most 10 --seconds 0.05 --size 8MiB",
    "objects": "--sizes 64KiB --seconds 0.05",
    "shared_memory": "--rounds 1 --sizes 4KiB",
    "throughput": "--clients 1 --seconds 0.1",
}
# and of the others
PRINTING = {
    "audit": "churn --seconds 0.5",
    "dask_cluster": "--size 1MiB --rounds 1",
    "dask_ingest": "--files 2 --rows 1000 --rounds 1",
    "demo": "files --rows 2000",
    "overhead": "--rounds 1 --only run --size 4KiB",
    "parsing": "--rows 100 --turns 1",
    "reclaim": "--rounds 2",
    "sink": "--size 8MB --repeats 1 --cases rows",
}


def imported(script: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"benchmark_{script}", FOLDER / f"{script}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        specification.loader.exec_module(module)
    finally:
        del sys.modules[module.__name__]
    return module


def names_that_are_not_there(source: str, module: ModuleType) -> list[str]:
    """Attributes of imported modules, and names given to mock.patch.object, that these modules do not have."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        found = None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = node.value.id, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("patch.object"):
            found = ast.unparse(node.args[0]), ast.literal_eval(node.args[1])
        if found and isinstance(owner := getattr(module, found[0], None), ModuleType) and not hasattr(owner, found[1]):
            missing.append(".".join(found))
    return missing


@pytest.mark.parametrize("script", FILES)
def test_each_script_names_only_what_exists(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # where they find one another
    assert names_that_are_not_there((FOLDER / f"{script}.py").read_text(), imported(script)) == []


def test_name_that_went_away_is_noticed() -> None:
    module = ModuleType("m")
    module.__dict__["re"] = re
    assert names_that_are_not_there("re.gone = re.match", module) == ["re.gone"]
    assert names_that_are_not_there('mock.patch.object(re, "_GONE", 1)', module) == ["re._GONE"]


def test_each_script_has_a_tiny_round() -> None:
    assert sorted([*STORING, *PRINTING, "report"]) == SCRIPTS  # whose tests are with those of its charts


def test_the_command_that_makes_the_page_runs_every_script_that_stores_measurements() -> None:
    makefile = (FOLDER.parent / "Makefile").read_text()
    found = re.search(r"^MEASURED := (.*)$", makefile, re.MULTILINE)
    assert found is not None
    assert sorted(found[1].split()) == sorted(STORING)


@pytest.mark.stress
@pytest.mark.parametrize("script", STORING)
def test_a_tiny_round_stores_what_the_page_is_made_of(script: str, tmp_path: Path) -> None:
    run(script, [*STORING[script].split(), "--json", "measured.json"], tmp_path)
    assert msgspec.json.decode((tmp_path / "measured.json").read_bytes(), type=list[Measurement])


@pytest.mark.stress
@pytest.mark.parametrize("script", PRINTING)
def test_a_tiny_round_prints(script: str, tmp_path: Path) -> None:
    assert run(script, PRINTING[script].split(), tmp_path)


def run(script: str, arguments: list[str], directory: Path) -> str:
    command = [sys.executable, str(FOLDER / f"{script}.py"), *arguments]
    finished = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    is_slow = "MISSED" in finished.stdout  # a target, on a busy machine: the script ran all the same
    assert finished.returncode == 0 or is_slow, finished.stdout + finished.stderr
    return finished.stdout
