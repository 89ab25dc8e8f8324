"""Files as streams of text: plain or compressed, which is detected from their first bytes, not from their names.

Every failure names the file: it is missing, a directory, cut short, or compressed with a method whose package is not
installed.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, NoReturn, TypeAlias, cast

from shmlease.errors import IngestError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["PathLike", "compression_of", "open_source", "require_utf8_name"]

PathLike: TypeAlias = str | os.PathLike[str]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ZSTD_SKIPPABLE = {bytes([0x50 + kind]) + b"\x2a\x4d\x18" for kind in range(16)}
_UNREADABLE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x89HDF": "HDF5", b"PK\x03\x04": "a zip archive"}


def compression_of(path: PathLike) -> str:
    """How the file is compressed: ``plain``, ``gzip``, ``bzip2``, ``xz`` or ``zstd``.

    Raises
    ------
    IngestError
        The file is missing, unreadable, no regular file, or no text.
    """
    name = os.fspath(path)
    require_utf8_name(name)
    if name == "-":
        raise IngestError("-: standard input is not read; files are read more than once, so write it to a file", path=name)
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise IngestError(f"{name}: a directory; name the files in it", path=name)
        if not stat.S_ISREG(mode):
            raise IngestError(
                f"{name}: not a regular file; files are read more than once, so write what it gives to a file first",
                path=name,
            )
        with open(name, "rb") as file:
            head = file.read(6)
    except OSError as error:
        raise IngestError(f"{name}: cannot be read: {error.strerror}", path=name) from error
    for magic, kind in _UNREADABLE.items():
        if head.startswith(magic):
            raise IngestError(f"{name}: this is {kind}, not text in an ASCII-compatible encoding", path=name)
    if head[:4] in _ZSTD_SKIPPABLE:
        return "zstd"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "plain")


def require_utf8_name(name: str) -> None:
    """Raise unless a name can be kept in an HDF5 file.

    Raises
    ------
    IngestError
        It has bytes that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise IngestError(
            f"{shown}: a name that is not UTF-8 cannot be kept in the HDF5 file beside the rows; rename the file, or make "
            "a link to it",
            path=name,
        ) from None


def open_source(path: PathLike) -> IO[bytes]:
    """The text of the file as a stream of bytes, decompressed where it is compressed.

    Several members, frames or streams in one file, BGZF among them, are read as one text. Reading raises `IngestError`
    where the compressed data are damaged or cut short.
    """
    name = os.fspath(path)
    kind = compression_of(name)
    stream = _OPENERS[kind](name)
    return cast(IO[bytes], io.BufferedReader(_Decompressed(name, kind, stream), buffer_size=1 << 18))


class _Decompressed(io.RawIOBase):
    """A stream whose failures name the file."""

    def __init__(self, name: str, kind: str, stream: IO[bytes]) -> None:
        self._name, self._kind, self._stream = name, kind, stream
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        try:
            size = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        except EOFError:
            self._fail("ends too early: the file is cut short; fetch it again")
        except _package_errors() as error:
            self._fail(f"is damaged: {error}")
        self._position += size
        return int(size)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _fail(self, what: str) -> NoReturn:
        raise IngestError(
            f"{self._name}: the {self._kind} data {what} after {self._position} bytes of text",
            path=self._name,
            offset=self._position,
        ) from sys.exc_info()[1]


def _package_errors() -> tuple[type[Exception], ...]:
    """What decompressing raises; a package that was not imported raised nothing."""
    imported = [getattr(sys.modules[module], name) for module, name in _PACKAGE_ERRORS if module in sys.modules]
    return (OSError, zlib.error, lzma.LZMAError, *imported)


_PACKAGE_ERRORS = (
    ("isal.isal_zlib", "error"),
    ("compression.zstd", "ZstdError"),
    ("backports.zstd", "ZstdError"),
)


def _open_plain(name: str) -> IO[bytes]:
    return open(name, "rb", buffering=0)


def _open_gzip(name: str) -> IO[bytes]:
    _require_end_of_bgzf(name)
    try:
        igzip = importlib.import_module("isal.igzip")  # two to four times as fast as the standard library
    except ImportError:
        return cast(IO[bytes], gzip.open(name, "rb"))
    return cast(IO[bytes], igzip.open(name, "rb"))


def _require_end_of_bgzf(name: str) -> None:
    """BGZF cut between two blocks is a whole gzip file; only its missing end marker, an empty block, gives it away."""
    with open(name, "rb") as file:
        head = file.read(18)
        if head[3:4] != b"\x04" or head[12:14] != b"BC":
            return
        file.seek(-min(len(_BGZF_END), os.fstat(file.fileno()).st_size), os.SEEK_END)
        if file.read() != _BGZF_END:
            raise IngestError(
                f"{name}: a BGZF file without its end marker, so it is cut short; fetch it again, or decompress it to "
                "plain text if all of it is there",
                path=name,
            )


_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def _open_bzip2(name: str) -> IO[bytes]:
    return cast(IO[bytes], bz2.open(name, "rb"))


def _open_xz(name: str) -> IO[bytes]:
    return cast(IO[bytes], lzma.open(name, "rb"))


def _open_zstd(name: str) -> IO[bytes]:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return cast(IO[bytes], importlib.import_module(module).open(name, "rb"))
        except ImportError:
            continue
    raise IngestError(
        f"{name}: zstd data, and no package to decompress it; pip install 'shmlease[zstd]', or unzstd the file", path=name
    )


_OPENERS: dict[str, Callable[[str], IO[bytes]]] = {
    "plain": _open_plain,
    "gzip": _open_gzip,
    "bzip2": _open_bzip2,
    "xz": _open_xz,
    "zstd": _open_zstd,
}
