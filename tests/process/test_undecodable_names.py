r"""Files whose names are no UTF-8: every form of report shows them, and the reaper finds them.

A name is shown as ``psm\xff``; another file may really be called that, and is told from it by its identity.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from running import environment, run_command

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.report.formats import FORMATS

NAME = b"psm\xff\xc3("
SHOWN = r"psm\xff\xc3("
# creates it where it is told to, and leaves it; one of the test's own arguments is no UTF-8 either
PROGRAM = "import os, sys; open(os.fsencode(sys.argv[1]), 'wb').write(bytes(5000))"
ENDINGS = {".trace.json": "trace", ".html": "html", ".sarif": "sarif", ".json": "json", ".xml": "junit", ".txt": "text"}


@pytest.fixture
def shm() -> Iterator[bytes]:
    path = f"/dev/shm/test-{secrets.token_hex(6)}".encode()
    os.mkdir(path, 0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def leak(shm: bytes) -> bytes:
    path = shm + b"/" + NAME
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # as shm_open(3) is called: what others may read looks like a file to keep
        file.write(bytes(5000))
    os.chmod(path, 0o600)  # as a segment has it
    return path


def call(cwd: object, command: str, shm: bytes, *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "shmlease", command, "--path", os.fsdecode(shm), *arguments]
    return subprocess.run(words, capture_output=True, cwd=str(cwd), env=environment(**more), check=False)


def checked(form: str, content: bytes) -> str:
    """All text in a report of `form`, which is what it should be."""
    text = content.decode()
    if form in {"json", "sarif", "trace"}:
        return "\n".join(_strings(json.loads(text)))
    if form == "junit":
        return "\n".join(filter(None, (one.text or one.get("message") for one in ElementTree.fromstring(text).iter())))
    if form == "html":
        data = text.partition('<script type="application/json" id="report">')[2].partition("</script>")[0]
        assert SHOWN in Report.from_json(data).leaks[0].name
        return text.replace(data, "")
    return text


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(one)


@pytest.mark.parametrize("form", FORMATS)
def test_undecodable_name_is_shown(tmp_path: object, shm: bytes, leak: bytes, form: str) -> None:
    summary = f"{tmp_path}/summary"
    finished = call(tmp_path, "audit", shm, "--format", form, GITHUB_STEP_SUMMARY=summary)
    assert (finished.returncode, finished.stderr) == (23, b"")
    assert SHOWN in checked(form, finished.stdout)
    if form == "github":
        with open(summary, encoding="utf-8") as file:
            assert SHOWN.replace("\\", "\\\\") in file.read()  # Markdown


@pytest.mark.parametrize("ending", ENDINGS)
def test_undecodable_name_is_shown_by_a_run(tmp_path, ending: str) -> None:  # type: ignore[no-untyped-def]
    """Also the program, its argument, and the events of the run bear it."""
    program = tmp_path / os.fsdecode(b"job\xfe.py")
    program.write_text(PROGRAM)
    output = tmp_path / f"out{ending}"
    path = os.fsdecode(b"/dev/shm/" + NAME)
    words = (sys.executable, program.name, path)
    finished = run_command(tmp_path, *words, options=("--isolate", "-o", str(output)), env={"GITHUB_ACTIONS": "true"})
    assert finished.code == 23, finished.stderr
    assert SHOWN in finished.stderr
    (finding,) = finished.report.leaks
    assert (finding.name, finding.creator.place.file) == (SHOWN, r"job\xfe.py")
    assert SHOWN in finding.creator.command
    assert SHOWN in {event.segment for event in finished.report.events}
    assert SHOWN in checked(ENDINGS[ending], output.read_bytes())


def test_undecodable_name_is_known_to_a_baseline(tmp_path: object, shm: bytes, leak: bytes) -> None:
    assert call(tmp_path, "audit", shm, "--write-baseline", "known.json").returncode == 0
    with open(f"{tmp_path}/known.json", encoding="utf-8") as file:
        assert json.load(file)["findings"][0]["name"].endswith(r"psm\xff\xc3(")
    finished = call(tmp_path, "audit", shm, "--baseline", "known.json", "--json")
    assert finished.returncode == 0
    assert Report.from_json(finished.stdout).suppressed[0].finding.name.endswith(SHOWN)


def test_undecodable_name_is_shown_by_the_reaper_which_removes_the_right_file(
    tmp_path: object, shm: bytes, leak: bytes
) -> None:
    """Its neighbour's name is what is shown of it, and another that is in use has a name as odd."""
    with open(shm + b"/" + SHOWN.encode(), "wb") as held, open(shm + b"/held\xfe\x1b", "wb") as other:
        held.write(bytes(5000))
        other.write(bytes(5000))
        told = call(tmp_path, "reap", shm).stdout.decode()
        assert f"would remove {os.fsdecode(shm)}/{SHOWN} (8 KiB, LH001)" in told
        assert os.path.exists(leak)
        finished = call(tmp_path, "reap", shm, "--yes", "--json")
    result = json.loads(finished.stdout)
    assert [one["path"] for one in result["removed"]] == [f"{os.fsdecode(shm)}/{SHOWN}"]
    assert sorted(os.listdir(shm)) == [b"held\xfe\x1b", SHOWN.encode()]


def test_undecodable_name_that_is_left_alone_is_shown_by_the_reaper(tmp_path: object, shm: bytes, leak: bytes) -> None:
    os.rename(leak, shm + b"/psm\x1b\xff")
    path = f"{os.fsdecode(shm)}/psm"
    told = call(tmp_path, "reap", shm, "--yes", "--older-than", "1h")
    assert told.stdout.decode().startswith(rf"left alone {path}\x1b\xff (LH001): it was used ")
    listed = json.loads(call(tmp_path, "reap", shm, "--yes", "--older-than", "1h", "--json").stdout)
    assert [one["path"] for one in listed["declined"]] == [f"{path}\x1b\\xff"]


def test_dead_registry_in_a_directory_of_such_a_name_is_reaped(tmp_path: object, shm: bytes) -> None:
    root = shm + b"/root\xff"
    os.mkdir(root)
    os.mkdir(root + b"/shmlease-0dead0", 0o700)
    for name in (b"lock", b"ledger"):
        with open(root + b"/shmlease-0dead0/" + name, "wb"):
            pass
    finished = call(tmp_path, "reap", root, "--json")
    assert finished.returncode == 0, finished.stderr
    assert rf"{os.fsdecode(shm)}/root\xff" in finished.stdout.decode().replace("\\\\", "\\")
