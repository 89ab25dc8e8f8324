"""Every command with an output, over every target that is no place for one: a sentence, exit code 2, nothing harmed or
left.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from rig.mount_namespace import mount_namespace
from shmlease.cli import main

TABLE = ["--dtype", "a:i4,b:i4", "--delimiter", "comma"]

# command -> its arguments, and how the name of its output ends
COMMANDS: dict[str, tuple[Callable[[str, str], list[str]], str]] = {
    "ingest": (lambda table, out: ["ingest", table, *TABLE, "-o", out, "--overwrite", "--workers", "1"], ".h5"),
    "ingest --dry-run": (lambda table, out: ["ingest", table, *TABLE, "-o", out, "--overwrite", "--dry-run"], ".h5"),
    "ingest --infer": (lambda table, out: ["ingest", table, "--infer", "-o", out, "--overwrite"], ".h5"),
    "audit": (lambda table, out: ["audit", "-o", out], ".json"),
    "audit --write-baseline": (lambda table, out: ["audit", "--write-baseline", out], ".json"),
    "run": (lambda table, out: ["run", "-o", out, "--", "true"], ".json"),
    "run trace": (lambda table, out: ["run", "-o", out, "--", "true"], ".trace.json"),
    "run --write-baseline": (lambda table, out: ["run", "--write-baseline", out, "--", "true"], ".json"),
    "stress": (lambda table, out: ["stress", "--html", out, "--operations", "1"], ".html"),
}
REPORTS = [name for name in COMMANDS if not name.startswith("ingest")]


def called(*arguments: str) -> int:
    """The exit code of a command, called in this process: anything but an exit would be a traceback."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    return code if isinstance(code, int) else 0 if code is None else 1


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "shmlease", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("1,2\n3,4\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture(autouse=True)
def configured_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def a_directory(folder: Path, ending: str) -> Path:
    (folder / f"out{ending}").mkdir()
    return folder / f"out{ending}"


def a_missing_directory(folder: Path, ending: str) -> Path:
    return folder / "absent" / f"out{ending}"


def a_file_as_directory(folder: Path, ending: str) -> Path:
    (folder / "file").write_text("a file")
    return folder / "file" / f"out{ending}"


def a_name_too_long(folder: Path, ending: str) -> Path:
    return folder / f"{'n' * 300}{ending}"


def a_socket(folder: Path, ending: str) -> Path:
    directory = os.open(folder, os.O_PATH)  # the path of a socket may have 107 bytes, that of a test's folder has more
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/out{ending}")
    os.close(directory)
    return folder / f"out{ending}"


def a_link_to_itself(folder: Path, ending: str) -> Path:
    (folder / f"out{ending}").symlink_to(f"out{ending}")
    return folder / f"out{ending}"


def a_link_into_nowhere(folder: Path, ending: str) -> Path:
    (folder / f"out{ending}").symlink_to(f"absent/out{ending}")
    return folder / f"out{ending}"


TARGETS = [
    a_directory,
    a_missing_directory,
    a_file_as_directory,
    a_name_too_long,
    a_socket,
    a_link_to_itself,
    a_link_into_nowhere,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_target_that_is_no_place_for_an_output_is_refused(
    command: str,
    target: Callable[[Path, str], Path],
    table: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, ending = COMMANDS[command]
    out = target(folder, ending)
    before = snapshot(folder)
    assert called(*arguments(str(table), str(out))) == 2
    said = capsys.readouterr().err
    assert said.startswith("shmlease: ")
    assert out.name in said
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in `folder`: what it is, and its inode."""
    return {str(path): (path.lstat().st_mode, path.lstat().st_ino) for path in folder.rglob("*")}


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null", "fifo"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name.startswith("ingest")])
def test_an_hdf5_file_is_put_in_no_device_and_no_fifo(
    command: str, device: str, table: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = device
    if device == "fifo":
        os.mkfifo(out := f"{folder}/out.h5")
    before = os.lstat(out)
    assert called(*COMMANDS[command][0](str(table), out)) == 2
    assert "it is a" in capsys.readouterr().err
    assert (os.lstat(out).st_ino, os.lstat(out).st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("command", REPORTS)
def test_a_report_into_a_device_that_is_full_is_an_error_and_the_device_stays(
    command: str, table: Path, folder: Path
) -> None:
    arguments, ending = COMMANDS[command]
    out = folder / f"out{ending}"
    out.symlink_to("/dev/full")  # for the commands that look at the ending of the name
    done = run(*arguments(str(table), str(out)))
    assert done.returncode == 2
    assert f"cannot write {out}: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.is_symlink()
    assert stat.S_ISCHR(os.lstat("/dev/full").st_mode)


def test_reports_into_dev_null_are_as_good_as_none() -> None:
    before = os.lstat("/dev/null")
    assert called("audit", "--write-baseline", "/dev/null") == 0
    assert os.lstat("/dev/null").st_ino == before.st_ino


def test_a_report_goes_into_a_fifo(folder: Path) -> None:
    os.mkfifo(folder / "out.json")
    with subprocess.Popen(["cat", folder / "out.json"], stdout=subprocess.PIPE, text=True) as reader:
        assert run("run", "-o", folder / "out.json", "--", "true").returncode == 0
        assert json.loads(reader.communicate(timeout=60)[0])["findings"] == []
    assert stat.S_ISFIFO((folder / "out.json").lstat().st_mode)


def test_a_report_that_cannot_be_written_leaves_the_exit_code_of_the_command_and_the_other_reports(folder: Path) -> None:
    (folder / "full.json").symlink_to("/dev/full")
    outputs = ["-o", f"{folder}/full.json", "-o", f"{folder}/good.json"]
    assert run("run", *outputs, "--", "sh", "-c", "exit 7").returncode == 7
    assert json.loads((folder / "good.json").read_text())["findings"] == []


def run_pytest(folder: Path, report: Path) -> subprocess.CompletedProcess[str]:
    (folder / "test_nothing.py").write_text("def test_nothing(): pass\n")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--shmlease-audit", "--shmlease-report", str(report)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_nothing.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_the_pytest_plugin_refuses_a_target_that_is_no_place_for_its_report(
    target: Callable[[Path, str], Path], folder: Path
) -> None:
    out = target(folder, ".json")
    done = run_pytest(folder, out)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"cannot write {out}" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_report_that_the_pytest_plugin_cannot_write_fails_the_session_in_a_line(folder: Path) -> None:
    (folder / "out.json").symlink_to("/dev/full")
    done = run_pytest(folder, folder / "out.json")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert f"shmlease: cannot write {folder}/out.json: No space left on device" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("command", ["audit", "status", "--help"])
def test_stdout_on_a_full_disk_is_an_error_and_no_traceback(command: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shmlease", command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "shmlease: standard output: No space left on device\n")


def test_a_finished_file_is_replaced_only_when_that_is_asked_for_and_by_nothing_before_it_is_whole(
    table: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out.h5"
    arguments = ["ingest", str(table), *TABLE, "-o", str(out), "--workers", "1", "--quiet"]
    assert called(*arguments) == 0
    out.chmod(0o640)
    finished = out.read_bytes()
    for option in ([], ["--resume"], ["--dry-run"]):
        assert called(*arguments, *option) == 2
        assert "the file is there already; choose another name, or have it replaced (--overwrite" in capsys.readouterr().err
    table.write_text("1,2\nno,row\n")
    assert called(*arguments, "--overwrite") == 2
    assert out.read_bytes() == finished
    table.write_text("5,6\n")
    assert called(*arguments, "--overwrite") == 0
    with h5py.File(out) as file:
        assert file["table"][...].tolist() == [(5, 6)]
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_an_output_that_is_an_input_is_refused_under_any_name(
    table: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "symbolic").symlink_to(table)
    os.link(table, folder / "hard")
    content = table.read_bytes()
    for out in (table, folder / "symbolic", folder / "hard"):
        for option in ([], ["--overwrite"], ["--overwrite", "--resume"]):
            assert called("ingest", str(table), *TABLE, "-o", str(out), *option) == 2
            assert "is one of the files to read" in capsys.readouterr().err
    assert table.read_bytes() == content


# --- what is read ----------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[str], list[str]]] = {
    "ingest": lambda path: ["ingest", path, *TABLE, "-o", "out.h5"],
    "ingest --infer": lambda path: ["ingest", path, "--infer"],
    "ingest --dry-run": lambda path: ["ingest", path, *TABLE, "--dry-run"],
    "verify": lambda path: ["verify", path],
    "audit --baseline": lambda path: ["audit", "--baseline", path],
    "audit --config": lambda path: ["audit", "--config", path],
    "run --baseline": lambda path: ["run", "--baseline", path, "--", "true"],
    "run --config": lambda path: ["run", "--config", path, "--", "true"],
}
INPUTS = [a_missing_directory, a_file_as_directory, a_name_too_long, a_socket, a_link_to_itself, a_link_into_nowhere]


@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("command", READERS)
def test_a_path_that_cannot_be_read_is_refused(
    command: str, kind: Callable[[Path, str], Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kind(folder, ".csv")
    assert called(*READERS[command](str(path))) == 2
    said = capsys.readouterr().err
    assert said.startswith("shmlease: ")
    assert path.name in said


@pytest.mark.parametrize("command", READERS)
def test_a_directory_in_place_of_a_file_to_read_is_refused(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*READERS[command](str(folder))) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_fifo_in_place_of_a_file_to_verify_is_refused_and_not_waited_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "fifo")
    assert called(*READERS["verify"](f"{folder}/fifo")) == 2
    assert "not a regular file" in capsys.readouterr().err


# --- file systems that take nothing ----------------------------------------------------------------------------------

MOUNTED = """
import os, sys
from shmlease.cli import main
folder, mode = sys.argv[1:3]
if mode == "full":
    fd = os.open(f"{folder}/filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError:
        pass
before = sorted(os.listdir(folder))
for line in sys.stdin:
    try:
        main(line.rstrip("\\n").split("\\t"))
    except SystemExit as ended:
        print(ended.code, sorted(os.listdir(folder)) == before, flush=True)
"""
MOUNT = {
    "full": 'mount -t tmpfs -o size=64k none "$1"; exec "$2" -c "$3" "$1" full',
    "read-only": 'mount -t tmpfs -o ro none "$1"; exec "$2" -c "$3" "$1" read-only',
}


@pytest.mark.parametrize(("mode", "code"), [("full", errno.ENOSPC), ("read-only", errno.EROFS)])
def test_a_file_system_that_takes_nothing_is_an_error_of_every_command(
    mode: str, code: int, table: Path, folder: Path
) -> None:
    calls = ["\t".join(arguments(str(table), f"{folder}/out{end}")) for arguments, end in COMMANDS.values()]
    # a dry run makes nothing, and tells only what can be told without; stress goes on in another process
    calls = [call for call in calls if "--dry-run" not in call and not call.startswith("stress")]
    done = subprocess.run(
        mount_namespace(MOUNT[mode], str(folder), sys.executable, MOUNTED),
        input="\n".join(calls),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.stdout.splitlines() == ["2 True"] * len(calls), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count(os.strerror(code)) == len(calls), done.stderr
