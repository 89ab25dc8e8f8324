"""Transposed matrices: columns of the table are rows of the dataset, whatever compresses them and in how many chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shmlease.errors import IngestError
from shmlease.hdf5 import ChunkEncoder, HDF5Sink, verify
from shmlease.ingestion.ingest import ingest

OPTIONS: dict[str, Any] = {"matrix": "f4", "columns": [1], "header": True, "workers": 0, "capacity": "8MiB"}


@pytest.mark.parametrize("compression", ["gzip", "none", "lzf"])
def test_columns_of_the_table_are_rows_of_the_dataset(tmp_path: Path, compression: str) -> None:
    values = np.random.default_rng(1).integers(0, 999, (3000, 120)).astype("f4")
    table = tmp_path / "genes.tsv"
    lines = ["gene\t" + "\t".join(f"s{number}" for number in range(120))]
    lines += [f"g{number}\t" + "\t".join(map(str, row)) for number, row in enumerate(values.tolist())]
    table.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.h5"
    report = ingest(table, out, transpose=True, compression=compression, attributes={"unit": "counts"}, **OPTIONS)
    assert report.rows == 3000
    with h5py.File(out) as file:
        data = file["genes"]
        assert data.shape == (120, 3000)
        assert data.chunks[1] < 3000  # so that there are several
        assert np.array_equal(data[...], values.T)
        assert data.attrs["unit"] == "counts"
    assert verify(out, sources=tmp_path).is_good
    with h5py.File(out, "r+") as file:
        file["genes"][7, 2500] += 1
    assert [each.subject for each in verify(out).mismatches] == ["genes", "genes rows 0 to 3000 (" + str(table) + ")"]


def test_a_table_without_rows_and_one_in_two_files(tmp_path: Path) -> None:
    for name, text in (("none", "n\ta\tb\n"), ("one", "n\ta\tb\nx\t1\t2\n"), ("two", "n\ta\tb\nx\t3\t4\ny\t5\t6\n")):
        (tmp_path / f"{name}.tsv").write_text(text)
    out = tmp_path / "out.h5"
    ingest([tmp_path / "one.tsv", tmp_path / "two.tsv"], out, into="all", transpose=True, **OPTIONS)
    with h5py.File(out) as file:
        assert file["all"][...].tolist() == [[1, 3, 5], [2, 4, 6]]
    ingest(tmp_path / "none.tsv", out, overwrite=True, transpose=True, **OPTIONS)
    with h5py.File(out) as file:
        assert file["none"].shape == (2, 0)
    assert verify(out).is_good


def test_an_interrupted_run_goes_on_with_transposed_chunks(tmp_path: Path) -> None:
    rows, out = np.arange(700, dtype="i2").reshape(100, 7), tmp_path / "out.h5"
    for stop in (3, 10):
        sink = HDF5Sink(out, resume=True, chunk_bytes=14 * 10, encoders=1)
        codec = sink.declare("m", rows.dtype, (7,), transposed=True)
        payload = np.empty(codec.bound_bytes, np.uint8)
        for index in range(stop):  # those that are stored are compared
            piece = rows[index * 10 : index * 10 + 10]
            sink.append_encoded("m", index, ChunkEncoder(codec).encode([piece[:3], piece[3:]], payload), payload)
        sink.checkpoint(stop, rows={"m": stop * 10})
        if stop == 3:
            sink.abort(keep_partial=True)
    sink.close()
    with h5py.File(out) as file:
        assert np.array_equal(file["m"][...], rows.T)
    assert verify(out).is_good


def test_only_a_matrix_is_transposed(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1\t2\n")
    with pytest.raises(IngestError, match="only a matrix is transposed"):
        ingest(tmp_path / "a.tsv", tmp_path / "out.h5", dtype="a:i4,b:i4", transpose=True)
