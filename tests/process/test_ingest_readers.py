"""Loaders of the user's own: the recipes of the documentation as they stand there, and whatever is killed meanwhile."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from ingesting import SMALL, begun, contents, family, finish, kill_each, start

from rig.until import until
from shmlease.cli.ingest import command as ingest_command
from shmlease.errors import IngestError
from shmlease.hdf5 import verify
from shmlease.ingestion.ingest import ingest
from shmlease.ingestion.tasks import TICKET_TTL_S

PAGE = (Path(__file__).parents[2] / "docs" / "readers.md").read_text()
LOADERS = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ (shmlease ingest .* -o out\.h5)$", PAGE, re.MULTILINE)
SLOW = """
import numpy as np

def parts(path):
    with open(path) as file:
        seed = int(file.read())
    values = np.random.default_rng(seed)
    yield "x", values.integers(0, 1000, (150_000, 4), dtype="i4"), {"units": "counts"}
    for number in range(40):
        yield "y", values.integers(0, 50, 20_000, dtype="i8")
    yield "seed", np.int64(7)

def out(path, out):
    out("z", 3, "f4")[:] = 1

def crash(path):
    import os, signal
    if path.endswith("1.seed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.arange(5)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Files of every kind that the recipes read, with the recipes as a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("loaders", "slow"):  # of another test
        monkeypatch.delitem(sys.modules, module, raising=False)
    Path("loaders.py").write_text(LOADERS)
    Path("slow.py").write_text(SLOW)
    np.save("spectrum.npy", np.arange(12.0).reshape(3, 4))
    for number in (1, 2):
        np.savez(f"run{number}.npz", x=np.arange(number * 3), y=np.full((2, 2), number, "f4"))
        pixels = np.arange(6, dtype="u1" if number == 1 else ">u2").reshape(2, 3) + number
        Path(f"plate{number}.pgm").write_bytes(b"P5\n# by hand\n3 2\n255\n" + pixels.astype("u1").tobytes())
        Path(f"scan{number}.raw").write_bytes(np.array([2, 3], "<u4").tobytes() + pixels.astype("<u2").tobytes())
        with h5py.File(f"grid{number}.nc", "w") as file:
            file["t"] = np.arange(number * 24.0).reshape(-1, 2, 3)
            file["t"].attrs["units"] = "K"
            file["time"] = np.arange(number * 4.0)
            file["time"].make_scale("time")
            file["t"].dims[0].attach_scale(file["time"])
    for name, day in (("monday.csv", 4), ("tuesday.csv", 5)):
        Path(name).write_text(f"time,price,venue\n2024-03-0{day} 09:00:00,1.5,XETR\n2024-03-0{day} 09:00:01,2.25,XPAR\n")
    for seed in range(3):
        Path(f"{seed}.seed").write_text(str(seed))
    return tmp_path


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
    return found


EXPECTED = {
    "npy": {"spectrum": np.arange(12.0).reshape(3, 4)},
    "npz": {"run1/x": [0, 1, 2], "run1/y": np.ones((2, 2)), "run2/x": range(6), "run2/y": np.full((2, 2), 2)},
    "npz --into": {"runs/x": [*range(3), *range(6)], "runs/y": np.repeat([1, 2], 4).reshape(4, 2)},
    "grids": {
        "grid1/t": np.arange(24.0).reshape(-1, 2, 3),
        "grid1/time": range(4),
        "grid2/t": np.arange(48.0).reshape(-1, 2, 3),
        "grid2/time": range(8),
    },
    "pgm": {"plates": [[[1, 2, 3], [4, 5, 6]], [[2, 3, 4], [5, 6, 7]]]},
    "trades": {
        "trades/time": np.array(
            ["2024-03-04T09:00:00", "2024-03-04T09:00:01", "2024-03-05T09:00:00", "2024-03-05T09:00:01"], "M8[ns]"
        ).view("i8"),
        "trades/price": [1.5, 2.25] * 2,
        "trades/venue": [b"XETR", b"XPAR"] * 2,
    },
    "raw": {"scan1/counts": [[1, 2, 3], [4, 5, 6]], "scan2/counts": [[2, 3, 4], [5, 6, 7]]},
}


def test_every_recipe_has_its_result() -> None:
    names = [re.search(r"loaders:(\w+)", each).group(1) + (" --into" * ("npz --into" in each)) for each in COMMANDS]
    assert names == list(EXPECTED)


@pytest.mark.parametrize(("command", "result"), list(zip(COMMANDS, EXPECTED.values(), strict=True)))
def test_a_recipe_reads_what_it_is_for(command: str, result: dict, folder: Path) -> None:
    done = CliRunner().invoke(ingest_command, shlex.split(command)[2:])
    assert (done.exit_code, done.stderr) == (0, "")
    found = arrays_of(folder / "out.h5")
    assert found.keys() == result.keys()
    for name, values in result.items():
        assert np.array_equal(found[name], values), name
    assert verify(folder / "out.h5", folder).is_good


def test_attributes_of_a_grid_come_along(folder: Path) -> None:
    assert finish(start("grid1.nc", "--reader", "loaders:grids", "--attr", "run=7", "-o", "out.h5")).code == 0
    with h5py.File("out.h5") as file:
        own = {key: value for key, value in file["grid1/t"].attrs.items() if not key.startswith("shmlease")}
    assert own == {"units": "K", "run": "7"}


def seeds() -> list[str]:
    return sorted(map(str, Path().glob("*.seed")))


@pytest.mark.parametrize("into", [[], ["--into", "all"]])
def test_a_run_with_a_reader_that_is_killed_and_resumed_makes_the_same_file(into: list[str], folder: Path) -> None:
    killed_and_resumed(into, random.Random(1), kills=2)


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_100_runs_with_a_reader_killed_at_random_moments_and_resumed_make_the_same_file(folder: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    dice = random.Random(4)
    for into in ([], ["--into", "all"]):
        killed_and_resumed(into, dice, kills=50)
    until(lambda: set(os.listdir("/dev/shm")) <= before, TICKET_TTL_S + 10)


def killed_and_resumed(into: list[str], dice: random.Random, kills: int) -> None:
    arguments = (*seeds(), "--reader", "slow:parts", *into, "--capacity", SMALL)
    quiet = Path("quiet.h5")
    assert finish(start(*arguments, "-o", quiet, "--overwrite")).code == 0
    out, done = Path("out.h5"), 0
    most_bytes = quiet.stat().st_size
    while done < kills:
        kinds: tuple[str, ...] = ("worker",)
        process = start(*arguments, "-o", out, "--resume")
        for _ in range(2):
            reached = dice.randrange(most_bytes)
            begun(process, out, reached)
            kinds = dice.choice([("worker",), ("registry",), ("coordinator",), ("worker", "coordinator")])
            processes = {**family(process.pid), "coordinator": [process.pid]}
            kill_each(pid for kind in kinds for pid in processes[kind][:1])
            if "coordinator" in kinds:
                break
        ended = finish(process)
        if "coordinator" not in kinds:
            assert (ended.code, ended.stderr) == (0, "")
        done += 1
        while not out.exists():
            assert finish(start(*arguments, "-o", out, "--resume")).code == 0
        assert_same(contents(out), contents(quiet))
        out.unlink()


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_a_path_whose_reader_kills_its_workers_is_left_out(folder: Path) -> None:
    import slow

    with pytest.raises(IngestError, match=r"1\.seed: reader slow:crash failed: .* given up after 3 attempts"):
        ingest(seeds(), "out.h5", reader=slow.crash)
    report = ingest(seeds(), "out.h5", reader=slow.crash, on_error="skip")
    assert [each.rejected for each in report.files] == [0, 1, 0]
    assert report.workers_replaced >= 3
    assert (report.leaks, report.exit_code) == ((), 1)


def test_an_executor_of_the_users_can_call_the_reader(folder: Path) -> None:
    import slow

    for name in ("own.h5", "executor.h5"):
        with ThreadPoolExecutor(2) as executor:
            report = ingest(seeds(), name, reader=slow.parts, into="all", executor=executor if "ex" in name else None)
        assert report.leaks == ()
    assert_same(contents(Path("executor.h5")), contents(Path("own.h5")))


def test_a_reader_of_a_script_is_found_and_an_option_for_text_is_refused(folder: Path) -> None:
    Path("script.py").write_text(
        "import numpy as np, shmlease\n"
        "def read(path): return {'n': np.arange(4)}\n"
        "if __name__ == '__main__':\n"
        "    print(shmlease.ingest(['0.seed'], 'out.h5', reader=read).rows)\n"
        "    shmlease.ingest(['0.seed'], 'out2.h5', reader=read, delimiter=',')\n"
    )
    ran = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert ran.stdout == "4\n"
    assert ran.stderr.splitlines()[-1].startswith("TypeError: delimiter says how text is read")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reader", "slow"), "is not MODULE:FUNCTION"),
        (("--reader", "slow:none"), "has no attribute 'none'"),
        (("--reader", "../slow.py:parts"), "is not MODULE:FUNCTION"),
        (("--reader", "nowhere:f"), "No module named 'nowhere'; modules are looked for in the working directory"),
        (("--reader", "broken:f"), "broken:f: ZeroDivisionError: division by zero"),
        (("--reader", "slow:parts", "--dtype", "a:i4"), "--dtype says how text is read"),
        (("--reader", "slow:parts", "--infer"), "--infer says how text is read"),
    ],
)
def test_a_reader_that_is_none_is_a_usage_error(options: tuple[str, ...], message: str, folder: Path) -> None:
    Path("broken.py").write_text("1 / 0\n")
    done = CliRunner().invoke(ingest_command, ["0.seed", "-o", "out.h5", *options])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_file_that_is_not_there_is_said_before_any_is_read_and_no_other_run_is_offered_for_resuming(folder: Path) -> None:
    def refused(*words: str) -> str:
        command = [sys.executable, "-m", "shmlease", "ingest", "-o", "out.h5", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    told = refused("0.seed", "nowhere.seed", "--reader", "slow:parts")
    assert told == "shmlease: nowhere.seed: cannot be read: No such file or directory\n"
    Path("out.h5.partial").mkdir()
    Path("out.h5.partial/data").write_bytes(b"of an earlier run")
    told = refused("nowhere.txt", "--layout", "bedgraph")
    assert told == "shmlease: nowhere.txt: cannot be read: No such file or directory\n"
