"""Runs the unit and conformance tests, and those of the standard library's shared memory, on every other supported Python.

    python tests/interpreters.py [arguments for pytest]

Supported is what pyproject.toml lists, and whatever is newer. Interpreters are looked for in PATH, among those of pyenv,
and among those of uv; nothing is downloaded but packages. Each gets a virtual environment beside the main one,
``.venv-3.13``. A version that is listed and not there is named, so that nobody takes silence for success.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ("tests/unit", "tests/conformance", "tests/process/test_shared_memory.py")
Version = tuple[int, int]


def main() -> None:
    listed = supported_versions()
    found = {version: path for version, path in interpreters(listed).items() if version != sys.version_info[:2]}
    outcomes = {version: run(version, path, is_listed=version in listed) for version, path in sorted(found.items())}
    print()
    for version in sorted({*listed, *found} - {sys.version_info[:2]}):
        print(f"Python {version[0]}.{version[1]}: {outcomes.get(version, 'NOT TESTED, this machine has none')}")
    sys.exit(any(outcome == "FAILED" for outcome in outcomes.values()))


def supported_versions() -> set[Version]:
    """Those that pyproject.toml lists."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    return {
        (3, int(m[1])) for text in classifiers if (m := re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", text))
    }


def interpreters(listed: Iterable[Version]) -> dict[Version, str]:
    """One interpreter for each version that is supported."""
    found: dict[Version, str] = {}
    for candidate in candidates():
        version = version_of(candidate)
        if version is not None and version >= min(listed):
            found.setdefault(version, candidate)
    return found


def candidates() -> Iterator[str]:
    """What may be an interpreter, the most obvious first."""
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        yield from sorted(glob.glob(f"{glob.escape(directory)}/python3.[0-9][0-9]"))
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    yield from sorted(glob.glob(f"{glob.escape(pyenv)}/versions/3.[0-9][0-9].*/bin/python3"))
    if uv := shutil.which("uv"):
        done = subprocess.run([uv, "python", "dir"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            yield from sorted(glob.glob(f"{glob.escape(done.stdout.strip())}/cpython-3.*-linux-*/bin/python3"))


def version_of(interpreter: str) -> Version | None:
    """The version of a CPython that is finished and has its lock; None for anything else."""
    program = "import sys, sysconfig as s; print(*sys.version_info[:2], sys.implementation.name, "
    program += "sys.version_info.releaselevel, s.get_config_var('Py_GIL_DISABLED') or 0)"
    try:
        done = subprocess.run([interpreter, "-I", "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return None
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if words[2:] == ["cpython", "final", "0"] else None


def run(version: Version, interpreter: str, *, is_listed: bool) -> str:
    """Install for the tests and run them; what came of it, in words."""
    environment = ROOT / f".venv-{version[0]}.{version[1]}"
    python = str(environment / "bin/python")
    print(f"\n--- Python {version[0]}.{version[1]}: {interpreter}", flush=True)
    if not is_fresh(environment):
        try:
            subprocess.run([interpreter, "-m", "venv", "--clear", "--without-pip", str(environment)], check=True)
            pip = [sys._base_executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
            subprocess.run([*pip, "install", "--quiet", "-e", f"{ROOT}[tests]"], check=True)
        except subprocess.CalledProcessError as error:
            return "FAILED" if is_listed else f"NOT TESTED, its packages cannot be installed yet ({error})"
        (environment / ".installed").touch()
    arguments = [*("-n", "auto", "--dist", "worksteal", "-p", "no:cacheprovider"), *sys.argv[1:]]
    done = subprocess.run([python, "-m", "pytest", *arguments, *TESTS], cwd=ROOT, check=False)
    return "passed" if done.returncode == 0 else "FAILED"


def is_fresh(environment: Path) -> bool:
    """Whether all is installed that pyproject.toml asks for."""
    mark = environment / ".installed"
    return mark.exists() and mark.stat().st_mtime > (ROOT / "pyproject.toml").stat().st_mtime


if __name__ == "__main__":
    main()
