"""A client's notice log: what was written is read once and in order, torn and foreign entries end it, it can begin anew."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.core import messages as m
from shmlease.core.wire import encode_notice
from shmlease.system.notice_log import _START, FILE_BYTES, NoticeLog, NoticeLogReader


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "j1"
    path.write_bytes(bytes(FILE_BYTES))
    return str(path)


@pytest.fixture
def log(path: str) -> NoticeLog:
    descriptor = os.open(path, os.O_RDWR)
    log = NoticeLog(descriptor)
    os.close(descriptor)
    return log


@pytest.fixture
def reader(path: str) -> Iterator[NoticeLogReader]:
    reader = NoticeLogReader(os.open(path, os.O_RDONLY))
    yield reader
    reader.close()


def read_anew(path: str, applied: int) -> list[m.Notice]:
    """What a successor reads, who has read nothing before."""
    reader = NoticeLogReader(os.open(path, os.O_RDONLY))
    notices = reader.read(applied)
    reader.close()
    return notices


def entry(notice: m.Notice, seq: int | None = None) -> bytes:
    payload = encode_notice(notice)
    return struct.pack("<IIQ", len(payload), zlib.crc32(payload), notice.seq if seq is None else seq) + payload


def numbers(notices: list[m.Notice]) -> list[int]:
    return [notice.seq for notice in notices]


def test_notices_are_read_once_and_in_order(log: NoticeLog, reader: NoticeLogReader) -> None:
    for seq in (3, 5, 6):
        assert log.append(m.Release(seq, seq))
    assert reader.read(0) == [m.Release(3, 3), m.Release(5, 5), m.Release(6, 6)]
    assert reader.read(6) == []
    log.append(m.Linger(9, 1))
    assert reader.read(6) == [m.Linger(9, 1)]


def test_what_was_applied_is_not_read_again_by_a_successor(path: str, log: NoticeLog) -> None:
    for seq in range(1, 8):
        log.append(m.Release(seq, seq))
    assert numbers(read_anew(path, 5)) == [6, 7]


def test_full_notice_log_says_so_and_writes_nothing(path: str, log: NoticeLog) -> None:
    written = 0
    while log.append(m.Publish(written + 1, 1, 0, 0)):
        written += 1
    assert written > 200
    assert os.path.getsize(path) == FILE_BYTES
    assert len(read_anew(path, 0)) == written


def test_entries_longer_than_what_is_read_at_a_time_are_read_whole(log: NoticeLog, reader: NoticeLogReader) -> None:
    claims = [m.Claim(seq, 1, 2, bytes(20_000), "site", 3, True) for seq in (1, 2, 3)]
    for claim in claims:
        assert log.append(claim)
    assert reader.read(0) == claims
    assert log.append(m.Release(4, 1))
    assert reader.read(3) == [m.Release(4, 1)]


def test_notice_log_begins_anew_and_the_reader_follows(log: NoticeLog, reader: NoticeLogReader) -> None:
    seq = 0
    for _ in range(50):
        begun = seq
        for _ in range(random.Random(seq).randrange(1, 30)):
            seq += 1
            assert log.append(m.Release(seq, 1))
        assert numbers(reader.read(begun)) == list(range(begun + 1, seq + 1))
        log.restart()


def test_old_run_behind_the_new_one_is_not_read(path: str, log: NoticeLog) -> None:
    """Same sizes, so that the old entries begin exactly where the new ones end."""
    for seq in range(1, 20):
        log.append(m.Release(seq, 1))
    log.restart()
    for seq in (20, 21):
        log.append(m.Release(seq, 1))
    assert numbers(read_anew(path, 0)) == [20, 21]
    assert numbers(read_anew(path, 20)) == [21]


def test_reader_that_missed_the_restart_finds_the_new_run(log: NoticeLog, reader: NoticeLogReader) -> None:
    for seq in range(1, 10):
        log.append(m.Release(seq, 1))
    reader.read(0)
    log.restart()
    for seq in range(10, 40):
        log.append(m.Release(seq, 1))
    assert numbers(reader.read(9)) == list(range(10, 40))


@pytest.mark.parametrize("cut", range(len(entry(m.Release(2, 1)))))
def test_torn_entry_ends_the_notice_log_until_it_is_whole(path: str, cut: int, reader: NoticeLogReader) -> None:
    whole = entry(m.Release(1, 1)) + entry(m.Release(2, 1))
    first = len(entry(m.Release(1, 1)))
    with open(path, "r+b") as file:
        file.seek(_START)
        file.write(whole[: first + cut])
        file.flush()
        assert numbers(reader.read(0)) == [1]
        file.seek(_START)
        file.write(whole)
        file.flush()
    assert numbers(reader.read(1)) == [2]


def test_entry_that_is_no_notice_ends_the_notice_log(path: str) -> None:
    for nonsense in (b"\xc1" * 30, b"\x93\x25\x01\xc0", encode_notice(m.Release(7, 1)), b"\x93\x22\x02\xa1\xff"):
        bad = struct.pack("<IIQ", len(nonsense), zlib.crc32(nonsense), 2) + nonsense
        with open(path, "r+b") as file:
            file.seek(_START)
            file.write(entry(m.Release(1, 1)) + bad + entry(m.Release(3, 1)))
        assert numbers(read_anew(path, 0)) == [1], nonsense


def test_entry_longer_than_the_file_ends_the_notice_log(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(_START)
        file.write(struct.pack("<IIQ", 2**32 - 1, 0, 1))
    assert read_anew(path, 0) == []


@pytest.mark.parametrize("seed", range(50))
def test_whatever_a_client_writes_harms_nobody_else(path: str, seed: int, log: NoticeLog, reader: NoticeLogReader) -> None:
    rng = random.Random(seed)
    for seq in range(1, 60):
        log.append(m.Claim(seq, 1, 2, rng.randbytes(20), "site", 3, True))
    reader.read(0)
    for _ in range(200):
        with open(path, "r+b") as file:
            file.seek(rng.randrange(FILE_BYTES))
            file.write(rng.randbytes(rng.randrange(1, 40)))
            if rng.random() < 0.05:
                file.truncate(rng.randrange(FILE_BYTES))
        successor = NoticeLogReader(os.open(path, os.O_RDONLY))
        for notice in [*reader.read(0), *successor.read(0)]:
            assert type(notice) in m.NOTICES
        successor.close()


def test_notice_log_cut_short_under_its_reader_is_empty(path: str, log: NoticeLog, reader: NoticeLogReader) -> None:
    log.append(m.Release(1, 1))
    os.truncate(path, 0)
    assert reader.read(0) == []
    os.unlink(path)
    assert reader.read(0) == []


def test_a_file_size_limit_cuts_no_entry_short(tmp_path: Path) -> None:
    """Entries are stored into a mapping: RLIMIT_FSIZE does not reach them, and half an entry would end what is read."""
    path = tmp_path / "j1"
    path.write_bytes(bytes(FILE_BYTES))
    code = (
        "import os, resource, sys\n"
        "from shmlease.core import messages as m\n"
        "from shmlease.system.notice_log import NoticeLog\n"
        "log = NoticeLog(os.open(sys.argv[1], os.O_RDWR))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "print(sum(log.append(m.Release(seq, seq)) for seq in range(1, 100)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 99
    reader = NoticeLogReader(os.open(path, os.O_RDONLY))
    assert [notice.seq for notice in reader.read(0)] == list(range(1, 100))
    reader.close()
