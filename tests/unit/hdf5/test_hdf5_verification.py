"""Files that are as they were, and files that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from shmlease.cli.verify import command
from shmlease.errors import SinkError
from shmlease.hdf5 import HDF5Sink, verify

Calls = Callable[..., np.ndarray]


@pytest.fixture
def out(tmp_path: Path, calls: Calls) -> Path:
    """A file with a dataset from two sources, one in chunks, one without, one without elements."""
    path = tmp_path / "out.h5"
    (tmp_path / "texts").mkdir()
    with HDF5Sink(path, chunk_bytes="16KiB") as sink:
        for number in (1, 2):
            text = tmp_path / "texts" / f"sample{number}.cov"
            text.write_text(f"text of {number}\n")
            sink.append("calls", calls(1000 * number, number))
            sink.source("calls", path=text)
        sink.write("deep/grid", np.arange(60_000.0).reshape(200, 300))
        sink.write("scale", np.float64(2.5))
        sink.write("nothing", np.zeros((3, 0)))
        sink.write("padded", np.ones(5, np.dtype([("a", "i1"), ("b", "f8")], align=True)))
    return path


def problems(path: Path, sources: Path | None = None) -> list[str]:
    return [str(mismatch) for mismatch in verify(path, sources).mismatches]


def test_a_file_as_it_was_written_is_good(out: Path) -> None:
    report = verify(out, out.parent / "texts")
    assert report.is_good
    assert report.sources_checked == 2
    assert {check.name: check.rows for check in report.datasets} == {
        "calls": 3000,
        "deep/grid": 200,
        "nothing": 3,
        "padded": 5,
        "scale": 1,
    }
    assert all(check.recorded and check.checksum for check in report.datasets)


def test_a_changed_value_is_found_with_the_source_it_came_from(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        rows = file["calls"][1500:1501]
        rows["m"] += 1
        file["calls"][1500:1501] = rows
    found = problems(out)
    assert len(found) == 2
    assert found[0].startswith("calls: expected crc32:")
    assert found[1].startswith("calls rows 1000 to 3000 (")
    assert "sample2.cov" in found[1]


@pytest.mark.parametrize("name", ["deep/grid", "scale", "padded"])
def test_a_changed_element_of_any_dataset_is_found(name: str, out: Path) -> None:
    with h5py.File(out, "r+") as file:
        changed = file[name][()]
        if name == "padded":
            changed["b"][2] = 7
        else:
            changed = changed + 1
        file[name][...] = changed
    (found,) = problems(out)
    assert found.startswith(f"{name}: expected crc32:")


def test_missing_rows_are_found(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        file["calls"].resize((2999,))
    found = problems(out)
    assert found[0] == "calls: expected 3000 rows, seen 2999"
    assert any("seen no such rows" in problem for problem in found)


def test_a_missing_dataset_is_found(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        del file["deep/grid"]
    assert problems(out) == ["deep/grid: expected a dataset, seen none"]


def test_another_dtype_is_found(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        attributes = dict(file["scale"].attrs)
        del file["scale"]
        file["scale"] = np.int64(np.float64(2.5).view("i8"))
        file["scale"].attrs.update(attributes)
    assert problems(out) == ["scale: expected dtype float64, seen int64"]


def test_a_chunk_that_does_not_decode_is_found_with_the_row(out: Path) -> None:
    with h5py.File(out) as file:
        info = file["deep/grid"].id.get_chunk_info(20)
    with open(out, "r+b") as raw:
        raw.seek(info.byte_offset)
        raw.write(bytes(info.size))
    (found,) = problems(out)
    assert found.startswith("deep/grid: expected readable rows, seen from row 0 on:")


def test_a_spoiled_record_is_found(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        file["calls"].attrs["shmlease_sources"] = "[{"
    (found,) = problems(out)
    assert found.startswith("calls: expected a readable record")


def test_a_dataset_of_somebody_else_is_listed_and_not_judged(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        file["mine"] = [1, 2]
    report = verify(out)
    assert report.is_good
    assert [check.name for check in report.datasets if not check.recorded] == ["mine"]


def test_a_repacked_file_is_good(out: Path, tmp_path: Path) -> None:
    with h5py.File(out) as old, h5py.File(tmp_path / "new.h5", "w", libver="latest") as new:
        new.attrs.update(old.attrs)
        for name in json.loads(old.attrs["shmlease_datasets"]):
            dataset = old[name]
            options = {"chunks": (100, *dataset.shape[1:]), "compression": "lzf"} if dataset.chunks else {}
            copy = new.create_dataset(name, data=dataset[()], dtype=dataset.dtype, **options)
            copy.attrs.update(dataset.attrs)
    assert problems(tmp_path / "new.h5") == []


def test_changed_missing_and_grown_sources_are_found(out: Path) -> None:
    texts = out.parent / "texts"
    (texts / "sample1.cov").write_text("text of 9\n")
    (texts / "sample2.cov").write_text("text of 2 and more\n")
    first, second = problems(out, texts)
    assert "sample1.cov: expected sha256" in first
    assert "sample2.cov: expected 10 bytes, seen 19" in second
    (texts / "sample2.cov").unlink()
    assert "sample2.cov: expected a file in" in problems(out, texts)[1]


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_hdf5_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(content)
    with pytest.raises(SinkError, match="cannot be read as HDF5"):
        verify(tmp_path / "bad.h5")


def test_a_file_of_another_program_is_an_error(tmp_path: Path) -> None:
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(SinkError, match="no record of shmlease's"):
        verify(tmp_path / "other.h5")


def test_the_command_prints_each_dataset_and_exits_0(out: Path) -> None:
    result = CliRunner().invoke(command, [str(out), "--sources", str(out.parent / "texts")])
    assert result.exit_code == 0
    assert "calls  3,000 rows  crc32:" in result.stdout
    assert "2 source files compared" in result.stdout
    assert result.stdout.rstrip().endswith("out.h5: good")


def test_the_command_exits_1_on_a_mismatch_and_names_it(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        file["scale"][...] = 3
    result = CliRunner().invoke(command, [str(out)])
    assert result.exit_code == 1
    assert "mismatch: scale: expected crc32:" in result.stdout


def test_the_command_writes_json(out: Path) -> None:
    report = json.loads(CliRunner().invoke(command, [str(out), "--json"]).stdout)
    assert report["good"] is True
    assert report["mismatches"] == []
    calls = next(check for check in report["datasets"] if check["name"] == "calls")
    assert [source["stop"] for source in calls["sources"]] == [1000, 3000]


def test_the_command_line_exits_2_on_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from shmlease.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "absent.h5")])
    assert ended.value.code == 2
    assert "there is no such file" in capsys.readouterr().err
