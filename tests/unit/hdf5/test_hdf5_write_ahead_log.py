"""The write-ahead log, whole and torn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmlease.hdf5.write_ahead_log import (
    Attribute,
    Checkpoint,
    Chunk,
    Closing,
    Dataset,
    Record,
    Remainder,
    Start,
    WriteAheadLog,
)

RECORDS: list[Record] = [
    Start(1, "0.1.0", "2.0.0"),
    Dataset("calls", "'<i8'", (2,), (10, 2), "gzip", None, encoded=True),
    Attribute(None, "title", {"text": "Höhe\n"}),
    Chunk("calls", 0, 4096, 77, 1, 2**32 - 1, ((100, 5), (60, 6))),
    Remainder("calls", 160, bytes(range(256))),
    Checkpoint({"calls": 20}, {"file": "a.cov", "offset": 2**40}),
    Closing(),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "write_ahead_log"


@pytest.fixture
def log(path: Path) -> Iterator[WriteAheadLog]:
    log = WriteAheadLog(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
    for record in RECORDS:
        log.append(record)
    yield log
    log.close()


def test_what_was_appended_is_read_with_the_place_where_each_line_ends(log: WriteAheadLog, path: Path) -> None:
    read = list(log.read())
    assert [record for record, _ in read] == RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    assert [end for _, end in read] == [len(b"".join(lines[: count + 1])) for count in range(len(lines))]


def test_reading_ends_at_a_line_that_a_kill_tore(log: WriteAheadLog, path: Path) -> None:
    ends = [0, *(end for _, end in log.read())]
    for size in range(ends[-1]):
        log.truncate(size)
        whole = [end for end in ends if end <= size]
        assert [record for record, _ in log.read()] == RECORDS[: len(whole) - 1]
        log.truncate(0)
        for record in RECORDS:
            log.append(record)


def test_reading_ends_at_a_line_with_a_changed_digit(log: WriteAheadLog, path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"offset":4096', b'"offset":4097'))
    assert [record for record, _ in log.read()] == RECORDS[:3]


def test_reading_ends_at_a_record_of_a_later_version(log: WriteAheadLog, path: Path) -> None:
    from shmlease.hdf5.checksum import crc32

    text = b'{"is":"unheard of"}'
    with path.open("ab") as file:
        file.write(b"%08x %b\n" % (crc32(text), text))
    log.append(Closing())
    assert [record for record, _ in log.read()] == RECORDS


def test_appending_goes_on_where_the_log_was_cut(log: WriteAheadLog) -> None:
    read = list(log.read())
    log.truncate(read[2][1])
    log.append(Closing())
    assert [record for record, _ in log.read()] == [*RECORDS[:3], Closing()]
