"""A few small files are read by the calling thread; whatever may be more is not."""

from __future__ import annotations

import functools
import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from shmlease.ingestion.ingest import ingest

DTYPE = "chr:S8,pos:i4,pct:f4"
ROWS = np.dtype([("chr", "S8"), ("pos", "<i4"), ("pct", "<f4")])


@pytest.mark.parametrize(
    ("kind", "is_inline"), [("little", True), ("packed", False), ("much", False), ("pipe", False), ("workers", False)]
)
def test_little_text_is_read_without_registry_and_workers(
    kind: str, is_inline: bool, table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):  # noqa: N818 - not an error: what the test looks for
        pass

    def asked(*_: object, **__: object) -> None:
        raise Asked

    monkeypatch.setattr("shmlease.ingestion.resources.RunResources.__init__", asked)
    path = table(60_000 if kind == "much" else 50)
    given = path
    if kind == "packed":
        given = tmp_path / "calls.tsv.gz"
        given.write_bytes(gzip.compress(path.read_bytes()))
    if kind == "pipe":
        given = tmp_path / "pipe"
        os.mkfifo(given)
        threading.Thread(target=lambda: given.write_bytes(path.read_bytes()), daemon=True).start()
    run = functools.partial(ingest, given, tmp_path / "out.h5", dtype=DTYPE, workers=1 if kind == "workers" else None)
    if not is_inline:
        with pytest.raises(Asked):
            run()
        return
    report = run()
    assert (report.rows, report.shared_peak_bytes, report.leaks, report.workers) == (50, 0, (), 1)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["calls"][...].tobytes() == np.loadtxt(path, dtype=ROWS, delimiter="\t").tobytes()


def test_ctrl_c_ends_a_run_of_the_calling_thread_and_leaves_no_file(
    table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shmlease.ingestion.worker.Worker.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(table(50), tmp_path / "out.h5", dtype=DTYPE)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["calls.tsv"]
