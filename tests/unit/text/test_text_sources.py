"""Every packing of a text gives the same text, told by its bytes; a damaged file is named and never half read."""

from __future__ import annotations

import builtins
import bz2
import gzip
import importlib
import lzma
import struct
import zlib

import pytest

from shmlease.errors import IngestError
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
    with open_source(path) as stream, pytest.raises(IngestError) as caught:
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
    with open_source(path) as stream, pytest.raises(IngestError, match=r"is damaged|cut short") as caught:
        stream.read()
    assert str(path) in str(caught.value)


def test_bgzf_that_ends_between_two_blocks_is_cut_short(write):
    with pytest.raises(IngestError, match="without its end marker"):
        open_source(write(bgzf(TEXT, end=False)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n".encode("utf-16"), "this is UTF-16"),
        (b"\x89HDF\r\n\x1a\n", "this is HDF5"),
        (b"PK\x03\x04rest", "this is a zip archive"),
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
