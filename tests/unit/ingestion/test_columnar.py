"""Columnar files: the columns are what the fields of the rows would be, also after an interruption at any moment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from shmlease.cli.ingest import command
from shmlease.errors import DTypeError, IngestError, SinkError
from shmlease.hdf5 import HDF5Sink, verify
from shmlease.hdf5.columnar_sink import ColumnarSink
from shmlease.hdf5.columns import encoder_of
from shmlease.ingestion.ingest import ingest

DTYPE = "chr:S3,pos:i4,side:enum(B|S),id:i8?,ts:M8[s],x:2f4"
LINES = "".join(
    f"chr{number % 9},{number},{'BS'[number % 2]},{'NA' if number % 3 else number},2020-01-0{number % 9 + 1},{number}.5,2\n"
    for number in range(5_000)
).replace("chr", "c")
OPTIONS: dict[str, Any] = {"dtype": DTYPE, "delimiter": ",", "missing": ("NA",), "workers": 0, "capacity": "8MiB"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "ticks.csv"
    path.write_text(LINES)
    return path


def contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update(
                {name: (item[...].tobytes(), dict(item.attrs))} if isinstance(item, h5py.Dataset) else {}
            )
        )
    return found


@pytest.mark.parametrize("compression", ["gzip", "none", "gzip,pos=lzf,chr=none"])
def test_each_column_is_a_dataset_with_its_attributes_and_compression(table, tmp_path, compression: str) -> None:
    columnar, rows = tmp_path / "columnar.h5", tmp_path / "rows.h5"
    report = ingest(table, columnar, columnar=True, compression=compression, attributes={"site": "A"}, **OPTIONS)
    ingest(table, rows, attributes={"site": "A"}, **OPTIONS)
    assert report.rows == 5_000
    assert report.datasets[0].name == "ticks"
    with h5py.File(columnar) as file, h5py.File(rows) as expected:
        values = expected["ticks"][...]
        assert sorted(file["ticks"]) == sorted(values.dtype.names)
        for name in values.dtype.names:
            column = file["ticks"][name]
            assert column.dtype == values.dtype[name].base
            assert column[...].tobytes() == values[name].tobytes()
            assert column.attrs["site"] == "A"
        assert file["ticks/ts"].attrs["units"] == "s"
        assert "units" not in file["ticks/pos"].attrs
        assert file["ticks/id"].attrs["mask"] == "id_missing"
        assert h5py.check_enum_dtype(file["ticks/side"].dtype) == {"B": 0, "S": 1}
        kinds = {name: file["ticks"][name].compression for name in ("chr", "pos", "id")}
    general = None if compression == "none" else "gzip"
    own = {"chr": None, "pos": "lzf"} if "," in compression else {}
    assert kinds == {"chr": general, "pos": general, "id": general} | own
    assert verify(columnar, sources=tmp_path).is_good


def test_files_without_rows_and_several_files_in_one_group(table: Path, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("")
    other = tmp_path / "other.csv"
    other.write_text(LINES[:3000].rpartition("\n")[0] + "\n")
    out = tmp_path / "out.h5"
    report = ingest([table, tmp_path / "none.csv", other], out, columnar=True, into="all/ticks", **OPTIONS)
    with h5py.File(out) as file:
        assert file["all/ticks/pos"].shape == (report.rows,)
        assert file["all/ticks/pos"][5_000] == 0
    ingest(tmp_path / "none.csv", out, columnar=True, overwrite=True, **OPTIONS)
    with h5py.File(out) as file:
        assert file["none/x"].shape == (0, 2)


def test_malformed_lines_are_kept_beside_the_columns(table: Path, tmp_path: Path) -> None:
    table.write_text(f"{LINES}too,few\n{LINES[:200].rpartition(chr(10))[0]}\n")
    out = tmp_path / "out.h5"
    report = ingest(table, out, columnar=True, on_error="quarantine", **OPTIONS)
    assert report.rejected_count == 1
    with h5py.File(out) as file:
        assert file["ticks/pos"].shape == (report.rows,)
        assert file["rejected/ticks/text"][...].tobytes() == b"too,few\n"
    assert verify(out).is_good


ROWS = np.zeros(1000, [("a", "i4"), ("b", "S5"), ("c", "f8", (2,))])
ROWS["a"], ROWS["b"], ROWS["c"] = np.arange(1000), b"x", np.arange(2000).reshape(1000, 2)


class Cut(Exception):  # noqa: N818 - not an error: where the run is cut off
    pass


def run(path: Path, stop_after: int | None, chunk_rows: int = 150) -> int:
    """Store `ROWS` from two sources as far as they are not there yet; cut off before that record of the log, if told so."""
    with HDF5Sink(path, resume=True, encoders=1) as inner:
        sink = ColumnarSink(
            inner, {"t": ROWS.dtype.names}, chunk_bytes=ROWS.itemsize * chunk_rows, compressions={"b": "none"}
        )
        count = 0

        def log(record: object, append: Any = inner._session._store._log.append) -> None:
            nonlocal count
            count += 1
            if stop_after is not None and count > stop_after:
                raise Cut
            append(record)

        inner._session._store._log.append = log  # type: ignore[method-assign]
        before = sink.completed()
        codec = sink.declare("t", ROWS.dtype)
        sink.attributes("t").update({"a.units": "mm", "of": "all"})
        plan, encoder, out = sink.plan("t"), encoder_of(codec), np.empty(codec.bound_bytes, np.uint8)
        for start, stop in ((0, 0), (0, 400), (400, 1000)):
            for chunk in plan.add((start, stop), max(0, stop - max(start, plan.rows))):
                _store(sink, chunk.index, codec.chunk_rows, encoder, out)
            if ("f", start, stop) not in {(each.path, each.start, each.stop) for each in before.sources.get("t", ())}:
                sink.source("t", path="f", rows=(start, stop), size_bytes=1, digest="crc32:0")
            sink.checkpoint({"at": stop}, rows={"t": stop})
        for chunk in plan.finish():
            _store(sink, chunk.index, codec.chunk_rows, encoder, out)
        sink.finish("t", rows=1000)
    return count


def _store(sink: ColumnarSink, index: int, size: int, encoder: Any, out: Any) -> None:
    sink.append_encoded("t", index, encoder.encode([ROWS[index * size : (index + 1) * size]], out), out)


def test_a_run_cut_off_before_any_record_of_its_log_and_resumed_gives_the_same_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.h5"
    records = run(whole, None)
    expected = contents(whole)
    assert [expected[f"t/{name}"][0] for name in "abc"] == [ROWS[name].tobytes() for name in "abc"]
    assert expected["t/a"][1]["units"] == "mm"
    assert records > 40
    for stop_after in range(records):
        path = tmp_path / "out.h5"
        with pytest.raises((Cut, SinkError, BaseExceptionGroup)):
            run(path, stop_after)
        assert not path.exists()
        run(path, None, chunk_rows=110)  # the size with which it began stays
        assert contents(path) == expected, stop_after
        assert verify(path).is_good
        path.unlink()
        shutil.rmtree(tmp_path / "out.h5.partial", ignore_errors=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": None, "matrix": "f4", "columnar": True}, DTypeError, "a matrix is one dataset"),
        ({"compression": "gzip,pos=none"}, IngestError, "in a columnar file only"),
        ({"compression": "gzip,poss=none", "columnar": True}, IngestError, "no column is 'poss'"),
        ({"compression": "gzip,pos=zip", "columnar": True}, SinkError, "compression 'zip' is unknown"),
    ],
)
def test_what_does_not_go_together_is_refused(table: Path, tmp_path: Path, options: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ingest(table, tmp_path / "out.h5", **{**OPTIONS, **options})


def test_the_command_that_an_inference_prints_has_the_options_beside_it(table: Path) -> None:
    words = ["--columnar", "--compression", "gzip,pos=none", "--attr", "a=b c", "--attr", "d=e", "--on-error", "skip"]
    found = CliRunner().invoke(command, [str(table), "--infer", "-q", *words])
    assert " --attr 'a=b c' --attr d=e --columnar --compression gzip,pos=none --on-error skip -o OUT.h5" in found.stdout
    other = CliRunner().invoke(command, [str(table), "--infer", "--matrix", "f4"])
    assert "--dtype" not in other.stdout
    assert "--matrix f4" in other.stdout
