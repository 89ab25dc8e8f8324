from __future__ import annotations

from pathlib import Path

from fake_proc import PROC

from shmlease.auditor.observe.sysv import list_sysv


def test_every_segment_is_listed(tmp_path: Path) -> None:
    (tmp_path / "sysvipc").mkdir()
    (tmp_path / "sysvipc" / "shm").write_text((PROC / "sysvipc_shm").read_text())
    segments, gaps = list_sysv(str(tmp_path))
    assert [segment.id for segment in segments] == [14, 15]
    assert gaps == []


def test_kernel_without_system_v_has_none(tmp_path: Path) -> None:
    assert list_sysv(str(tmp_path)) == ((), [])


def test_list_that_cannot_be_read_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "sysvipc" / "shm").mkdir(parents=True)
    segments, (gap,) = list_sysv(str(tmp_path))
    assert segments == ()
    assert gap.blinding
