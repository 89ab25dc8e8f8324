"""Datasets and attributes are what h5py's usual calls make, however many of one kind there are."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from shmlease.hdf5 import HDF5Sink

ROWS = np.zeros(3, [("name", "S4"), ("value", "<f8"), ("kind", "i1")])


def test_every_dataset_of_a_kind_is_as_the_first(tmp_path: Path) -> None:
    names = ["first", "second", "group/third", "group/deeper/fourth", "fünfter"]
    with HDF5Sink(tmp_path / "out.h5", chunk_bytes=64) as sink:
        for number, name in enumerate(names):
            rows = ROWS.copy()
            rows["value"] = number
            sink.append(name, rows)
    with h5py.File(tmp_path / "out.h5") as file:
        first = file["first"]
        for number, name in enumerate(names):
            dataset = file[name]
            assert dataset[...]["value"].tolist() == [number] * 3
            assert (dataset.dtype, dataset.chunks, dataset.maxshape) == (first.dtype, first.chunks, (None,))
            assert (dataset.compression, dataset.shuffle) == ("gzip", True)
            assert dataset.id.get_type() == first.id.get_type()
            assert dataset.id.get_create_plist().equal(first.id.get_create_plist())


def test_datasets_that_differ_in_labels_or_chunks_are_of_different_kinds(tmp_path: Path) -> None:
    labels = {"a": ("F", "M"), "b": ("x", "y", "z"), "c": ("F", "M")}
    with HDF5Sink(tmp_path / "out.h5") as sink:
        for name, each in labels.items():
            sink.append(name, ROWS, labels={"kind": each})
        sink.append("plain", ROWS)
    with h5py.File(tmp_path / "out.h5") as file:
        for name, each in labels.items():
            assert h5py.check_enum_dtype(file[name].dtype["kind"]) == {label: place for place, label in enumerate(each)}
        assert h5py.check_enum_dtype(file["plain"].dtype["kind"]) is None


@pytest.mark.parametrize("text", ["", "mm", "Zürich 東京", "x" * 5000])
def test_a_text_is_stored_as_h5py_stores_it(text: str, tmp_path: Path) -> None:
    with HDF5Sink(tmp_path / "out.h5") as sink:
        sink.append("data", ROWS)
        for attributes in sink.attributes("data"), sink.attributes():
            attributes.update({"plain": text, "ключ": text, "number": 3})
    with h5py.File(tmp_path / "out.h5") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        other.attrs["plain"] = text
        for target in file, file["data"]:
            assert (target.attrs["plain"], target.attrs["ключ"], target.attrs["number"]) == (text, text, 3)
            assert target.attrs.get_id("plain").get_type() == other.attrs.get_id("plain").get_type()
            assert target.attrs.get_id("plain").shape == ()
