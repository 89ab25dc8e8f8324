from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest
from waiting import BusyClock

from shmlease.auditor.judge.evidence import File
from shmlease.auditor.judge.suppression import Suppression
from shmlease.auditor.observe.observer import Observer
from shmlease.auditor.observe.statx import statx
from shmlease.auditor.reap import Reaping, _LeftAlone, _unlink, reap


def reaping(shm: Path, **options: object) -> Reaping:
    return reap(paths=[str(shm)], **{"clock": BusyClock(), "yes": True, **options})  # type: ignore[arg-type]


def removed(result: Reaping) -> set[str]:
    return {os.path.basename(one.path) for one in result.removed}


def declined(result: Reaping) -> dict[str, str]:
    return {os.path.basename(one.path): one.reason for one in result.declined}


def left(shm: Path) -> set[str]:
    return {path.name for path in shm.iterdir()}


def test_without_yes_nothing_is_removed_and_the_same_is_reported(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x" * 5000)
    result = reaping(shm, yes=False)
    assert (result.dry, removed(result), left(shm)) == (True, {"psm_1"}, {"psm_1"})
    assert result.removed[0].resident_bytes == 8192


def test_orphans_and_half_created_files_are_removed(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    (shm / "psm_empty").write_bytes(b"")
    (shm / "loky-1").mkdir()
    (shm / "loky-1" / "deep").write_bytes(b"x")
    assert removed(reaping(shm)) == {"psm_1", "psm_empty", "deep"}
    assert left(shm) == {"loky-1"}


def test_all_names_of_a_file_are_removed(shm: Path) -> None:
    (shm / "psm_a").write_bytes(b"x")
    os.link(shm / "psm_a", shm / "psm_b")
    assert len(reaping(shm).removed) == 1
    assert left(shm) == set()


@pytest.mark.parametrize("how", ["open", "mapped", "in flight"])
def test_file_in_use_is_left_alone(shm: Path, how: str) -> None:
    path = shm / "psm_1"
    path.write_bytes(b"x")
    ends = socket.socketpair()
    with open(path, "r+b") as file:
        if how == "mapped":
            mapping = mmap.mmap(file.fileno(), 0)
        elif how == "in flight":
            socket.send_fds(ends[0], [b"x"], [file.fileno()])
            file.close()
        result = reaping(shm)
        if how == "mapped":
            mapping.close()
    assert (removed(result), left(shm)) == (set(), {"psm_1"})
    if how == "in flight":
        assert declined(result) == {"psm_1": "somebody has it open, and nobody who can be seen from here"}
    for end in ends:
        end.close()


def test_file_that_is_opened_between_two_looks_is_left_alone(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    opened: list[int] = []
    clock = BusyClock(lambda: opened.append(os.open(shm / "psm_1", os.O_RDONLY)))
    assert removed(reaping(shm, clock=clock)) == set()
    os.close(opened[0])
    assert left(shm) == {"psm_1"}


def test_file_that_takes_the_name_between_two_looks_is_left_alone(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")

    def replace() -> None:
        (shm / "other").write_bytes(b"y")
        (shm / "other").rename(shm / "psm_1")

    assert removed(reaping(shm, clock=BusyClock(replace))) == set()
    assert (shm / "psm_1").read_bytes() == b"y"


def test_file_used_lately_is_left_alone_if_asked(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    result = reaping(shm, older_than="10min")
    assert removed(result) == set()
    assert declined(result)["psm_1"].startswith("it was used ")
    assert removed(reaping(shm, older_than=0)) == {"psm_1"}


def test_suppressed_file_is_left_alone_with_the_reason(shm: Path) -> None:
    (shm / "cache-1").write_bytes(b"x")
    (shm / "sem.lock").write_bytes(b"x")
    result = reaping(shm, suppressions=[Suppression("kept for the next run", name="cache-*", source="shmlease.toml")])
    assert removed(result) == set()
    assert declined(result)["cache-1"] == "suppressed: kept for the next run (shmlease.toml)"
    assert declined(result)["sem.lock"].startswith("suppressed: a named POSIX semaphore keeps its name")


def test_unlinked_memory_is_its_holders_business(shm: Path) -> None:
    path = shm / "gone"
    path.write_bytes(b"x")
    with open(path, "rb"):
        path.unlink()
        assert declined(reaping(shm)) == {"gone": "its holder is alive, and frees it when it closes it"}


def test_links_and_directories_are_never_removed(shm: Path) -> None:
    (shm / "link").symlink_to("/etc/passwd")
    (shm / "empty directory").mkdir()
    assert removed(reaping(shm)) == set()
    assert left(shm) == {"link", "empty directory"}


def test_duration_that_is_none_is_reported(shm: Path) -> None:
    (shm / "psm_1").write_bytes(b"x")
    with pytest.raises(ValueError, match="'soon' is not a duration"):
        reaping(shm, older_than="soon")


# --- the last moment, which no look can bring about --------------------------------------------------------------------


def the_file(shm: Path) -> File:
    (shm / "psm_1").write_bytes(b"x")
    (file,) = Observer((str(shm),)).observe().evidence.files.values()
    return file


def is_lease_breaking(key: tuple[int, int]) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("BREAKING" in line and f":{key[1]} " in line for line in lines)


def test_inode_that_was_reused_is_another_file(shm: Path) -> None:
    earlier = msgspec.structs.replace(the_file(shm), born_ns=1)
    with pytest.raises(_LeftAlone, match="another file has taken its name"):
        _unlink(earlier, yes=True)
    assert left(shm) == {"psm_1"}


def test_file_that_somebody_begins_to_open_is_left_alone(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = the_file(shm)
    opener = threading.Thread(target=lambda: os.close(os.open(shm / "psm_1", os.O_RDONLY)))
    compare = statx

    def open_meanwhile(*arguments: object, **options: object) -> object:
        opener.start()
        deadline = time.monotonic() + 20
        while not is_lease_breaking(file.key) and time.monotonic() < deadline:
            pass
        return compare(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("shmlease.auditor.reap.statx", open_meanwhile)
    with pytest.raises(_LeftAlone, match="somebody began to open it"):
        _unlink(file, yes=True)
    opener.join()
    assert left(shm) == {"psm_1"}


# --- files that somebody keeps in shared memory -------------------------------------------------------------------------


def make(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(b"x" * 100)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("dataset.h5", 0o600, "its name ends in .h5"),
        ("backup.tar.gz", 0o600, "its name ends in .gz"),
        ("notes", 0o644, "others may use it (mode 0644)"),
        ("notes", 0o660, "others may use it (mode 0660)"),
        ("work/frame", 0o600, "it lies in a directory"),
    ],
)
def test_file_that_somebody_keeps_is_left_alone_unless_its_path_is_given(shm: Path, name: str, mode: int, why: str) -> None:
    (shm / "work").mkdir()
    path = make(shm / name, mode)
    result = reaping(shm)
    assert removed(result) == set()
    words = f"it looks like a file that somebody keeps there: {why}; give its path to have it removed"
    assert declined(result) == {path.name: words}
    other = make(shm / "psm_1")
    assert removed(reaping(shm, files=[str(path)])) == {path.name}
    assert not path.exists()
    assert other.exists(), "nothing but what was named"


@pytest.mark.parametrize(
    "name", ["psm_5a5f", "frames", "sem.mp-x", "torch_12_34_5", "nccl-x.y", "joblib_memmapping_folder_1/2.pkl", "v1.25"]
)
def test_what_looks_like_a_segment_is_removed(shm: Path, name: str) -> None:
    (shm / name).parent.mkdir(exist_ok=True)
    make(shm / name, 0o644 if name not in ("frames", "v1.25") else 0o600)
    assert removed(reaping(shm, default_suppressions=False)) == {(shm / name).name}


def test_file_that_was_named_goes_on_the_same_proof_only(shm: Path) -> None:
    path = make(shm / "dataset.h5")
    with open(path, "rb"):
        result = reaping(shm, files=[str(path)])
    assert (removed(result), declined(result)) == (set(), {"dataset.h5": "it is in use, or no file in shared memory"})
    assert removed(reaping(shm, files=[str(path)], yes=False)) == {"dataset.h5"}
    assert path.exists()


def test_path_that_leads_nowhere_or_elsewhere_is_reported(shm: Path, tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere")
    result = reaping(shm, files=[str(shm / "missing"), str(elsewhere)])
    assert declined(result) == {
        "missing": "there is no such file",
        "elsewhere": "it is in use, or no file in shared memory",
    }
    assert elsewhere.exists()
