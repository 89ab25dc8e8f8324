"""`shmlease audit` and `shmlease reap` as they are called."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.auditor.judge.findings import Report


@pytest.fixture
def shm() -> Iterator[Path]:
    path = Path(f"/dev/shm/test-{secrets.token_hex(6)}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


class Call:
    """Calls the command line in an empty directory, on one directory of /dev/shm."""

    def __init__(self, cwd: Path, shm: Path) -> None:
        self.cwd = cwd
        self.shm = shm

    def __call__(self, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "shmlease", command, "--path", str(self.shm), *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        return subprocess.run(words, capture_output=True, text=True, cwd=self.cwd, env={**kept, **environment}, check=False)


@pytest.fixture
def call(tmp_path: Path, shm: Path) -> Call:
    return Call(tmp_path, shm)


@pytest.fixture
def leak(shm: Path) -> Path:
    path = shm / "psm_4f2a8b1c"
    path.write_bytes(b"x" * 5000)
    return path


def test_clean_audit_exits_0_and_says_so(call: Call) -> None:
    finished = call("audit")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "no leaks" in finished.stdout.splitlines()[-1]


def test_leak_exits_23_and_is_reported(call: Call, leak: Path) -> None:
    finished = call("audit")
    assert finished.returncode == 23
    assert f"LH001 orphan  {leak.name} (4.883 KiB) has no holder" in finished.stdout


def test_usage_error_exits_2(call: Call) -> None:
    assert call("audit", "--no-such-option").returncode == 2
    assert call("audit", "--overdue-after", "long").returncode == 2
    unknown = call("audit", "--rule", "orphans")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "there is no rule 'orphans'; did you mean orphan (LH001)?" in unknown.stderr


def test_blind_audit_exits_125_if_strict(call: Call) -> None:
    """What is dark in a single directory cannot be counted; another user's process may hold memory of it."""
    if "LH016" not in call("audit", "--json").stdout:
        pytest.skip("every process of this machine can be read")
    assert call("audit").returncode == 0
    assert call("audit", "--strict").returncode == 125
    (call.cwd / "shmlease.toml").write_text("[audit]\nstrict = true\n")
    assert call("audit").returncode == 125
    assert call("audit", "--no-strict").returncode == 0


def test_json_is_a_report(call: Call, leak: Path) -> None:
    for finished in (call("audit", "--json"), call("audit", "--format", "json")):
        assert [finding.name for finding in Report.from_json(finished.stdout).leaks] == [leak.name]


def test_report_is_written_to_a_file(call: Call, leak: Path, tmp_path: Path) -> None:
    finished = call("audit", "--format", "sarif", "-o", str(tmp_path / "out.sarif"))
    assert (finished.returncode, finished.stdout) == (23, "")
    assert finished.stderr.startswith("1 leak (8 KiB); ")
    assert finished.stderr.endswith(f"; the report is in {tmp_path / 'out.sarif'}\n")
    assert json.loads((tmp_path / "out.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "LH001"


def test_file_that_cannot_be_written_exits_2(call: Call) -> None:
    finished = call("audit", "-o", "/no/such/directory/report")
    assert finished.returncode == 2
    assert "cannot write /no/such/directory/report: there is no directory /no/such/directory" in finished.stderr


def test_baseline_makes_old_leaks_pass_and_new_ones_fail(call: Call, leak: Path, shm: Path) -> None:
    written = call("audit", "--write-baseline", "leaks.json")
    assert (written.returncode, written.stderr) == (0, "recorded 1 leak in leaks.json\n")
    assert call("audit", "--baseline", "leaks.json").returncode == 0
    leak.rename(shm / "psm_deadbeef")
    assert call("audit", "--baseline", "leaks.json").returncode == 0, "the name has another random part"
    (shm / "frames").write_bytes(b"x")
    finished = call("audit", "--baseline", "leaks.json", "--json")
    assert finished.returncode == 23
    assert [finding.name for finding in Report.from_json(finished.stdout).leaks] == ["frames"]


def test_baseline_that_is_missing_exits_2(call: Call) -> None:
    finished = call("audit", "--baseline", "nothing.json")
    assert finished.returncode == 2
    assert "--write-baseline nothing.json" in finished.stderr


def test_suppression_of_the_project_is_used_and_told(call: Call, leak: Path) -> None:
    (call.cwd / "pyproject.toml").write_text(
        "[[tool.shmlease.audit.suppress]]\nname = 'psm_*'\nrule = 'orphan'\nreason = 'handed over by name'\n"
    )
    finished = call("audit")
    assert finished.returncode == 0
    assert "suppressed: 1, handed over by name" in finished.stdout


def test_expired_suppression_does_not_count(call: Call, leak: Path) -> None:
    (call.cwd / "shmlease.toml").write_text(
        "[[audit.suppress]]\nname = 'psm_*'\nreason = 'until the fix'\nexpires = 2020-01-31\n"
    )
    finished = call("audit")
    assert finished.returncode == 23
    assert "expired on 2020-01-31" in finished.stdout


def test_mistake_in_the_configuration_exits_2(call: Call) -> None:
    (call.cwd / "shmlease.toml").write_text("[audit]\nstrickt = true\n")
    finished = call("audit")
    assert finished.returncode == 2
    assert "unknown field `strickt`" in finished.stderr


def test_github_gets_annotations_and_a_summary(call: Call, leak: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    finished = call("audit", "--format", "github", GITHUB_STEP_SUMMARY=str(path))
    assert finished.returncode == 23
    assert finished.stdout.startswith("::error title=LH001 orphan::psm_4f2a8b1c")
    assert path.read_text().startswith("before\n### shmlease audit: 1 leak\n")


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_terminal_gets_colour_unless_it_is_not_wanted(
    call: Call, leak: Path, environment: dict[str, str], coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    words = [sys.executable, "-m", "shmlease", "audit", "--path", str(call.shm)]
    with subprocess.Popen(words, stdout=theirs, cwd=call.cwd, env={**kept, **environment}) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while block := os.read(ours, 4096):
                written += block
    os.close(ours)
    assert process.returncode == 23
    assert (b"\x1b[" in written) == coloured


def test_reap_tells_first_and_removes_when_told_to(call: Call, leak: Path, shm: Path) -> None:
    with open(shm / "in use", "wb"):
        told = call("reap")
        assert told.returncode == 0
        assert f"would remove {leak} (8 KiB, LH001)" in told.stdout
        assert told.stdout.rstrip().endswith("would remove 1 (8 KiB), left alone 0; run it again with --yes to remove them")
        assert leak.exists()
        done = call("reap", "--yes")
        assert f"removed {leak} (8 KiB, LH001)" in done.stdout
    assert [path.name for path in shm.iterdir()] == ["in use"]


def test_reap_lists_what_it_declined_with_the_reason(call: Call, leak: Path) -> None:
    finished = call("reap", "--yes", "--older-than", "1h", "--json")
    result = json.loads(finished.stdout)
    assert result["removed"] == []
    assert result["declined"][0]["path"] == str(leak)
    assert result["declined"][0]["reason"].startswith("it was used ")
    assert leak.exists()


def test_reap_leaves_alone_what_the_project_suppresses(call: Call, leak: Path) -> None:
    (call.cwd / "shmlease.toml").write_text("[[audit.suppress]]\nname = 'psm_*'\nreason = 'kept'\n")
    assert "left alone" in call("reap", "--yes").stdout
    assert leak.exists()
