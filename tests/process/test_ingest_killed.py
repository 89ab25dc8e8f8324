"""Nothing is lost: whatever is killed, and whenever, the file is in the end the one that a quiet run makes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from ingesting import (
    COLUMNS,
    DTYPE,
    OPTIONS,
    SMALL,
    begun,
    call,
    contents,
    family,
    finish,
    kill_each,
    make_table,
    start,
)

from rig.mount_namespace import mount_namespace
from rig.site import has_died
from rig.until import until
from shmlease.errors import IngestError, LeaseError
from shmlease.ingestion import worker_forkserver
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.report import IngestReport, Progress
from shmlease.ingestion.tasks import TICKET_TTL_S

FIELDS = {"dtype": DTYPE, "columns": COLUMNS}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tables")
    return [make_table(folder / name, 100_000, seed) for seed, name in enumerate(("a.cov", "b.cov.gz", "c.cov"))]


@pytest.fixture(scope="module")
def quiet(tables, tmp_path_factory) -> dict:
    """What a run that nobody disturbs makes."""
    out = tmp_path_factory.mktemp("quiet") / "out.h5"
    ingest(tables, out, capacity=SMALL, **FIELDS)
    return contents(out)


def run_and(act: Callable[[], None], tables: list[Path], out: Path) -> IngestReport:
    """Ingest in this process, and `act` once, when rows have begun to come in."""
    acted = []

    def watch(progress: Progress) -> None:
        if progress.rows and not acted:
            acted.append(True)
            act()

    report = ingest(tables, out, capacity=SMALL, progress=watch, **FIELDS)
    assert acted
    return report


def kill(kind: str, most: int = 1) -> None:
    """Kill the first processes of a kind, of the run that this process coordinates; they are dead then."""
    pids = family(os.getpid())[kind][:most]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(has_died(pid) for pid in pids), what="the death of the processes")


@pytest.mark.parametrize("most", [1, 2])
def test_what_killed_workers_had_in_hand_is_done_by_others(tables, quiet, tmp_path, most):
    """There is always more to do than the capacity has room for."""
    report = run_and(lambda: kill("worker", most), tables, tmp_path / "out.h5")
    assert contents(tmp_path / "out.h5") == quiet
    assert report.leaks == ()
    assert report.workers_replaced >= 1


def test_a_killed_registry_is_succeeded(tables, quiet, tmp_path):
    report = run_and(lambda: kill("registry"), tables, tmp_path / "out.h5")
    assert contents(tmp_path / "out.h5") == quiet
    assert report.leaks == ()


def plant(folder: Path, table: Path, code: str) -> None:
    """A module in `folder` that has its process run some code when it opens a table."""
    (folder / "planted_in_workers.py").write_text(
        "import os, signal, sys, time\n"
        "def planted(event, arguments):\n"
        f"    if event == 'open' and arguments[0] == {str(table)!r}:\n"
        f"        {code}\n"
        "sys.addaudithook(planted)\n"
    )


@pytest.fixture
def on_opening(tmp_path, monkeypatch) -> Callable[[Path, str], None]:
    """Have the workers of this process run some code when they open a table."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker_forkserver, "_PRELOAD", [*worker_forkserver._PRELOAD, "planted_in_workers"])
    return functools.partial(plant, tmp_path)


def test_a_file_whose_worker_died_is_begun_anew_by_another(tables, quiet, tmp_path, on_opening):
    """With room enough, each worker has a file for itself."""
    died = str(tmp_path / "died")
    on_opening(tables[0], f"os.path.exists({died!r}) or (os.mkdir({died!r}), os.kill(os.getpid(), signal.SIGKILL))")
    report = ingest(tables, tmp_path / "out.h5", **FIELDS)
    assert contents(tmp_path / "out.h5") == quiet
    assert (report.leaks, report.workers_replaced) == ((), 1)


def test_workers_that_die_again_and_again_over_the_same_work_end_the_run(tables, tmp_path, on_opening):
    on_opening(tables[-1], "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(LeaseError, match="given up after 3 attempts"):
        ingest(tables, tmp_path / "out.h5", capacity=SMALL, **FIELDS)
    assert not (tmp_path / "out.h5").exists()


@contextlib.contextmanager
def run_that_has_stored(tables: Sequence[Path], out: Path) -> Iterator[subprocess.Popen]:
    """A run that has stored most of the first table and does not end, since its workers wait to open the last one."""
    folder = out.with_suffix(".planted")
    folder.mkdir()
    plant(folder, tables[-1], f"while not os.path.exists({str(folder / 'open')!r}): time.sleep(0.002)")
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from shmlease.ingestion import worker_forkserver; "
        "worker_forkserver._PRELOAD.append('planted_in_workers'); from shmlease.cli import main; main()"
    )
    process = start(*tables, "-o", out, *OPTIONS, "--capacity", SMALL, program=("-c", program))
    try:
        begun(process, out, 300_000)
        assert process.poll() is None, finish(process).stderr
        yield process
    finally:
        (folder / "open").touch()


def test_a_killed_coordinator_leaves_no_file_and_what_it_stored_is_used_again(tables, quiet, tmp_path):
    out = tmp_path / "out.h5"
    with run_that_has_stored(tables, out) as process:
        process.kill()
    finish(process)
    assert not out.exists()
    done = call(*tables, "-o", out, *OPTIONS, "--capacity", SMALL, "--resume", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert contents(out) == quiet
    assert done.summary["resumed_rows"] > 0
    assert not Path(f"{out}.partial").exists()


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "shmlease: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_run_interrupted_while_its_processes_start_ends_in_order(tables, tmp_path, number, code, said):
    program = (
        "import os; from shmlease.ingestion import resources; begin = resources.begin\n"
        "def interrupted(*given, **named):\n"
        "    begin(*given, **named)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "resources.begin = interrupted\n"
        "from shmlease.cli import main; main()"
    )
    done = finish(start(*tables, "-o", tmp_path / "out.h5", *OPTIONS, program=("-c", program)))
    assert (done.code, done.stdout, done.stderr) == (code, "", said)
    assert not list(tmp_path.glob("out.h5*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_in_order_and_can_be_resumed(tables, quiet, tmp_path, number, code):
    out = tmp_path / "out.h5"
    with run_that_has_stored(tables, out) as process:
        process.send_signal(number)
    done = finish(process)
    assert done.code == code
    assert not out.exists()
    assert "Traceback" not in done.stderr
    report = ingest(tables, out, capacity=SMALL, resume=True, **FIELDS)
    assert report.resumed_rows > 0
    assert contents(out) == quiet


FULL_DISK = """
mount -t tmpfs -o size=1m none "$1" || exit 8
set +e
out="$1/out.h5" copy="$2"
shift 2
"$@" -o "$out"; echo "$?"
test -e "$out" && echo "it is there"
mount -o remount,size=64m "$(dirname "$out")"
"$@" -o "$out" --resume --json && cp "$out" "$copy"
"""


def test_a_full_disk_is_reported_in_one_line_and_the_run_goes_on_when_there_is_room(tables, quiet, tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy.h5"
    disk.mkdir()
    command = [sys.executable, "-m", "shmlease", "ingest", *tables, *OPTIONS, "--capacity", SMALL]
    ended = subprocess.run(
        mount_namespace(FULL_DISK, str(disk), str(copy), *map(str, command)), capture_output=True, text=True, check=False
    )
    code, summary = ended.stdout.splitlines()
    print(ended.stderr)
    (line,) = ended.stderr.splitlines()
    assert code == "2"
    assert "No space left on device" in line
    assert "--resume" in line
    assert json.loads(summary)["resumed_rows"] > 0
    assert contents(copy) == quiet


def test_other_files_or_options_do_not_resume_a_run(tables, tmp_path):
    out = tmp_path / "out.h5"
    copies = [tmp_path / table.name for table in tables]
    for copy, table in zip(copies, tables, strict=True):
        copy.write_bytes(table.read_bytes())
    with run_that_has_stored(copies, out) as process:
        process.kill()
    finish(process)
    with pytest.raises(IngestError, match="the interrupted run was of other files or options"):
        ingest(copies[:2], out, resume=True, **FIELDS)
    status = copies[0].stat()
    with copies[0].open("r+b") as file:
        file.write(b"chX")
    os.utime(copies[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(IngestError, match="was rewritten since the interrupted run"):
        ingest(copies, out, resume=True, **FIELDS)
    os.utime(copies[0])
    with pytest.raises(IngestError, match="a file was changed since"):
        ingest(copies, out, resume=True, **FIELDS)


def test_a_file_that_is_changed_meanwhile_fails_the_run(tables, tmp_path):
    copy = tmp_path / "a.cov"
    copy.write_bytes(tables[0].read_bytes())
    with pytest.raises(IngestError, match=r"a\.cov: .*chang"):
        run_and(lambda: os.utime(copy), [tables[1], copy], tmp_path / "out.h5")


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("more", [(), ("--columnar", "--compression", "gzip,chr=none")])
def test_100_runs_killed_at_random_moments_and_resumed_make_the_same_file(tables, tmp_path, more):
    dice = random.Random(4)
    out = tmp_path / "out.h5"
    options = (*OPTIONS, *more, "--capacity", SMALL)
    assert finish(start(*tables, "-o", out, *options)).code == 0
    quiet = contents(out)
    out.unlink()
    before = set(os.listdir("/dev/shm"))
    resumed = 0
    for number in range(100):
        process = start(*tables, "-o", out, *options)
        begun(process, out, dice.randrange(1_500_000))
        kinds = dice.choice([("worker",), ("registry",), (), ("worker", "registry")])
        processes = family(process.pid)
        kill_each(pid for kind in kinds for pid in processes[kind])
        if len(kinds) != 1:
            process.kill()
        done = finish(process)
        while done.code and not out.exists():  # killed after the file was complete, there is nothing left to do
            assert len(kinds) != 1, done.stderr
            process = start(*tables, "-o", out, *options, "--resume", "--json")
            if dice.random() < 0.3:
                begun(process, out, dice.randrange(1_500_000))
                process.kill()
            done = finish(process)
            resumed += not done.code and done.summary["resumed_rows"] > 0
        assert contents(out) == quiet, f"run {number}, {kinds}"
        out.unlink()
    assert resumed > 10
    # a registry whose coordinator and workers were killed, and it not, ends with the tickets that were on their way
    until(lambda: set(os.listdir("/dev/shm")) <= before, TICKET_TTL_S + 10)
