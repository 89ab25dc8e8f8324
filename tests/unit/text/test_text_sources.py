"""Every packing of a text gives the same text, told by its bytes; a damaged file is named and never half read."""

from __future__ import annotations

import builtins
import bz2
import gzip
import importlib
import lzma
import os
import struct
import sys
import threading
import zipfile
import zlib

import pytest

from shmlease.errors import IngestError
from shmlease.text.archives import expand_archives
from shmlease.text.pipes import forget_pipes, pipe_of
from shmlease.text.schema import Schema
from shmlease.text.sources import compression_of, open_source

TEXT = b"".join(b"chr%d\t%d\t%d\n" % (n % 20, n, n * n) for n in range(20_000))


def bgzf(data: bytes, *, end: bool = True) -> bytes:
    """Blocked gzip, as the SAM specification (4.1) has it."""
    blocks = []
    for at in [*range(0, len(data), 60_000), None] if end else range(0, len(data), 60_000):
        raw = b"" if at is None else data[at : at + 60_000]
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(raw) + packer.flush()
        head = struct.pack("<4BI2BH2sHH", 31, 139, 8, 4, 0, 0, 255, 6, b"BC", 2, len(packed) + 25)
        blocks.append(head + packed + struct.pack("<II", zlib.crc32(raw), len(raw)))
    return b"".join(blocks)


PACKED = {
    "plain": TEXT,
    "gzip": gzip.compress(TEXT),
    "gzip in members": gzip.compress(TEXT[:70_000]) + gzip.compress(b"") + gzip.compress(TEXT[70_000:]),
    "gzip padded with zeros": gzip.compress(TEXT) + bytes(512),
    "bgzf": bgzf(TEXT),
    "bzip2": bz2.compress(TEXT),
    "bzip2 in streams": bz2.compress(TEXT[:5]) + bz2.compress(TEXT[5:]),
    "xz": lzma.compress(TEXT),
    "xz in streams": lzma.compress(TEXT[:5]) + lzma.compress(TEXT[5:]),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["table.tsv", "table.gz", ".gz", "table.bz2"])
def test_a_file_is_decompressed_by_its_content_whatever_its_name(write, kind, name):
    path = write(PACKED[kind], name)
    assert compression_of(path) == kind.split()[0].replace("bgzf", "gzip")
    with open_source(path) as stream:
        assert stream.read() == TEXT


def test_gzip_is_read_without_isal_too(write, monkeypatch):
    real = importlib.import_module
    monkeypatch.setattr(
        importlib,
        "import_module",
        lambda name, *rest: builtins.__import__("absent") if "isal" in name else real(name, *rest),
    )
    with open_source(write(PACKED["bgzf"])) as stream:
        assert stream.read() == TEXT


def test_zstd_is_read_in_frames(write):
    zstd = pytest.importorskip("compression.zstd" if importlib.util.find_spec("compression") else "backports.zstd")
    with open_source(write(zstd.compress(TEXT[:9]) + zstd.compress(TEXT[9:]))) as stream:
        assert stream.read() == TEXT


def test_zstd_without_its_package_names_the_extra(write, monkeypatch):
    def absent(name, *_):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(IngestError, match=r"pip install 'shmlease\[zstd\]'"):
        open_source(write(b"\x28\xb5\x2f\xfd" + bytes(20)))


@pytest.mark.parametrize("kind", ["gzip", "gzip in members", "bzip2", "xz"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.9999])
def test_a_file_that_is_cut_short_is_an_error_that_names_it(write, kind, kept):
    path = write(PACKED[kind][: int(len(PACKED[kind]) * kept)])
    with pytest.raises(IngestError) as caught, open_source(path) as stream:
        stream.read()
    assert str(path) in str(caught.value)
    assert "cut short" in str(caught.value)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_a_damaged_file_is_an_error_that_names_it(write, kind):
    damaged = bytearray(PACKED[kind])
    for at in range(len(damaged) // 2, len(damaged) // 2 + 64):
        damaged[at] ^= 0xFF
    path = write(bytes(damaged))
    with pytest.raises(IngestError, match=r"damaged|cut short") as caught, open_source(path) as stream:
        stream.read()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("isal", [True, False])
@pytest.mark.parametrize("rest", [b"x", b"xx", b"\0\0x", b"no gzip data at all"])
@pytest.mark.parametrize("kind", ["gzip", "gzip in members", "bzip2", "xz"])
def test_bytes_behind_compressed_data_are_called_that(write, monkeypatch, kind, rest, isal):
    if not isal:
        monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    with pytest.raises(IngestError, match=r"followed by other bytes after .* bytes of text"):
        open_source(write(PACKED[kind] + rest)).read()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_utf_16_is_read_as_utf_8(write, read, encoding, pack):
    text = "name\tn\r\nZürich\t1\r\n日本\t2\r\n"
    path = write(pack(("\ufeff" * encoding.endswith("be") + text).encode(encoding)))
    rows = read(path, Schema(header=True, encoding="latin-1").with_dtype("name:U6,n:i4")).rows
    assert rows.tolist() == [("Zürich", 1), ("日本", 2)]


def test_utf_16_that_is_none_is_an_error_that_names_the_file(write):
    path = write("abc".encode("utf-16")[:-1])
    with pytest.raises(IngestError, match=r"table\.tsv: not utf-16, as its first bytes say"):
        open_source(path).read()


@pytest.fixture
def pipe(tmp_path):
    """A FIFO through which bytes come, some at a time."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    writers = []

    def send(content, step=1000):
        def write():
            with open(path, "wb", buffering=0) as file:
                for at in range(0, len(content), step):
                    file.write(content[at : at + step])

        writers.append(threading.Thread(target=write))
        writers[-1].start()
        return path

    yield send
    forget_pipes([path])
    for writer in writers:
        writer.join()


@pytest.mark.parametrize("kind", PACKED)
def test_a_pipe_is_looked_at_and_then_read_from_its_beginning(pipe, kind):
    path = pipe(PACKED[kind], step=1 if len(PACKED[kind]) < 9_000 else 4096)
    assert compression_of(path) == {"plain": "pipe", "bgzf": "gzip"}.get(kind, kind.split()[0])
    assert open_source(path).read(10) == TEXT[:10]
    assert open_source(path).read() == TEXT
    assert (pipe_of(path).size_bytes, pipe_of(path).crc32) == (len(PACKED[kind]), zlib.crc32(PACKED[kind]))


def test_a_table_comes_through_a_pipe(pipe, read):
    path = pipe(b"a\tb\n" + b"1\t2\n" * 50_000)
    assert len(read(path, Schema(header=True).with_dtype("a:i4,b:i4"), block_bytes=10_000).rows) == 50_000


def test_a_pipe_that_was_read_further_than_it_is_kept_is_not_read_again(pipe):
    path = pipe(bytes(5 << 20), step=1 << 16)
    assert len(open_source(path).read()) == 5 << 20
    with pytest.raises(IngestError, match="a pipe can be read once only"):
        open_source(path)


def test_an_archive_does_not_come_through_a_pipe(pipe):
    with pytest.raises(IngestError, match="a zip archive cannot be read from a pipe"):
        open_source(pipe(b"PK\x03\x04" + bytes(30)))


def _archive(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_members_of_archives_are_named_by_paths(tmp_path):
    several = _archive(tmp_path / "several.zip", {"a": "1\n", "deep/b": "2\n", "deep/": "", "__MACOSX/a": ""})
    names = [f"{several}/a", f"{several}/deep/b"]
    assert expand_archives([str(several), "other"]) == [*names, "other"]
    assert [open_source(name).read() for name in names] == [b"1\n", b"2\n"]
    one = _archive(tmp_path / "one.zip", {"only": "3\n"})
    assert expand_archives([str(one)]) == [str(one)]
    assert open_source(one).read() == b"3\n"
    assert compression_of(one) == compression_of(names[0]) == "zip"


@pytest.mark.parametrize(("member", "message"), [("/c", "has no member c; it holds a, b"), ("", "name one of a, b")])
def test_a_member_that_an_archive_has_not_is_an_error_that_lists_them(tmp_path, member, message):
    path = _archive(tmp_path / "several.zip", {"a": "1\n", "b": "2\n"})
    with pytest.raises(IngestError, match=message):
        open_source(f"{path}{member}")


def test_bgzf_that_ends_between_two_blocks_is_cut_short(write):
    with pytest.raises(IngestError, match="without its end marker"):
        open_source(write(bgzf(TEXT, end=False)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89HDF\r\n\x1a\n", "this is HDF5"),
        (b"PK\x03\x04rest", "the zip archive is damaged"),
    ],
)
def test_what_is_no_text_is_refused_by_name(write, content, message):
    path = write(content)
    with pytest.raises(IngestError, match=message) as caught:
        open_source(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_directory_are_errors_that_name_them(tmp_path):
    with pytest.raises(IngestError, match=r"absent\.tsv: cannot be read: No such file"):
        open_source(tmp_path / "absent.tsv")
    with pytest.raises(IngestError, match="a directory; name the files in it"):
        open_source(tmp_path)
