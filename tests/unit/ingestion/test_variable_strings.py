"""Strings of variable length: the same values as fixed ones, checked as well, and made again when a run was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shmlease.errors import DTypeError, IngestError, SinkError
from shmlease.hdf5 import session as session_module
from shmlease.hdf5 import verify
from shmlease.ingestion.ingest import ingest
from shmlease.text.schema import Schema

WORDS = ["", "a", "é日本", "a longer one, with blanks", "x" * 300]
OPTIONS: dict[str, Any] = {"delimiter": "\t", "workers": 0, "capacity": "8MiB", "overwrite": True}
DTYPE = "word:{},n:i4,side:enum(B|S),last:{}"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "words.tsv"
    path.write_text("".join(f"{WORDS[n % 5]}\t{n}\t{'BS'[n % 2]}\tw{n % 7}\n" for n in range(6_000)))
    return path


@pytest.mark.parametrize("columnar", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_the_strings_are_those_of_fixed_length(table: Path, tmp_path: Path, columnar: bool, compression: str) -> None:
    out, fixed = tmp_path / "out.h5", tmp_path / "fixed.h5"
    how = {"columnar": columnar, "compression": compression, "attributes": {"site": "A"}, **OPTIONS}
    ingest(table, out, dtype=DTYPE.format("vlen", "vlen9"), **how)
    ingest(table, fixed, dtype=DTYPE.format("S", "S9"), **how)
    with h5py.File(out) as file, h5py.File(fixed) as expected:
        for name in ("word", "n", "side", "last"):
            values, same = (each[f"words/{name}"][...] if columnar else each["words"][name] for each in (file, expected))
            assert values.tolist() == same.tolist()
        column = file["words/word"] if columnar else file["words"]
        assert h5py.check_string_dtype(column.dtype if columnar else column.dtype["word"]).length is None
        assert column.attrs["site"] == "A"
        assert column.compression == (None if compression == "none" else "gzip")
        assert list(file.attrs) == list(expected.attrs)
        names = "words/side" if columnar else "words"
        kinds = [each[names].dtype if columnar else each[names].dtype["side"] for each in (file, expected)]
        assert h5py.check_enum_dtype(kinds[0]) == h5py.check_enum_dtype(kinds[1]) == {"B": 0, "S": 1}
    assert verify(out, sources=tmp_path).is_good
    assert not (tmp_path / "out.h5.partial").exists()


@pytest.mark.parametrize("columnar", [False, True])
@pytest.mark.parametrize("changed", ["b", "a longer string than any that was stored" * 20])
def test_a_changed_string_is_noticed(table: Path, tmp_path: Path, columnar: bool, changed: str) -> None:
    out = tmp_path / "out.h5"
    ingest(table, out, dtype=DTYPE.format("vlen", "vlen"), columnar=columnar, **OPTIONS)
    with h5py.File(out, "r+") as file:
        if columnar:
            file["words/word"][1] = changed
        else:
            row = file["words"][1]
            row["word"] = changed
            file["words"][1] = row
    assert not verify(out).is_good


def test_a_run_cut_off_while_it_is_written_again_is_resumed(table: Path, tmp_path: Path, monkeypatch) -> None:
    out, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    ingest(table, whole, dtype=DTYPE.format("vlen", "vlen"), **OPTIONS)
    with monkeypatch.context() as patch:

        def fail(*arguments: object) -> None:
            session_module.FileObject.fail(arguments[1], OSError(28, "No space left on device"))  # type: ignore[arg-type]
            raise OSError(28, "No space left on device")

        patch.setattr(session_module, "write_variable", fail)
        with pytest.raises(SinkError, match="cannot write strings of variable length: No space left"):
            ingest(table, out, dtype=DTYPE.format("vlen", "vlen"), **OPTIONS)
    assert not out.exists()
    report = ingest(table, out, dtype=DTYPE.format("vlen", "vlen"), resume=True, **OPTIONS)
    assert report.resumed_rows == 6_000
    with h5py.File(out) as file, h5py.File(whole) as expected:
        assert file["words"][...].tolist() == expected["words"][...].tolist()
        assert dict(file["words"].attrs) == dict(expected["words"].attrs)


def test_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "none.tsv").write_text("")
    ingest(tmp_path / "none.tsv", tmp_path / "out.h5", dtype="a:vlen", **OPTIONS)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["none"].shape == (0,)
    assert verify(tmp_path / "out.h5").is_good


def test_what_such_a_string_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DTypeError, match="is not vlen, or vlen and a length"):
        Schema().with_dtype("a:vlen_")
    with pytest.raises(IngestError, match="strings of variable length are UTF-8"):
        Schema(encoding="latin-1").with_dtype("a:vlen")
    (tmp_path / "zero.tsv").write_bytes(b"a\0b\n")
    with pytest.raises(SinkError, match="has a zero byte"):
        ingest(tmp_path / "zero.tsv", tmp_path / "out.h5", dtype="a:vlen", **OPTIONS)
    assert not (tmp_path / "out.h5").exists()


def test_values_of_all_lengths_come_back(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(0, 2000, 500)
    (tmp_path / "long.tsv").write_text("".join("y" * length + "\t1\n" for length in lengths))
    ingest(tmp_path / "long.tsv", tmp_path / "out.h5", dtype="a:vlen,b:i4", **OPTIONS)
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(map(len, file["long"]["a"])) == lengths.tolist()
