from __future__ import annotations

from pathlib import Path

from fake_proc import PROC

from shmlease.auditor.observe.sysv import list_sysv


def saved(tmp_path: Path) -> str:
    (tmp_path / "sysvipc").mkdir()
    (tmp_path / "sysvipc" / "shm").write_text((PROC / "sysvipc_shm").read_text())
    return str(tmp_path)


def test_condemned_segment_is_told_from_one_that_stays(tmp_path: Path) -> None:
    (condemned, plain), gaps = list_sysv(saved(tmp_path))
    assert (condemned.id, condemned.is_condemned, condemned.attachments) == (14, True, 1)
    assert (plain.id, plain.is_condemned, plain.attachments) == (15, False, 0)
    assert gaps == []


def test_kernel_without_system_v_has_none(tmp_path: Path) -> None:
    assert list_sysv(str(tmp_path)) == ((), [])


def test_list_that_cannot_be_read_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "sysvipc" / "shm").mkdir(parents=True)
    segments, (gap,) = list_sysv(str(tmp_path))
    assert segments == ()
    assert gap.blinding
