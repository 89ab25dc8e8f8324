"""What an interrupted run has stored is not dropped unasked."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from shmlease.errors import IngestError, SinkError
from shmlease.hdf5.interrupted import interrupted_run
from shmlease.ingestion import resuming
from shmlease.ingestion.ingest import ingest

OPTIONS = {"dtype": "chr:S8,pos:i4,pct:f4", "workers": 0, "compression": "none"}
ROWS = 600_000  # more than a block of text


@pytest.fixture
def interrupted(table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, of which a run to out.h5 has stored a part, which is worth asking."""
    monkeypatch.setattr(resuming, "WORTH_ASKING_BYTES", 1 << 20)
    path = table(1)
    path.write_bytes(b"chromo21\t12345678\t0.1234\n" * ROWS + b"chr1\tx\t1\n")
    with pytest.raises(IngestError, match=f":{ROWS + 1}: pos"):
        ingest(path, tmp_path / "out.h5", **OPTIONS)
    return path


def is_complete(out: Path) -> bool:
    with h5py.File(out) as file:
        return len(file["calls"]) == ROWS


def test_the_same_run_is_to_say_whether_it_goes_on_or_begins_again(interrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    kept = (tmp_path / "out.h5.partial" / "data").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(IngestError, match=r"this run .* MiB in .*out\.h5\.partial; .*--resume.*--restart"):
            ingest(interrupted, out, on_error="skip", overwrite=overwrite, **OPTIONS)
    assert (tmp_path / "out.h5.partial" / "data").read_bytes() == kept
    shutil.copytree(tmp_path / "out.h5.partial", tmp_path / "again.h5.partial")
    assert ingest(interrupted, out, on_error="skip", resume=True, **OPTIONS).resumed_rows > 0
    assert ingest(interrupted, tmp_path / "again.h5", on_error="skip", restart=True, **OPTIONS).resumed_rows == 0
    assert is_complete(out)
    assert is_complete(tmp_path / "again.h5")


def test_a_run_of_others_drops_it_only_where_it_is_to_replace_what_is_there(
    interrupted: Path, table: Callable[..., Path], tmp_path: Path
) -> None:
    other = table(10, "other.tsv")
    with pytest.raises(IngestError, match=r"a run of other files or options .*--restart") as refused:
        ingest(other, tmp_path / "out.h5", **OPTIONS)
    assert "--resume" not in str(refused.value)
    assert ingest(other, tmp_path / "out.h5", overwrite=True, **OPTIONS).rows == 10


def test_one_that_has_stored_nothing_or_goes_on_is_none(interrupted: Path, tmp_path: Path) -> None:
    log = tmp_path / "out.h5.partial" / "write_ahead_log"
    assert interrupted_run(tmp_path / "out.h5") is not None
    with log.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert interrupted_run(tmp_path / "out.h5") is None
        with pytest.raises(SinkError, match="another sink is writing it"):
            ingest(interrupted, tmp_path / "out.h5", **OPTIONS)
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert interrupted_run(tmp_path / "out.h5") is None
    assert ingest(interrupted, tmp_path / "out.h5", on_error="skip", **OPTIONS).rows == ROWS


def test_little_is_done_again_without_a_word(interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = interrupted_run(tmp_path / "out.h5")
    assert stored is not None
    monkeypatch.setattr(resuming, "WORTH_ASKING_BYTES", stored.stored_bytes + 1)
    assert ingest(interrupted, tmp_path / "out.h5", on_error="skip", **OPTIONS).resumed_rows == 0
    assert is_complete(tmp_path / "out.h5")


def test_both_ways_at_once_are_refused(table: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose one"):
        ingest(table(1), tmp_path / "out.h5", resume=True, restart=True, **OPTIONS)
