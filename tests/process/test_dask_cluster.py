"""A cluster of two nodes with real processes: this one, and one in a mount namespace with a /dev/shm of its own."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from dask_nodes import Node, started_node, total, total_of_copy, total_of_lease
from distributed import Client, wait
from ingesting import COLUMNS, DTYPE, contents, expected, make_table, rows_of
from ingesting import OPTIONS as WORDS
from running import run_here

import shmlease
import shmlease.dask
from rig.until import until
from shmlease.integrations.dask.shard_tasks import run_tasks
from shmlease.integrations.dask.shards import record_of

LONG = 1 << 20  # elements, of 8 bytes


@pytest.fixture(scope="module")
def cluster() -> Iterator[shmlease.dask.LocalCluster]:
    with shmlease.dask.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, capacity="256MiB", dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: shmlease.dask.LocalCluster) -> Iterator[Client]:
    with cluster.get_client() as client:
        yield client


@pytest.fixture(scope="module")
def here(client: Client) -> list[str]:
    """The workers on this node."""
    return sorted(client.scheduler_info()["workers"])


@pytest.fixture(scope="module")
def elsewhere(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Another node, of the workers "b1" and "b2"."""
    preload = ("--preload", "shmlease.dask")
    with started_node(client, tmp_path_factory.mktemp("b"), "b1", "b2", options=preload) as node:
        yield node


def counters(cluster: shmlease.dask.LocalCluster) -> Counter[str]:
    return Counter(cluster.registry.statistics().counters)


def total_of_two(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return total(one) + total(other)


def leases_on_node() -> int:
    """How many there are, besides those of arrays that live in this worker: Dask keeps some that it could not send."""
    from shmlease.integrations.dask.serialization import buffers

    gc.collect()
    return shmlease.connect().statistics().leases["detached"] - len(buffers._records)


def plus_one(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array += 1
    return array


def registry_of_task() -> Any:
    registry = shmlease.connect()
    return registry.id, registry.statistics().capacity_bytes


def test_array_goes_to_another_worker_of_the_node_by_reference(
    cluster: shmlease.dask.LocalCluster, client: Client, here: list[str]
) -> None:
    made = client.submit(np.ones, LONG, workers=here[0], pure=False)
    wait(made)
    before = counters(cluster)
    assert client.submit(total_of_lease, made, workers=here[1], pure=False).result() == LONG
    assert counters(cluster)["published"] - before["published"] == 1
    assert total_of_lease(made.result()) == total_of_lease(client.gather(made)) == LONG
    assert counters(cluster)["published"] - before["published"] == 1, "whoever asks after the first gets the same segment"


def test_task_may_write_to_what_it_was_given(client: Client, here: list[str]) -> None:
    made = client.submit(np.zeros, LONG, workers=here[0], pure=False)
    wait(made)
    changed = client.submit(plus_one, made, workers=here[1], pure=False)
    wait(changed)
    assert client.submit(total, changed, workers=here[0], pure=False).result() == LONG
    result = changed.result()
    result += 1  # as of any other result
    assert (result[0], client.submit(total, changed, workers=here[1], pure=False).result()) == (2, LONG)


def test_scattered_arrays_are_leases_of_those_who_use_them(
    cluster: shmlease.dask.LocalCluster, client: Client, here: list[str]
) -> None:
    array = np.arange(LONG, dtype="f8")
    before = counters(cluster)
    scattered = client.scatter(array, workers=here, broadcast=True)
    totals = [client.submit(total_of_lease, scattered, workers=worker, pure=False) for worker in here]
    assert client.gather(totals) == [array.sum()] * 2
    assert counters(cluster)["published"] - before["published"] == 1


def test_persisted_collections_are_what_they_would_be_without(client: Client) -> None:
    ones = [dask.delayed(np.ones)(LONG) for _ in range(4)]
    kept = client.persist(ones)
    sums = [dask.delayed(np.add)(one, other) for one, other in zip(kept, kept[1:] + kept[:1], strict=True)]
    assert sum(array.sum() for array in client.gather(client.compute(sums))) == 8 * LONG


def test_spilled_array_is_sent_as_any_other(client: Client, here: list[str]) -> None:
    made = client.submit(np.ones, LONG, workers=here[0], pure=False)
    wait(made)
    assert client.submit(total, made, workers=here[1], pure=False).result() == LONG

    def evict(dask_worker: distributed.Worker) -> bool:
        data = dask_worker.data
        return not hasattr(data, "evict") or data.evict() >= 0

    assert all(client.run(evict).values())
    assert client.submit(total, made, workers=here[1], pure=False).result() == LONG


def test_array_goes_to_another_node_as_dask_sends_it(
    cluster: shmlease.dask.LocalCluster, client: Client, here: list[str], elsewhere: Node
) -> None:
    made = client.submit(np.ones, LONG, workers=here[0], pure=False)
    wait(made)
    assert client.submit(total_of_copy, made, workers="b1", pure=False).result() == LONG
    there = client.submit(np.ones, LONG, workers="b1", pure=False)
    assert client.submit(total_of_lease, there, workers="b2", pure=False).result() == LONG
    assert total_of_copy(there.result()) == LONG


def test_workers_of_a_node_share_one_registry_that_ends_with_the_last(
    cluster: shmlease.dask.LocalCluster, client: Client, tmp_path: Path
) -> None:
    plugin = shmlease.dask.NodeRegistry(capacity="32MiB")
    client.register_plugin(plugin)
    with started_node(client, tmp_path, "c1", "c2") as node:
        (id, capacity_bytes), (other, _) = (
            client.submit(registry_of_task, workers=name, pure=False).result() for name in ("c1", "c2")
        )
        assert id == other != cluster.registry.id
        assert node.registries() == [id]
        assert capacity_bytes == 32 << 20
        made = client.submit(np.ones, LONG, workers="c1", pure=False)
        assert client.submit(total, made, workers="c2", pure=False).result() == LONG
        client.retire_workers(names=["c1"])
        assert client.submit(registry_of_task, workers="c2", pure=False).result()[0] == id
        pid = client.submit(os.getpid, workers="c2", pure=False).result()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not node.registries(), what="the end of the registry")
    client.unregister_worker_plugin(plugin.name)


def test_results_are_right_though_a_worker_is_killed_and_nothing_of_it_is_left(client: Client, tmp_path: Path) -> None:
    def leases() -> int:
        return client.submit(leases_on_node, workers="d2", pure=False).result()

    with started_node(client, tmp_path, "d1", "d2", options=("--preload", "shmlease.dask")):
        both = {"workers": ["d1", "d2"], "pure": False}
        until(lambda: leases() == 4, what="the names and the addresses of two workers")
        ones = [client.submit(np.full, LONG, number, **both) for number in range(6)]
        wait(ones)
        totals = [client.submit(total_of_two, one, other, **both) for one in ones for other in ones]
        os.kill(client.submit(os.getpid, workers="d1", pure=False, priority=1).result(), signal.SIGKILL)
        assert client.gather(totals) == [LONG * (one + other) for one in range(6) for other in range(6)]
        del ones, totals
        # what was on its way from the worker that was killed is there until its ticket expires
        until(lambda: leases() == 2, 180, what="the end of what the tasks have sent")


OPTIONS: dict[str, Any] = {"dtype": DTYPE, "columns": COLUMNS, "layout": None}


def test_files_that_the_workers_have_read_are_one_file(client: Client, tmp_path: Path) -> None:
    tables = [make_table(tmp_path / f"{number}.cov", 2000 + number, number) for number in range(5)]
    report = shmlease.dask.ingest(client, tables, tmp_path / "all.h5", into="all", shards=4, **OPTIONS)
    assert [(file.path, file.start_row, file.rows) for file in report.files] == [
        (str(table), 2000 * number + number * (number - 1) // 2, 2000 + number) for number, table in enumerate(tables)
    ]
    assert (report.rows, report.leaks) == (10_010, ())
    np.testing.assert_array_equal(
        rows_of(tmp_path / "all.h5", "all"), np.concatenate([expected(table) for table in tables])
    )
    assert len(os.listdir(tmp_path / "all.h5.shards")) == 1 + 4, "the plan, and the shards"
    assert shmlease.verify(tmp_path / "all.h5", sources=tmp_path).is_good
    shmlease.ingest(tables, tmp_path / "plain.h5", into="all", **OPTIONS)
    shmlease.dask.consolidate(tmp_path / "all.h5", tmp_path / "one.h5")
    assert contents(tmp_path / "one.h5") == contents(tmp_path / "plain.h5")


def test_one_large_file_is_read_by_all_workers(cluster: shmlease.dask.LocalCluster, client: Client, tmp_path: Path) -> None:
    before = counters(cluster)
    table = make_table(tmp_path / "calls.cov", 12_000)
    lines = table.read_text().splitlines(keepends=True)
    lines[2_000] = lines[11_000] = "chr1\tnonsense\n"
    table.write_text("".join(lines))
    options: dict[str, Any] = {**OPTIONS, "on_error": "quarantine", "fit_strings": True, "workers": 0}
    report = shmlease.dask.ingest(client, table, tmp_path / "out.h5", shards=5, **options)
    assert len(os.listdir(tmp_path / "out.h5.shards")) == 1 + 5 + 1, "the plan, the shards, malformed lines"
    assert [each.line for each in report.rejected] == [2_001, 11_001]
    assert counters(cluster)["leases"] == before["leases"], "what one thread does alone needs no shared memory"
    assert shmlease.verify(tmp_path / "out.h5", sources=tmp_path).is_good
    plain = shmlease.ingest(table, tmp_path / "plain.h5", **options)
    assert report.files == plain.files
    shmlease.dask.consolidate(tmp_path / "out.h5", tmp_path / "one.h5")
    assert contents(tmp_path / "one.h5") == contents(tmp_path / "plain.h5")


def test_range_that_was_not_written_is_written_when_the_run_is_resumed(client: Client, tmp_path: Path) -> None:
    table, out, folder = make_table(tmp_path / "calls.cov", 9_000), tmp_path / "out.h5", tmp_path / "out.h5.shards"
    (folder / "00003.h5").mkdir(parents=True)  # nobody can write it
    with pytest.raises(shmlease.SinkError, match=r"00003\.h5"):
        shmlease.dask.ingest(client, table, out, resume=True, shards=5, **OPTIONS)
    (folder / "00003.h5").rmdir()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
    assert shmlease.dask.ingest(client, table, out, resume=True, shards=5, **OPTIONS).rows == 9_000
    assert {path: path.stat().st_mtime_ns for path in written} == written
    np.testing.assert_array_equal(rows_of(out, "calls"), expected(table))
    assert shmlease.verify(out, sources=tmp_path).is_good


def test_command_line_lets_a_cluster_do_it(client: Client, tmp_path: Path) -> None:
    for folder, rows in (("a", 30), ("b", 40)):
        (tmp_path / folder).mkdir()
        make_table(tmp_path / folder / "calls.cov", rows)
    words = ["a/calls.cov", "b/calls.cov", "-o", "out.h5", *WORDS, "--scheduler", client.scheduler.address, "--json"]
    done = run_here([sys.executable, "-m", "shmlease", "ingest", *words], tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(each["name"], each["rows"]) for each in json.loads(done.stdout)["datasets"]] == [
        ("a.calls", 30),
        ("b.calls", 40),
    ]
    np.testing.assert_array_equal(rows_of(tmp_path / "out.h5", "b.calls"), expected(tmp_path / "b/calls.cov"))


def test_run_that_failed_is_resumed_from_the_shards_that_it_has_written(client: Client, tmp_path: Path) -> None:
    tables = [make_table(tmp_path / f"{number}.cov", 1000, number) for number in range(3)]
    good = tables[2].read_text()
    tables[2].write_text(good + "chr1\tnonsense\n")
    out = tmp_path / "out.h5"
    first = tmp_path / "out.h5.shards" / "00000.h5"

    def is_first_written() -> bool:
        """A run that fails gives up the tasks of the other shards, and one may be gone on with: another run, then."""
        with pytest.raises(shmlease.IngestError, match=r"2\.cov:1001"):
            shmlease.dask.ingest(client, tables, out, shards=3, resume=True, **OPTIONS)
        return os.path.exists(record_of(str(first)))

    until(is_first_written)
    assert not out.exists()
    written = first.stat().st_mtime_ns
    tables[2].write_text(good)
    with pytest.raises(shmlease.IngestError, match="resume, overwrite, or remove it"):
        shmlease.dask.ingest(client, tables, out, **OPTIONS)
    with pytest.raises(shmlease.IngestError, match="of other files or options"):
        shmlease.dask.ingest(client, tables[:2], out, resume=True, **OPTIONS)
    assert shmlease.dask.ingest(client, tables, out, resume=True, **OPTIONS).rows == 3000
    assert first.stat().st_mtime_ns == written
    assert shmlease.verify(out).is_good


def test_shard_of_a_worker_that_is_killed_is_written_by_another(client: Client, tmp_path: Path) -> None:
    tables = [make_table(tmp_path / f"{number}.cov", rows, number) for number, rows in enumerate((100_000, 20_000))]
    out = tmp_path / "out.h5"
    with started_node(client, tmp_path, "e1"), ThreadPoolExecutor(1) as pool:
        pid = client.submit(os.getpid, workers="e1", pure=False).result()
        run = pool.submit(shmlease.dask.ingest, client, tables, out, shards=4, **OPTIONS)
        until(client.processing, what="the start of the tasks")
        os.kill(pid, signal.SIGKILL)
        assert run.result(60).rows == 120_000
    for table in tables:
        np.testing.assert_array_equal(rows_of(out, table.stem), expected(table))
    assert shmlease.verify(out, sources=tmp_path).is_good
    assert sorted(os.listdir(f"{out}.shards")) == [*(f"{number:05}.h5" for number in range(4)), "plan.json"]


ARRAYS: dict[str, Any] = {"into": None, "on_error": "quarantine", "shards": 3, "attributes": {"run": 7}}


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of this test that is found from its directory only, and files for it: workers keep modules."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(LOADERS)
    for number in range(5):
        (tmp_path / f"{number}.seed").write_text(str(number))
    yield importlib.import_module(name)
    del sys.modules[name]


LOADERS = """
import os, time
from pathlib import Path
import numpy as np

def seed(path):
    with open(path + ".read", "a") as file:
        file.write("x")
    return int(Path(path).read_text())

def returned(path):
    return {"x": np.arange(seed(path) * 1000.0), "n": np.float32(2)}

def yielded(path):
    number = seed(path)
    for part in range(3):
        yield "parts", np.full((40_000, 2), part), {"units": "V"}
    if number == 3:
        raise OSError("no more")

def filled(path, out):
    out("z", (seed(path) + 1, 2), "f4")[:] = 7

def waiting(path):
    yield "x", np.arange(200_000)
    Path(f"{path}.{os.getpid()}").touch()
    while not Path(path).with_name("go").exists():
        time.sleep(0.01)
    yield "x", np.arange(100)

def repaired(path):
    if seed(path) == 4 and not Path(path).with_name("go").exists():
        raise OSError("to be repaired")
    yield "x", np.arange(10)

def endless(path):
    number, is_fixed = seed(path), Path(path).with_name("go").exists()
    if number == 0 and not is_fixed:
        while len(list(Path(path).parent.glob("*.begun"))) < 1:
            time.sleep(0.01)
        raise OSError("to be fixed")
    for part in range(3000):
        yield "x", np.full(10, part)
        if part == 5:
            Path(path + ".begun").touch()
        time.sleep(0.02 * (not is_fixed))
"""


@pytest.mark.parametrize("habit", ["returned", "yielded", "filled"])
def test_what_a_reader_gives_on_the_workers_is_what_it_gives_on_one_machine(
    habit: str, client: Client, loaders: Any, tmp_path: Path
) -> None:
    paths = sorted(tmp_path.glob("*.seed"))
    report = shmlease.dask.ingest(client, paths, tmp_path / "out.h5", reader=getattr(loaders, habit), **ARRAYS)
    options = {name: value for name, value in ARRAYS.items() if name != "shards"}
    plain = shmlease.ingest(paths, tmp_path / "plain.h5", reader=getattr(loaders, habit), workers=0, **options)
    assert (report.files, report.datasets, report.rejected) == (plain.files, plain.datasets, plain.rejected)
    assert report.exit_code == (habit == "yielded")
    assert shmlease.verify(tmp_path / "out.h5", sources=tmp_path).is_good
    shmlease.dask.consolidate(tmp_path / "out.h5", tmp_path / "one.h5")
    assert contents(tmp_path / "one.h5") == contents(tmp_path / "plain.h5")


def test_reader_within_a_function_goes_to_the_workers_by_value(client: Client, tmp_path: Path) -> None:
    factor = 3.0
    report = shmlease.dask.ingest(
        client, ["s3://bucket/a", "s3://bucket/b"], tmp_path / "out.h5", reader=lambda path: np.full(len(path), factor)
    )
    assert [(each.path, each.dataset, each.rows) for each in report.files] == [
        ("s3://bucket/a", "a", 13),
        ("s3://bucket/b", "b", 13),
    ]
    assert rows_of(tmp_path / "out.h5", "b").tolist() == [3.0] * 13


def test_command_line_sends_the_workers_a_reader(client: Client, loaders: Any, tmp_path: Path) -> None:
    (tmp_path / "3.seed").write_text("none")
    words = ["1.seed", "2.seed", "3.seed", "-o", "out.h5", "--reader", f"{loaders.__name__}:returned", "--into", "all"]
    on_cluster = ["--scheduler", client.scheduler.address, "--on-error", "skip", "--json"]
    done = run_here([sys.executable, "-m", "shmlease", "ingest", *words, *on_cluster], tmp_path)
    assert done.returncode == 1, done.stderr
    np.testing.assert_array_equal(rows_of(tmp_path / "out.h5", "all/x"), [*range(1000), *range(2000)])
    (rejected,) = json.loads(done.stdout)["rejected"]
    assert (rejected["path"], rejected["reason"][:11]) == (str(tmp_path / "3.seed"), "ValueError:")


def test_run_of_a_reader_is_resumed_at_the_path_that_was_not_done(client: Client, loaders: Any, tmp_path: Path) -> None:
    paths, out = sorted(tmp_path.glob("*.seed")), tmp_path / "out.h5"
    with pytest.raises(shmlease.IngestError, match=r"4\.seed: reader .*:repaired failed: OSError"):
        shmlease.dask.ingest(client, paths, out, reader=loaders.repaired, shards=1)
    with pytest.raises(shmlease.IngestError, match="of other files or options"):
        shmlease.dask.ingest(client, paths, out, reader=loaders.filled, resume=True)
    (tmp_path / "go").touch()
    report = shmlease.dask.ingest(client, paths, out, reader=loaders.repaired, resume=True)
    assert (report.rows, report.resumed_rows) == (50, 40)
    assert [len(Path(f"{path}.read").read_text()) for path in paths] == [1, 1, 1, 1, 2]
    assert shmlease.verify(out, sources=tmp_path).is_good


def test_path_of_a_worker_that_is_killed_is_read_again_by_another(client: Client, loaders: Any, tmp_path: Path) -> None:
    paths, out = sorted(tmp_path.glob("*.seed")), tmp_path / "out.h5"
    with started_node(client, tmp_path, "f1"), ThreadPoolExecutor(1) as pool:
        pid = client.submit(os.getpid, workers="f1", pure=False).result()
        run = pool.submit(shmlease.dask.ingest, client, paths, out, reader=loaders.waiting)
        until(lambda: list(tmp_path.glob(f"*.seed.{pid}")), what="a path that the worker has begun to read")
        os.kill(pid, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert run.result(60).rows == 5 * 200_100
    assert shmlease.verify(out, sources=tmp_path).is_good
    for path in paths:
        np.testing.assert_array_equal(rows_of(out, f"{path.stem}/x"), [*range(200_000), *range(100)])


def test_tasks_of_a_run_that_failed_end_and_leave_their_shards_to_the_next(
    client: Client, loaders: Any, tmp_path: Path
) -> None:
    paths, out = sorted(tmp_path.glob("*.seed"))[:2], tmp_path / "out.h5"
    with pytest.raises(shmlease.IngestError, match="to be fixed"):
        shmlease.dask.ingest(client, paths, out, reader=loaders.endless)
    (tmp_path / "go").touch()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(shmlease.dask.ingest, client, paths, out, reader=loaders.endless, resume=True)
        assert run.result(40).rows == 60_000, "the other reader would have gone on for a minute"
    assert shmlease.verify(out).is_good


def killing(number: int, options: dict[str, Any]) -> int:
    if number in options["of"] and options["workers"] == 0:
        raise distributed.KilledWorker("a task", SimpleNamespace(address="tcp://worker:1"), 0)
    return number


def test_shard_that_has_killed_its_workers_is_tried_in_a_process_of_its_own(client: Client) -> None:
    tasks = [(number, {"workers": 0, "of": (1, 3)}) for number in range(4)]
    assert run_tasks(client, killing, tasks, {"workers": 1}) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "a:i4"}, "dtype says how text is read"),
        ({"delimiter": ","}, "delimiter says how text is read"),
        ({"compression": "gzip,x=none"}, "columnar says how text is read"),
        ({"progress": print}, "progress is of one machine"),
        ({"shards": 0}, "at least one is needed"),
        ({"on_error": "quarantine", "into": "/"}, "name another"),
    ],
)
def test_option_that_a_reader_on_a_cluster_has_no_use_for_is_refused_before_anything_is_made(
    options: dict[str, Any], message: str, client: Client, tmp_path: Path
) -> None:
    with pytest.raises((TypeError, ValueError, shmlease.IngestError), match=message):
        shmlease.dask.ingest(client, "a.bin", tmp_path / "out.h5", reader=np.load, **options)
    assert os.listdir(tmp_path) == []
