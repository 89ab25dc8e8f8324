"""What is to be done: which files into which datasets, in blocks of which size; wishes that cannot be are refused."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import h5py
import pytest

from shmlease.errors import CapacityError, DTypeError, IngestError
from shmlease.ingestion.budget import budget_for, default_capacity
from shmlease.ingestion.dataset_names import dataset_names
from shmlease.ingestion.plan import plan_ingest, schema_of
from shmlease.ingestion.resources import RunResources
from shmlease.ingestion.tasks import TASKS_A_WORKER
from shmlease.text.blocks import BLOCK_BYTES
from shmlease.text.pipes import forget_pipes
from shmlease.text.schema import Schema

DTYPE = "chr:S8,pos:i4,pct:f4"
CALLS = Schema().with_dtype(DTYPE)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/calls.cov.gz"], ["calls"]),
        (["a/calls.cov", "b/calls.cov"], ["a.calls", "b.calls"]),
        (["a/calls.cov", "a/calls.bed"], ["calls.cov", "calls.bed"]),
        (["x/calls.cov", "y/calls.cov", "other.cov"], ["x.calls", "y.calls", "other"]),
        (["a/.gz"], [".gz"]),
    ],
)
def test_datasets_are_named_after_files_and_differ(paths: list[str], names: list[str]) -> None:
    assert dataset_names(paths) == names


def test_files_into_one_dataset_are_neighbours(table) -> None:
    plan = plan_ingest([table(5, "a.tsv"), table(5, "b.tsv")], CALLS, "all")
    assert plan.datasets == ("all", "all")
    ((name, inputs),) = plan.inputs(budget_for(32 << 20, 2, [CALLS]))
    assert (name, [each.index for each in inputs]) == ("all", [0, 1])


def test_a_job_is_another_when_a_file_or_the_schema_is(table) -> None:
    path = table(5)
    digest = plan_ingest(path, CALLS).digest()
    assert plan_ingest([path], CALLS).digest() == digest
    assert plan_ingest(path, CALLS, "all").digest() != digest
    assert plan_ingest(path, Schema().with_dtype("chr:S9,pos:i4,pct:f4")).digest() != digest
    os.utime(path, ns=(1, 1))
    assert plan_ingest(path, CALLS).digest() != digest


def test_no_files_or_one_named_twice_are_refused(table, tmp_path) -> None:
    path = table(5)
    (tmp_path / "link.tsv").symlink_to(path)
    with pytest.raises(IngestError, match="no files are named"):
        plan_ingest([], CALLS)
    with pytest.raises(IngestError, match=re.escape(f"{tmp_path}/link.tsv: named twice, also as {path}")):
        plan_ingest([path, tmp_path / "link.tsv"], CALLS)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, None, None, {}), IngestError, "how are the files to be read"),
        (("csv", None, None, {}), DTypeError, "give a dtype, or infer one"),
        (("csv", None, [0], {}), DTypeError, "columns go with a dtype"),
        ((None, DTYPE, None, {"delimeter": ","}), TypeError, "unexpected keyword argument 'delimeter'"),
    ],
)
def test_arguments_that_say_too_little_are_refused(arguments, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        schema_of(*arguments)


def test_strings_without_a_length_are_fitted_and_others_if_asked_for(table) -> None:
    plan = plan_ingest(table(5), Schema().with_dtype("chr:S,pos:i4,pct:S9"))
    assert plan.schema.needs_fitting
    lengths = {"chr": 5, "pct": 4}
    assert plan.with_string_lengths(lengths, all_strings=False).dtype.descr == [
        ("chr", "|S5"),
        ("pos", "<i4"),
        ("pct", "|S9"),
    ]
    assert plan.with_string_lengths(lengths).dtype.descr == [("chr", "|S5"), ("pos", "<i4"), ("pct", "|S4")]


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("capacity", [4 << 20, 64 << 20, 1 << 30])
@pytest.mark.parametrize("dtype", [DTYPE, "name:S4000", "a:i1"])
def test_all_that_is_under_way_fits_the_capacity(workers: int, capacity: int, dtype: str) -> None:
    try:
        budget = budget_for(capacity, workers, [Schema().with_dtype(dtype)])
    except CapacityError as error:
        assert error.requested_bytes > capacity / 8  # noqa: PT017 - the figure is what matters, where it is refused
        return
    assert 4096 <= budget.block_bytes <= BLOCK_BYTES
    assert budget.limit_bytes + workers * budget.encode_bytes <= capacity
    assert workers * TASKS_A_WORKER * budget.parse_bytes <= budget.limit_bytes


def test_too_little_capacity_is_refused_with_what_is_needed() -> None:
    with pytest.raises(CapacityError, match=r"a capacity of 1 MiB is too small for 8 workers.*give at least") as refused:
        budget_for(1 << 20, 8, [CALLS])
    needed = refused.value.requested_bytes + (1 << 20)
    assert budget_for(needed, 8, [CALLS]).block_bytes >= 4096


def test_the_default_capacity_leaves_half_of_what_is_free() -> None:
    assert default_capacity(2, 1 << 40) == 128 << 20
    assert default_capacity(64, 64 << 20) == 32 << 20


def test_the_default_capacity_is_no_more_than_half_of_the_memory_that_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmlease.ingestion.resources.free_memory_bytes", lambda: 64 << 20)
    assert RunResources(64, None, None, None).capacity_bytes <= 32 << 20


def test_columns_in_another_order_are_found_by_their_names_in_every_file(tmp_path):
    (tmp_path / "h1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "h2.csv").write_text("b,extra,a\n2,9,1\n")
    (tmp_path / "h3.csv").write_text("b,c\n1,2\n")
    schema = schema_of("csv", "a:i4,b:i4", None, {})
    plan = plan_ingest([tmp_path / "h1.csv", tmp_path / "h2.csv"], schema)
    assert [[each.source for each in table.schema.fields] for table in plan.tables] == [[0, 1], [2, 0]]
    with pytest.raises(IngestError, match=r"h3\.csv: field 'a' is column 'a'; the header has 'b', 'c'"):
        plan_ingest([tmp_path / "h1.csv", tmp_path / "h3.csv"], schema)


@pytest.mark.parametrize("name", ["a b.csv", " .csv", ".csv", "..csv", "...csv", "é.csv", "a\nb.csv"])
def test_any_name_that_hdf5_can_keep_is_a_dataset(tmp_path, name):
    (tmp_path / name).write_text("1\n")
    (dataset,) = plan_ingest(tmp_path / name, schema_of(None, "a:i4", None, {})).datasets
    with h5py.File(tmp_path / "out.h5", "w") as file:
        file[dataset] = [1]
        assert list(file) == [dataset]


def test_names_that_cannot_be_kept_are_refused_with_the_file(tmp_path):
    schema = schema_of(None, "a:i4", None, {})
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")
    Path(odd).write_text("1\n")
    for paths, into in ([odd, odd], None), ([odd], "x"), ([tmp_path / "good.csv"], "\udcff"):
        (tmp_path / "good.csv").write_text("1\n")
        with pytest.raises(IngestError, match=r"\\xff(\.csv)?: a name that is not UTF-8"):
            plan_ingest(paths, schema, into)
    (tmp_path / "rejected.csv").write_text("1\n")
    assert plan_ingest(tmp_path / "rejected.csv", schema, on_error="skip").datasets == ("rejected",)
    for into in None, "rejected/x":
        with pytest.raises(IngestError, match=r"rejected\.csv: its dataset is 'rejected"):
            plan_ingest(tmp_path / "rejected.csv", schema, into, on_error="quarantine")


def test_a_pipe_is_not_read_twice_for_the_lengths_of_its_strings(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"some line of a table\n" * 2,))
    writer.start()
    plan = plan_ingest(pipe, schema_of(None, "a:S", None, {"width": 1}))
    forget_pipes([str(pipe)])
    writer.join()
    with pytest.raises(IngestError, match="pipe: a pipe can be read once, and the lengths"):
        plan.require_files("the lengths are measured")
