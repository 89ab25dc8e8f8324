"""What goes into a sink, and what stands in the file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from shmlease import __version__
from shmlease.errors import DTypeError, LeaseWarning, SinkError
from shmlease.hdf5 import ChunkEncoder, HDF5Sink
from shmlease.hdf5.filters import COMPRESSIONS, compression_named

Calls = Callable[..., np.ndarray]

SMALL_CHUNKS = "16KiB"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


def read(path: Path, name: str = "calls") -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][...]


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
@pytest.mark.parametrize("encoders", [1, 3])
def test_rows_appended_in_any_portions_are_read_back_bit_for_bit(
    compression: str, encoders: int, out: Path, calls: Calls
) -> None:
    try:
        compression_named(compression)
    except SinkError as error:
        pytest.skip(str(error))
    rows = calls(10_000)
    with HDF5Sink(out, compression=compression, chunk_bytes=SMALL_CHUNKS, encoders=encoders) as sink:
        start = 0
        for count in (1, 0, 628, 2, 4000, 630, 5, 4734):
            sink.append("calls", rows[start : start + count])
            start += count
    assert start == len(rows)
    stored = read(out)
    assert stored.dtype == rows.dtype
    assert stored.tobytes() == rows.tobytes()


def test_the_rows_are_free_as_soon_as_append_returns(out: Path, calls: Calls) -> None:
    expected, rows = calls(5000), calls(5000)
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS, encoders=2) as sink:
        for start in range(0, 5000, 1000):
            sink.append("calls", rows[start : start + 1000])
            rows[start : start + 1000] = 0
    assert read(out).tobytes() == expected.tobytes()


def test_a_lease_is_taken_by_its_array(out: Path, calls: Calls) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", SimpleNamespace(array=calls(10)))
    assert np.array_equal(read(out), calls(10))


def test_a_record_array_is_stored_as_its_rows(out: Path, calls: Calls) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", calls(10).view(np.recarray))
        sink.append("calls", calls(10))
        sink.write("whole", calls(5000).view(np.recarray))
    assert read(out).dtype == calls(1).dtype
    assert np.array_equal(read(out, "whole"), calls(5000))


def test_a_sink_that_cannot_be_opened_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError):
        HDF5Sink(out)
    assert os.listdir(out.parent) == []


def test_several_datasets_grow_side_by_side(out: Path) -> None:
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        for number in range(20):
            sink.append("a/long", np.arange(1000) + 1000 * number)
            sink.append("a/short", np.full((3, 2), number, "f4"))
    assert np.array_equal(read(out, "a/long"), np.arange(20_000))
    assert np.array_equal(read(out, "a/short"), np.repeat(np.arange(20.0), 3)[:, None] * np.ones(2))


def test_rows_may_be_arrays_and_larger_than_a_chunk(out: Path) -> None:
    images = np.random.default_rng(0).integers(0, 99, (5, 70, 90))
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        sink.append("calls", images[:3])
        sink.append("calls", np.asfortranarray(images[3:]))
    assert np.array_equal(read(out), images)


@pytest.mark.parametrize(
    "array",
    [
        np.float64(3.5),
        np.zeros((0,), "i4"),
        np.zeros((3, 0, 2), "f4"),
        np.array([b"ab", b"c"]),
        np.arange(5000.0).reshape(50, 100),
        np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
        np.arange(60_000).reshape(3, 100, 200)[:, ::-1, ::2],
        np.zeros(3, np.dtype([("flag", "i1"), ("value", "f8")], align=True)),
        np.random.default_rng(0).random((7, 3001)) > 0.5,
        np.arange(20_000, dtype=">u2"),
        (np.arange(5000.0) + 1j).astype("c8"),
    ],
    ids=lambda array: f"{array.dtype.kind}-{array.shape}",
)
def test_an_array_of_any_shape_is_written_whole(array: np.ndarray, out: Path) -> None:
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        sink.write("grid", array, attributes={"unit": "mm"})
    with h5py.File(out) as file:
        stored = file["grid"]
        assert stored.shape == array.shape
        assert stored.dtype == array.dtype
        assert np.array_equal(stored[()], array)
        assert stored.attrs["unit"] == "mm"


def test_rows_without_elements_are_counted(out: Path) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", np.zeros((3, 0)))
        sink.append("calls", np.zeros((4, 0)))
        sink.append("none", np.zeros(0, "i4"))
    assert read(out).shape == (7, 0)
    assert read(out, "none").shape == (0,)


def test_a_dataset_of_few_rows_gets_a_chunk_of_its_size(out: Path, calls: Calls) -> None:
    with HDF5Sink(out, compression="none") as sink:
        sink.append("calls", calls(100))
    assert out.stat().st_size < 20_000
    with h5py.File(out) as file:
        assert file["calls"].chunks == (100,)


def test_attributes_of_any_kind_are_stored(out: Path) -> None:
    values = {
        "text": "Höhe",
        "texts": ["a", "bc"],
        "number": 3,
        "float": 2.5,
        "array": np.arange(6).reshape(2, 3),
        "bytes": b"raw",
        "flag": True,
        "record": np.zeros((), [("a", "i4"), ("b", "f8")]),
    }
    with HDF5Sink(out) as sink:
        sink.append("calls", np.arange(3))
        sink.attributes().update(values)
        sink.attributes("calls")["kept"] = 1
        sink.attributes("calls")["dropped"] = 1
        del sink.attributes("calls")["dropped"]
        assert dict(sink.attributes("calls")) == {"kept": 1}
    with h5py.File(out) as file:
        for key, value in values.items():
            assert np.array_equal(file.attrs[key], value), key
        assert "kept" in file["calls"].attrs
        assert "dropped" not in file["calls"].attrs


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("shmlease_rows", 1, "does not begin with 'shmlease_'"),
        ("", 1, "not a name"),
        ("size", np.zeros(9000), "write it as a dataset"),
        ("object", object(), "has no form in HDF5"),
        ("mixed", ["a", 1], "has no form in HDF5"),
    ],
)
def test_an_attribute_that_cannot_be_stored_is_refused_when_it_is_set(
    key: str, value: object, match: str, out: Path
) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", np.arange(3))
        with pytest.raises(SinkError, match=match):
            sink.attributes("calls")[key] = value


def test_each_dataset_says_where_it_comes_from(out: Path, tmp_path: Path, calls: Calls) -> None:
    source = tmp_path / "chr1.cov"
    source.write_bytes(b"text\n" * 1000)
    rows = calls(5000)
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        sink.append("calls", rows[:1000])
        sink.append("calls", rows[1000:1500])
        sink.source("calls", path=source)
        sink.append("calls", rows[1500:])
        sink.source("calls", note="by hand", line=7)
        sink.write("grid", np.arange(3.0))
    with h5py.File(out) as file:
        attributes = file["calls"].attrs
        assert attributes["shmlease_version"] == __version__
        assert attributes["shmlease_rows"] == 5000
        assert np.dtype(eval(attributes["shmlease_dtype"])) == rows.dtype
        assert attributes["shmlease_checksum"] == f"crc32:{zlib.crc32(file['calls'][...].tobytes()):08x}"
        first, second = json.loads(attributes["shmlease_sources"])
        assert json.loads(file.attrs["shmlease_datasets"]) == ["calls", "grid"]
        assert "shmlease_sources" not in file["grid"].attrs
    assert first == {
        "start": 0,
        "stop": 1500,
        "path": str(source),
        "size_bytes": 5000,
        "digest": "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest(),
        "checksum": f"crc32:{zlib.crc32(rows[:1500].tobytes()):08x}",
        "details": {},
    }
    assert (second["start"], second["stop"], second["details"]) == (1500, 5000, {"note": "by hand", "line": 7})
    assert second["checksum"] == f"crc32:{zlib.crc32(rows[1500:].tobytes()):08x}"


def test_a_source_across_portions_has_no_checksum_of_its_own(out: Path, calls: Calls) -> None:
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        sink.append("calls", calls(5000))
        assert sink.source("calls", path="absent.cov", rows=(10, 20)).path == "absent.cov"
    with h5py.File(out) as file:
        assert json.loads(file["calls"].attrs["shmlease_sources"])[0]["checksum"] is None


def test_the_checksum_does_not_depend_on_chunks_or_compression(out: Path, calls: Calls) -> None:
    seen = set()
    for compression, chunk_bytes in (("gzip", "16KiB"), ("none", "64KiB"), ("lzf", "1MiB")):
        with HDF5Sink(out, compression=compression, chunk_bytes=chunk_bytes, overwrite=True) as sink:
            sink.append("calls", calls(10_000))
        with h5py.File(out) as file:
            seen.add(file["calls"].attrs["shmlease_checksum"])
    assert len(seen) == 1


def test_thousands_of_sources_fit(out: Path) -> None:
    with HDF5Sink(out) as sink:
        for number in range(3000):
            sink.append("calls", np.arange(2))
            sink.source("calls", note=f"file number {number}")
    with h5py.File(out) as file:
        assert len(json.loads(file["calls"].attrs["shmlease_sources"])) == 3000


def encode_all(sink: HDF5Sink, name: str, rows: np.ndarray, part_rows: list[int]) -> list[tuple]:
    """The encoded chunks of `rows`, which come in parts."""
    codec = sink.declare(name, rows.dtype)
    plan, encoder = sink.plan(name), ChunkEncoder(codec)
    parts, planned = {}, []
    start = 0
    for number, count in enumerate(part_rows):
        parts[number] = rows[start : start + count]
        start += count
        planned += plan.add(number, count)
    planned += plan.finish()
    encoded = []
    for chunk in planned:
        payload = np.empty(codec.bound_bytes, np.uint8)
        pieces = [parts[piece.part][piece.start : piece.stop] for piece in chunk.pieces]
        encoded.append((chunk.index, encoder.encode(pieces, payload), payload))
    return encoded


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_chunks_encoded_elsewhere_are_stored_in_any_order(order: str, out: Path, calls: Calls) -> None:
    rows = calls(10_000)
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        encoded = encode_all(sink, "calls", rows, [1, 2999, 0, 7000])
        if order == "backward":
            encoded.reverse()
        elif order == "shuffled":
            np.random.default_rng(0).shuffle(encoded)
        for index, chunk, payload in encoded:
            sink.append_encoded("calls", index, chunk, payload)
        sink.source("calls", rows=(0, 3000), note="first")
        sink.source("calls", rows=(3000, 10_000), note="second")
        sink.finish("calls", rows=10_000)
    with h5py.File(out) as file:
        assert file["calls"][...].tobytes() == rows.tobytes()
        first, second = json.loads(file["calls"].attrs["shmlease_sources"])
    assert first["checksum"] == f"crc32:{zlib.crc32(rows[:3000].tobytes()):08x}"
    assert second["checksum"] == f"crc32:{zlib.crc32(rows[3000:].tobytes()):08x}"


def test_a_chunk_that_never_came_is_an_error_and_no_file(out: Path, calls: Calls) -> None:
    sink = HDF5Sink(out, chunk_bytes=SMALL_CHUNKS)
    for index, chunk, payload in encode_all(sink, "calls", calls(10_000), [10_000]):
        if index != 2:
            sink.append_encoded("calls", index, chunk, payload)
    with pytest.raises(SinkError, match="chunk 2 was never stored, though chunk 15 was"):
        sink.close()
    assert not out.exists()


def test_an_encoded_chunk_out_of_place_is_refused(out: Path, calls: Calls) -> None:
    with HDF5Sink(out, chunk_bytes=SMALL_CHUNKS) as sink:
        (_, full, payload), (_, short, short_payload) = encode_all(sink, "calls", calls(1000), [1000])
        with pytest.raises(SinkError, match="its buffer was reused too early"):
            sink.append_encoded("calls", 0, full, np.zeros_like(payload))
        sink.append_encoded("calls", 1, short, short_payload)
        with pytest.raises(SinkError, match="chunk 1 is not full, and chunk 2 follows it"):
            sink.append_encoded("calls", 2, full, payload)
        with pytest.raises(SinkError, match="chunk -1 has"):
            sink.append_encoded("calls", -1, full, payload)
        sink.append_encoded("calls", 0, full, payload)
        with pytest.raises(SinkError, match="1000 rows are stored, 5 were handed over"):
            sink.finish("calls", rows=5)


def test_rows_and_encoded_chunks_do_not_mix(out: Path, calls: Calls) -> None:
    with HDF5Sink(out) as sink:
        codec = sink.declare("encoded", calls(1).dtype)
        sink.append("calls", calls(1))
        payload = np.empty(codec.bound_bytes, np.uint8)
        chunk = ChunkEncoder(codec).encode(calls(1), payload)
        with pytest.raises(SinkError, match="its chunks come encoded, and as rows was given"):
            sink.append("encoded", calls(1))
        with pytest.raises(SinkError, match="say which rows came from the source"):
            sink.source("encoded", note="all of them")
        with pytest.raises(SinkError, match="it is appended to"):
            sink.append_encoded("calls", 0, chunk, payload)


def test_rows_of_another_kind_are_refused(out: Path, calls: Calls) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", calls(3))
        sink.append("pairs", np.zeros((2, 2)))
        with pytest.raises(SinkError, match=r"dataset 'calls': its dtype is .*, and float64 was given"):
            sink.append("calls", np.zeros(3))
        with pytest.raises(SinkError, match=r"its row shape is \(2,\), and \(3,\) was given"):
            sink.append("pairs", np.zeros((2, 3)))
        with pytest.raises(SinkError, match="a scalar has no rows"):
            sink.append("calls", np.float64(1))
        with pytest.raises(DTypeError, match="encode it to bytes"):
            sink.append("names", np.array(["a"]))
        with pytest.raises(SinkError, match="masked"):
            sink.append("masked", np.ma.masked_array([1, 2], [True, False]))
        with pytest.raises(SinkError, match="no dataset 'cals'; the datasets are: 'calls', 'pairs'"):
            sink.source("cals")
        with pytest.raises(SinkError, match="not a range of its 3 rows"):
            sink.source("calls", rows=(0, 4))
        sink.finish("calls")
        with pytest.raises(SinkError, match="takes no more rows"):
            sink.append("calls", calls(1))
        with pytest.raises(SinkError, match="with other contents"):
            sink.write("calls", calls(1))
    assert np.array_equal(read(out), calls(3))
    assert read(out, "pairs").shape == (2, 2)


@pytest.mark.parametrize("name", ["", "/", "a//b", "a/", "../a", "a/./b", "a\0b"])
def test_a_name_that_is_no_path_is_refused(name: str, out: Path) -> None:
    with HDF5Sink(out) as sink, pytest.raises(SinkError, match="not a path of a dataset"):
        sink.append(name, np.arange(3))


def test_a_dataset_cannot_hold_another(out: Path) -> None:
    with HDF5Sink(out) as sink:
        for there, refused in (("a/b", ("a", "a/b/c")), ("c/d/e", ("c", "c/d", "c/d/e/f", "a")), ("cd", ("cd/e",))):
            sink.append(there, np.arange(3))
            for name in refused:
                with pytest.raises(SinkError, match=f"{name!r}: .* cannot hold another"):
                    sink.append(name, np.arange(3))
        sink.append("c/d/other", np.arange(3))


def test_nothing_is_there_before_the_end_and_only_the_file_after_it(out: Path) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", np.arange(300_000))
        assert not out.exists()
    assert out.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    out.write_text("the old one")
    with HDF5Sink(out, overwrite=True) as sink:
        sink.append("calls", np.arange(300_000))
        assert out.read_text() == "the old one"
    assert read(out).size == 300_000
    assert os.listdir(out.parent) == ["out.h5"]


def test_a_file_that_is_there_is_refused_at_once_and_one_that_appears_meanwhile_at_the_end(out: Path) -> None:
    sink = HDF5Sink(out, resume=True)
    sink.append("calls", np.arange(300_000))
    sink.checkpoint()
    out.write_text("the old one")
    with pytest.raises(SinkError, match=r"out\.h5: the file is there already; .*overwrite=True"):
        sink.close()
    with pytest.raises(SinkError, match="the file is there already"):
        HDF5Sink(out, resume=True)
    assert out.read_text() == "the old one"
    with HDF5Sink(out, overwrite=True, resume=True) as sink:
        assert sink.completed().rows["calls"] == 300_000  # what was stored before the file appeared is not lost
    assert read(out).size == 300_000
    assert os.listdir(out.parent) == ["out.h5"]


def test_a_file_that_is_replaced_keeps_its_mode(out: Path) -> None:
    out.write_text("the old one")
    out.chmod(0o640)
    with HDF5Sink(out, overwrite=True) as sink:
        sink.append("calls", np.arange(3))
    assert out.stat().st_mode & 0o777 == 0o640


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_after_an_error_in_the_body_the_old_file_stands_and_nothing_else(out: Path) -> None:
    out.write_text("the old one")

    def fail() -> None:
        with HDF5Sink(out, overwrite=True) as sink:
            sink.append("calls", np.arange(300_000))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert out.read_text() == "the old one"
    assert os.listdir(out.parent) == ["out.h5"]


def test_a_symbolic_link_is_followed(out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    out.symlink_to(tmp_path / "elsewhere" / "real.h5")
    with HDF5Sink(out) as sink:
        sink.append("calls", np.arange(3))
    assert out.is_symlink()
    assert np.array_equal(read(tmp_path / "elsewhere" / "real.h5"), np.arange(3))


def test_what_fails_in_giving_up_is_raised_with_the_error_that_came_first(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    def fail() -> None:
        with HDF5Sink(out) as sink:
            sink.append("calls", np.arange(3))
            monkeypatch.setattr(Path, "unlink", refuse)
            raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        fail()
    assert caught.group_contains(ZeroDivisionError)
    assert caught.group_contains(SinkError, match="cannot remove the partial file: Permission denied")


def test_a_failing_rename_surfaces_and_leaves_the_old_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.write_text("the old one")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    sink = HDF5Sink(out, overwrite=True)
    sink.append("calls", np.arange(3))
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(SinkError, match="cannot put the finished file there: Permission denied"):
        sink.close()
    assert out.read_text() == "the old one"
    assert os.listdir(out.parent) == ["out.h5"]


def test_the_file_is_durable_before_it_has_its_name_and_the_name_after(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watch_fsync(fd: int) -> None:
        done.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def watch_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "rename", watch_rename)
    with HDF5Sink(out) as sink:
        sink.append("calls", np.arange(3))
    assert done == ["file", "rename", "directory"]


def test_two_sinks_on_one_file_at_once_are_refused(out: Path) -> None:
    with HDF5Sink(out) as sink:
        sink.append("calls", np.arange(3))
        with pytest.raises(SinkError, match="another sink is writing it"):
            HDF5Sink(out)
        with pytest.raises(SinkError, match="another sink is writing it"):
            HDF5Sink(out, resume=True)
    assert np.array_equal(read(out), np.arange(3))


def test_a_place_where_no_file_can_be_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is a directory"):
        HDF5Sink(tmp_path)
    with pytest.raises(SinkError, match=r"there is no directory .*absent"):
        HDF5Sink(tmp_path / "absent" / "out.h5")
    assert os.listdir(tmp_path) == []


def test_a_closed_sink_takes_nothing_and_may_be_closed_again(out: Path) -> None:
    sink = HDF5Sink(out)
    sink.append("calls", np.arange(3))
    sink.close()
    sink.close()
    sink.abort()
    with pytest.raises(SinkError, match="this sink is closed"):
        sink.append("calls", np.arange(3))
    assert np.array_equal(read(out), np.arange(3))


def test_a_sink_that_nobody_closed_says_so_and_leaves_nothing(out: Path) -> None:
    sink = HDF5Sink(out)
    sink.append("calls", np.arange(300_000))
    with pytest.warns(LeaseWarning, match="never closed"):
        del sink
    assert os.listdir(out.parent) == []


def test_a_sink_that_is_open_when_the_interpreter_ends_says_so_and_leaves_nothing(out: Path) -> None:
    program = (
        "import sys, numpy; from shmlease.hdf5 import HDF5Sink\n"
        "sink = HDF5Sink(sys.argv[1]); sink.append('calls', numpy.arange(300_000))"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, out], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "never closed" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert os.listdir(out.parent) == []


def test_importing_the_sinks_does_not_import_h5py() -> None:
    program = "import sys, shmlease.hdf5; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
