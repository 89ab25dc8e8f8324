"""What a run that was cut off at any byte leaves, and what a later run makes of it.

A kill leaves the log up to some byte, and the data up to at least what the log tells of; a loss of power may leave
less. Both are made here by cutting copies of a partial file, so every case is tried without killing anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmlease.errors import SinkError
from shmlease.hdf5 import ChunkEncoder, HDF5Sink
from shmlease.hdf5 import sink as sink_module

Calls = Callable[..., np.ndarray]
# what the examples share, each makes anew; and how long one takes says nothing on a loaded machine
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(autouse=True, scope="module")
def checkpoint_at_every_source() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink_module, "_CHECKPOINT_EVERY_BYTES", 0)
        yield


class Stopped(Exception):  # noqa: N818 - not an error: where the run is cut off
    pass


def open_sink(path: Path, **options: object) -> HDF5Sink:
    return HDF5Sink(path, chunk_bytes="16KiB", encoders=1, overwrite=True, resume=True, **options)


def make(path: Path, calls: Calls) -> Iterator[Path]:
    """A run that knows how to go on; yields at places where it may be cut off."""
    with open_sink(path) as sink:
        done = sink.completed()
        sink.attributes()["title"] = "all calls"
        if "grid" not in done.finished:
            sink.write("grid", np.arange(9000.0).reshape(90, 100), attributes={"unit": "mm"})
        if "scale" not in done.finished:
            sink.write("scale", np.float64(3.5))
        yield path
        for number in range(6):
            name = f"sample{number}.cov"
            if not done.has("calls", name):
                rows = calls(400 + 300 * number, number)
                for start in range(0, len(rows), 333):
                    sink.append("calls", rows[start : start + 333])
                    yield path
                sink.source("calls", path=name)
            if not done.has("lengths", name):
                sink.append("lengths", np.full(5, number))
                sink.source("lengths", path=name)
            yield path
            if number == 3 and "early" not in done.finished:
                start = done.rows.get("early", 0)
                sink.append("early", calls(700, 9)[start:])
                sink.finish("early")


def finish(path: Path, calls: Calls) -> None:
    for _ in make(path, calls):
        pass


def contents(path: Path) -> dict[str, object]:
    """All that a reader sees: values, attributes, provenance."""
    seen: dict[str, object] = {}
    with h5py.File(path) as file:
        seen["/"] = dict(file.attrs)
        for name, dataset in file.items():
            seen[name] = (dataset.dtype, dataset.shape, dataset[()].tobytes(), dict(dataset.attrs))
    return seen


@pytest.fixture(scope="module")
def expected(calls: Calls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    path = tmp_path_factory.mktemp("whole") / "out.h5"
    finish(path, calls)
    return contents(path)


@pytest.fixture(scope="module")
def interrupted(calls: Calls, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of the partial file, taken at every place where the run may be cut off."""
    folder = tmp_path_factory.mktemp("interrupted")
    copies = []
    for path in make(folder / "out.h5", calls):
        copies.append(folder / str(len(copies)) / "out.h5.partial")
        shutil.copytree(path.with_name("out.h5.partial"), copies[-1])
    return copies


def restore(copy: Path, folder: Path) -> Path:
    partial = folder / "out.h5.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(copy, partial)
    return folder / "out.h5"


def test_a_run_interrupted_anywhere_and_resumed_gives_the_same_file(
    interrupted: list[Path], expected: dict[str, object], calls: Calls, tmp_path: Path
) -> None:
    assert len(interrupted) > 20
    for copy in interrupted:
        path = restore(copy, tmp_path)
        finish(path, calls)
        assert contents(path) == expected
        assert not path.with_name("out.h5.partial").exists()


@settings(suppress_health_check=SHARED)
@given(data=st.data())
def test_a_log_cut_at_any_byte_and_data_cut_or_damaged_anywhere_give_the_same_file(
    data: st.DataObject, interrupted: list[Path], expected: dict[str, object], calls: Calls, tmp_path: Path
) -> None:
    path = restore(data.draw(st.sampled_from(interrupted)), tmp_path)
    log, content = (path.with_name("out.h5.partial") / name for name in ("write_ahead_log", "data"))
    cut = data.draw(st.integers(0, log.stat().st_size), label="log cut at")
    log.write_bytes(log.read_bytes()[:cut])
    if data.draw(st.booleans(), label="damaged"):
        raw = bytearray(content.read_bytes())
        place = data.draw(st.integers(0, len(raw)), label="at")
        raw[place : place + 500] = bytes(len(raw[place : place + 500]))
        content.write_bytes(raw[: data.draw(st.integers(place, len(raw)), label="cut at")])
    finish(path, calls)
    assert contents(path) == expected


@settings(max_examples=settings.default.max_examples // 3, suppress_health_check=SHARED)  # each writes several files
@given(data=st.data())
def test_a_run_interrupted_again_and_again_comes_to_the_same_end(
    data: st.DataObject, expected: dict[str, object], calls: Calls, tmp_path: Path
) -> None:
    path = tmp_path / "out.h5"
    shutil.rmtree(path.with_name("out.h5.partial"), ignore_errors=True)
    for _ in range(data.draw(st.integers(1, 4), label="interruptions")):
        run = make(path, calls)
        for _ in zip(range(data.draw(st.integers(1, 30), label="steps")), run, strict=False):
            pass
        try:
            run.throw(Stopped)  # leaves the partial file, as a sink that resumes does
        except (Stopped, StopIteration):
            pass
    finish(path, calls)
    assert contents(path) == expected


def test_a_resumed_run_writes_only_what_is_missing(interrupted: list[Path], calls: Calls, tmp_path: Path) -> None:
    path = restore(interrupted[-1], tmp_path)
    before = (path.with_name("out.h5.partial") / "data").read_bytes()
    with open_sink(path) as sink:
        done = sink.completed()
        assert done.rows["calls"] == sum(400 + 300 * number for number in range(6))
        assert done.rows["lengths"] == 30
        assert [source.path for source in done.sources["calls"]] == [f"sample{number}.cov" for number in range(6)]
        assert done.finished >= {"grid", "scale"}
        assert sink.attributes("grid")["unit"] == "mm"
        sink.abort()
    after = (path.with_name("out.h5.partial") / "data").read_bytes()
    assert after[len(after) // 2 : len(before)] == before[len(after) // 2 :]


def test_without_resume_what_was_left_is_dropped_and_said(
    interrupted: list[Path], calls: Calls, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = restore(interrupted[-1], tmp_path)
    with HDF5Sink(path) as sink:
        assert dict(sink.completed().rows) == {}
        sink.append("other", np.arange(3))
    assert "of an interrupted run" in caplog.text
    with h5py.File(path) as file:
        assert list(file) == ["other"]


def test_resuming_nothing_starts_afresh(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.h5") as sink:
        assert sink.completed().position is None
        sink.append("calls", np.arange(3))
    assert (tmp_path / "out.h5").exists()


def test_an_error_keeps_the_partial_file_only_when_asked(tmp_path: Path) -> None:
    for keep in (False, True):
        sink = HDF5Sink(tmp_path / "out.h5", keep_partial=keep)
        sink.append("calls", np.arange(3))
        sink.__exit__(Stopped, Stopped(), None)
        assert (tmp_path / "out.h5.partial").exists() == keep
    sink = HDF5Sink(tmp_path / "out.h5", keep_partial=True)
    sink.abort(keep_partial=False)
    assert not (tmp_path / "out.h5.partial").exists()


def test_rows_other_than_those_that_are_stored_are_refused(interrupted: list[Path], calls: Calls, tmp_path: Path) -> None:
    path = restore(interrupted[-1], tmp_path)
    log = path.with_name("out.h5.partial") / "write_ahead_log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(line for line in lines if b'"is":"checkpoint"' not in line))
    with open_sink(path) as sink:
        assert sink.completed().rows["calls"] == 0
        with pytest.raises(SinkError, match="stored with other rows before"):
            sink.append("calls", calls(3000, seed=77))
        sink.abort()


def test_fewer_rows_than_are_stored_are_refused(interrupted: list[Path], calls: Calls, tmp_path: Path) -> None:
    path = restore(interrupted[-1], tmp_path)
    log = path.with_name("out.h5.partial") / "write_ahead_log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(line for line in lines if b'"is":"checkpoint"' not in line))
    with open_sink(path) as sink:
        sink.append("calls", calls(630, 1)[:0])
        with pytest.raises(SinkError, match="0 were handed over; if the input has changed"):
            sink.finish("calls")
        sink.abort()


def test_another_compression_than_before_is_refused(interrupted: list[Path], calls: Calls, tmp_path: Path) -> None:
    path = restore(interrupted[-1], tmp_path)
    with (
        pytest.raises(SinkError, match="its compression is gzip, and none was given"),
        open_sink(path, compression="none") as sink,
    ):
        sink.append("calls", calls(1))


def test_a_partial_file_of_an_unknown_format_is_refused_and_kept(interrupted: list[Path], tmp_path: Path) -> None:
    path = restore(interrupted[-1], tmp_path)
    log = path.with_name("out.h5.partial") / "write_ahead_log"
    from shmlease.hdf5.checksum import crc32

    text = json.dumps({"is": "start", "format": 99, "shmlease": "9.9", "hdf5": "9.9"}).encode()
    rest = log.read_bytes().split(b"\n", 1)[1]
    log.write_bytes(b"%08x %b\n%b" % (crc32(text), text, rest))
    kept = log.read_bytes()
    with pytest.raises(SinkError, match=r"another format; it was one of shmlease 9\.9"):
        open_sink(path)
    assert log.read_bytes() == kept


def test_chunks_that_hdf5_would_put_elsewhere_now_are_refused_and_kept(
    interrupted: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shmlease.hdf5 import store

    path = restore(interrupted[-1], tmp_path)
    data = path.with_name("out.h5.partial") / "data"
    kept = data.read_bytes()
    monkeypatch.setattr(store, "LIBVER", ("latest", "latest"))
    with pytest.raises(SinkError, match="the interrupted run had at"):
        open_sink(path)
    assert data.read_bytes()[8:] == kept[8:]


def test_encoded_chunks_resume_at_the_last_checkpoint_that_chunks_cover(calls: Calls, tmp_path: Path) -> None:
    path, rows = tmp_path / "out.h5", calls(5000)
    blocks = [rows[start : start + 700] for start in range(0, 5000, 700)]

    def run(stop_after: int | None) -> dict[str, object]:
        with open_sink(path) as sink:
            done = sink.completed()
            codec = sink.declare("calls", rows.dtype)
            plan, encoder = sink.plan("calls"), ChunkEncoder(codec)
            payload = np.empty(codec.bound_bytes, np.uint8)
            first = done.position or 0
            assert plan.rows == first * 700
            stored = 0

            def store(planned: list) -> None:
                nonlocal stored
                for chunk in reversed(planned):
                    pieces = [blocks[piece.part][piece.start : piece.stop] for piece in chunk.pieces]
                    sink.append_encoded("calls", chunk.index, encoder.encode(pieces, payload), payload)
                    stored += 1
                    if stored == stop_after:
                        raise Stopped

            for number in range(first, len(blocks)):
                planned = plan.add(number, len(blocks[number]))
                sink.append("rejected", np.array([number]))
                sink.checkpoint(number + 1, rows={"calls": plan.rows})
                store(planned)
            store(plan.finish())
            return {"first": first, "stored": stored}

    with pytest.raises(Stopped):
        run(stop_after=5)
    again = run(stop_after=None)
    # five chunks of 630 rows hold four blocks of 700
    assert again == {"first": 4, "stored": 3}
    with h5py.File(path) as file:
        assert file["calls"][...].tobytes() == rows.tobytes()
        assert list(file["rejected"]) == list(range(len(blocks)))


def test_rows_before_the_cursor_are_read_from_a_chunk_that_is_stored_already(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    floats = random.random(50)[random.integers(0, 50, 3000)]  # stored unshuffled: the chunk has a filter mask
    sink = open_sink(tmp_path / "out.h5")
    sink.append("floats", floats[:1000])
    sink.checkpoint()
    sink.append("floats", floats[1000:2048])  # fills the first chunk; nothing tells of these rows
    sink.abort()
    with open_sink(tmp_path / "out.h5") as sink:
        assert sink.completed().rows["floats"] == 1000
        sink.append("floats", floats[1000:])
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["floats"].id.get_chunk_info(0).filter_mask == 1
        assert np.array_equal(file["floats"], floats)


@pytest.mark.parametrize(
    "spoil", [lambda raw, at: raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], lambda raw, at: raw[:at]]
)
def test_a_chunk_that_is_not_what_the_log_says_ends_what_is_believed(
    spoil: Callable[[bytes, int], bytes], calls: Calls, tmp_path: Path
) -> None:
    """As a loss of power may leave it: the log reached the disk, the chunk did not."""
    rows = calls(5000)
    sink = open_sink(tmp_path / "out.h5")
    for start in range(0, 5000, 1000):
        sink.append("calls", rows[start : start + 1000])
        sink.checkpoint(start)
    sink.abort()
    lines = (tmp_path / "out.h5.partial" / "write_ahead_log").read_bytes().splitlines()
    chunks = [json.loads(line[9:]) for line in lines if b'"is":"chunk"' in line]
    data = tmp_path / "out.h5.partial" / "data"
    data.write_bytes(spoil(data.read_bytes(), chunks[3]["offset"] + 100))
    with open_sink(tmp_path / "out.h5") as sink:
        assert sink.completed().rows["calls"] == 2000
        sink.append("calls", rows[2000:])
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["calls"][...].tobytes() == rows.tobytes()


def test_a_source_is_journaled_no_more_often_than_its_rows_are_worth(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_CHECKPOINT_EVERY_BYTES", 1 << 20)
    sink = open_sink(tmp_path / "out.h5")
    for number in range(100):
        sink.append("calls", calls(400))
        sink.source("calls", note=number)
    sink.abort()
    with open_sink(tmp_path / "out.h5") as sink:
        rows = sink.completed().rows["calls"]
        assert 100 * 400 - (1 << 20) // 26 <= rows < 100 * 400
        assert rows % 400 == 0
        sink.abort()


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_dataset_of_encoded_chunks_is_finished_once_a_checkpoint_follows(
    is_counted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last rows, and lines that became none, are counted by the caller, who may not have come to it."""
    monkeypatch.setattr(sink_module, "_CHECKPOINT_EVERY_BYTES", 1 << 20)
    path = tmp_path / "out.h5"
    sink = open_sink(path)
    sink.declare("empty", np.dtype("i4"))
    sink.checkpoint("begun", rows={"empty": 0})
    sink.append("rejected", np.array([1]))
    sink.finish("empty", rows=0)
    if is_counted:
        sink.checkpoint("done", rows={"empty": 0})
    sink.abort()
    with open_sink(path) as sink:
        done = sink.completed()
        assert ("empty" in done.finished, done.rows["rejected"]) == (is_counted, int(is_counted))
        sink.declare("empty", np.dtype("i4"))
        if not is_counted:
            sink.append("rejected", np.array([1]))
            sink.finish("empty", rows=0)
    with h5py.File(path) as file:
        assert (len(file["empty"]), len(file["rejected"])) == (0, 1)
