"""What is to be done: which files into which datasets, in blocks of which size; wishes that cannot be are refused."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import pytest

from shmlease.errors import CapacityError, DTypeError, IngestError
from shmlease.ingestion.budget import budget_for, default_capacity
from shmlease.ingestion.dataset_names import dataset_names
from shmlease.ingestion.plan import plan_ingest, schema_of
from shmlease.ingestion.resources import RunResources
from shmlease.ingestion.tasks import TASKS_A_WORKER
from shmlease.text.blocks import BLOCK_BYTES
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


def test_a_string_without_a_length_is_refused_until_it_is_fitted(table) -> None:
    plan = plan_ingest(table(5), Schema().with_dtype("chr:S,pos:i4,pct:f4"))
    with pytest.raises(DTypeError, match="fit-strings"):
        plan.require_fitted()
    plan.with_string_lengths({"chr": 8}).require_fitted()


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
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 << 20))
    assert RunResources(64, None, None, None).capacity_bytes <= 32 << 20
