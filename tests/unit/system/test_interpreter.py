"""The interpreter is found where sys.executable is none, and what is none is told from one without harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shmlease.errors import UnsupportedPlatformError
from shmlease.system import interpreter as module
from shmlease.system.interpreter import find_interpreter, import_path, module_command


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing of this Python says where it is, and the only directory in PATH is an empty one, which is returned."""
    for name in ("executable", "_base_executable"):
        monkeypatch.setattr(sys, name, "")
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, "/no/such/prefix")
    monkeypatch.setenv("PATH", str(tmp_path))
    module._asked.cache_clear()
    return tmp_path


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("executable", ["", None, "/no/such/python", "/usr/bin/true", "/etc/passwd", "python3", "/"])
def test_interpreter_is_found_where_sys_executable_is_none(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    command = [find_interpreter(), "-c", "import sys; print(sys.implementation.cache_tag)"]
    assert subprocess.check_output(command, text=True).strip() == sys.implementation.cache_tag


def test_usual_interpreter_is_not_run_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_asked", lambda path: pytest.fail(f"{path} was run"))
    assert find_interpreter() == sys.executable


def test_interpreter_is_found_in_the_search_path(nowhere: Path) -> None:
    (nowhere / "python3").symlink_to(os.readlink("/proc/self/exe"))
    assert find_interpreter() == str(nowhere / "python3")


def test_renamed_interpreter_is_known_by_its_answer(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = program(nowhere / "host", f'exec {os.readlink("/proc/self/exe")} "$@"')
    monkeypatch.setattr(sys, "executable", str(renamed))
    assert find_interpreter() == str(renamed)


def test_what_was_tried_is_told_with_the_reason(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(program(nowhere / "uwsgi", "echo getopt_long error >&2; exit 1")))
    program(nowhere / "python3", "echo cpython-23")
    (nowhere / "python").write_text("")
    (nowhere / "python").chmod(0o755)
    with pytest.raises(UnsupportedPlatformError) as raised:
        find_interpreter()
    message = str(raised.value)
    assert f"sys.executable is '{nowhere}/uwsgi'" in message
    assert f"{nowhere}/uwsgi: no Python: it answered nothing" in message
    assert f"{nowhere}/python3: cpython-23, where {sys.implementation.cache_tag} is needed" in message
    assert f"{nowhere}/python: cannot be run: Exec format error" in message
    assert "/no/such/prefix/bin/python3: no such file" in message
    assert "set sys.executable to an interpreter" in message


def test_program_that_does_not_answer_is_not_waited_for_ever(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_WITHIN_S", 0.05)
    monkeypatch.setattr(sys, "executable", str(program(nowhere / "game", "exec /bin/sleep 60")))
    with pytest.raises(UnsupportedPlatformError, match=r"game: no Python: it did not answer"):
        find_interpreter()


def test_frozen_program_that_starts_itself_again_does_so_once(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would ask itself whether it is an interpreter, which would ask itself, and so on."""
    starts = nowhere / "starts"
    code = (
        "from shmlease.system.interpreter import find_interpreter; import sys; sys.executable = sys.argv[1]; "
        "find_interpreter()"
    )
    python, path = os.readlink("/proc/self/exe"), os.pathsep.join(sys.path)
    frozen = program(nowhere / "frozen", f"echo >> {starts}; PYTHONPATH='{path}' exec {python} -c '{code}' $0")
    monkeypatch.setattr(sys, "executable", str(frozen))
    with pytest.raises(UnsupportedPlatformError, match="frozen: no Python"):
        find_interpreter()
    assert starts.read_text() == "\n"


def test_frozen_program_is_never_run_as_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/usr/bin/false")
    monkeypatch.setattr(module, "_asked", lambda path: pytest.fail(f"{path} was run"))
    assert os.path.realpath(find_interpreter()) == os.readlink("/proc/self/exe")


def test_removed_current_directory_is_no_place_to_import_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(sys, "path", ["", ".", "relative", *sys.path])
    expected = import_path()[3:]
    assert import_path()[:3] == [str(gone), str(gone), str(gone / "relative")]
    gone.rmdir()
    assert import_path() == expected


def test_module_is_run_with_this_import_path_and_not_from_the_current_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine, here = tmp_path / "mine", tmp_path / "here"
    mine.mkdir()
    here.mkdir()
    (mine / "asked.py").write_text("import sys, random; print(__name__, sys.argv[1:], random.__file__, sys.path)")
    (here / "random.py").write_text("raise SystemExit('foreign code')")
    monkeypatch.setattr(sys, "path", [*sys.path, str(mine)])
    monkeypatch.chdir(here)
    told = subprocess.check_output(module_command("asked", "one", "two"), text=True)
    assert told.startswith("__main__ ['one', 'two']")
    assert str(here) not in told
    assert str(mine) in told
