"""Compressed bytes as streams of plain ones, whatever package does it; every failure names the file.

A package is imported when the first file needs it.
"""

from __future__ import annotations

import importlib
import io
import sys
import zlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from shmlease.errors import IngestError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["decompressed", "kind_of", "require_end_of_bgzf"]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_ZSTD_SKIPPABLE = {bytes([0x50 + kind]) + b"\x2a\x4d\x18" for kind in range(16)}
_READ_BYTES = 1 << 18


def kind_of(head: bytes) -> str:
    """How a content that begins so is compressed: ``plain``, ``gzip``, ``bzip2``, ``xz``, ``zstd`` or ``zip``."""
    if head[:4] in _ZSTD_SKIPPABLE:
        return "zstd"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "plain")


def decompressed(name: str, kind: str, raw: IO[bytes]) -> io.RawIOBase:
    """The content of `raw`; several members, frames or streams, BGZF among them, are read as one.

    Raises
    ------
    IngestError
        No package is there for this kind. Reading raises it where the data are damaged, cut short or followed by others.
    """
    stream = _OPENERS[kind](name, raw) if kind in _OPENERS else raw
    return _Checked(name, kind, stream, raw)


class _Checked(io.RawIOBase):
    """A stream whose failures name the file."""

    def __init__(self, name: str, kind: str, stream: IO[bytes], raw: IO[bytes]) -> None:
        self._name, self._kind, self._stream, self._raw = name, kind, stream, raw
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        try:
            size = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        except EOFError:
            self._fail("cut short", "; fetch the file again")
        except OSError as error:  # gzip.BadGzipFile is one
            if "Not a gzipped file" in str(error):
                self._fail_followed()
            self._fail("damaged", f": {error}")
        except _FollowedByOther:
            self._fail_followed()
        except _package_errors() as error:
            self._fail("damaged", f": {error}")
        self._position += size
        return int(size)

    def close(self) -> None:
        self._stream.close()
        self._raw.close()
        super().close()

    def _fail_followed(self) -> NoReturn:
        self._fail("followed by other bytes", f", which are not {self._kind}; cut them off, or fetch the file again")

    def _fail(self, what: str, more: str) -> NoReturn:
        raise IngestError(
            f"{self._name}: the {self._kind} data are {what} after {self._position} bytes of text{more}",
            path=self._name,
            offset=self._position,
        ) from sys.exc_info()[1]


class _FollowedByOther(Exception):  # noqa: N818 - it never leaves this module
    pass


class _Streams(io.RawIOBase):
    """Compressed streams one after another; what is no stream behind them is an error."""

    def __init__(self, raw: IO[bytes], make: Callable[[], Any], magic: bytes, padding: bytes = b"") -> None:
        self._raw, self._make, self._magic, self._padding = raw, make, magic, padding
        self._current: Any = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            rest = b""
            if self._current.eof:
                rest = self._beginning_of_next()
                if not rest:
                    return 0
                self._current = self._make()
            elif self._current.needs_input:
                rest = self._raw.read(_READ_BYTES)
                if not rest:
                    raise EOFError
            data = self._current.decompress(rest, len(view))
            if data:
                view[: len(data)] = data
                return len(data)

    def _beginning_of_next(self) -> bytes:
        rest: bytes = self._current.unused_data.lstrip(self._padding)
        while len(rest) < len(self._magic) and (more := self._raw.read(_READ_BYTES)):
            rest = (rest + more).lstrip(self._padding)
        if rest and not rest.startswith(self._magic[: len(rest)]):
            raise _FollowedByOther
        return rest


def _package_errors() -> tuple[type[Exception], ...]:
    """What decompressing raises; a package that was not imported raised nothing."""
    imported = [getattr(sys.modules[module], name) for module, name in _PACKAGE_ERRORS if module in sys.modules]
    return (OSError, zlib.error, *imported)


_PACKAGE_ERRORS = (
    ("lzma", "LZMAError"),
    ("zipfile", "BadZipFile"),
    ("isal.igzip_lib", "error"),
    ("compression.zstd", "ZstdError"),
    ("backports.zstd", "ZstdError"),
)


def _open_gzip(name: str, raw: IO[bytes]) -> IO[bytes]:  # noqa: ARG001 - as all openers
    try:
        igzip = importlib.import_module("isal.igzip_lib")  # two to four times as fast as the standard library
    except ImportError:
        return cast(IO[bytes], importlib.import_module("gzip").open(raw, "rb"))
    return cast(IO[bytes], _Streams(raw, lambda: igzip.IgzipDecompressor(igzip.DECOMP_GZIP), b"\x1f\x8b", b"\0"))


def require_end_of_bgzf(name: str) -> None:
    """BGZF cut between two blocks is a whole gzip file; only its missing end marker, an empty block, gives it away.

    Raises
    ------
    IngestError
        The marker is missing.
    """
    with open(name, "rb") as file:
        head = file.read(18)
        if head[3:4] != b"\x04" or head[12:14] != b"BC":
            return
        file.seek(0, 2)
        file.seek(-min(len(_BGZF_END), file.tell()), 2)
        if file.read() != _BGZF_END:
            raise IngestError(
                f"{name}: a BGZF file without its end marker, so it is cut short; fetch it again, or decompress it to "
                "plain text if all of it is there",
                path=name,
            )


_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def _open_bzip2(name: str, raw: IO[bytes]) -> IO[bytes]:  # noqa: ARG001
    return cast(IO[bytes], _Streams(raw, importlib.import_module("bz2").BZ2Decompressor, b"BZh"))


def _open_xz(name: str, raw: IO[bytes]) -> IO[bytes]:  # noqa: ARG001
    return cast(IO[bytes], _Streams(raw, importlib.import_module("lzma").LZMADecompressor, b"\xfd7zXZ\0", b"\0"))


def _open_zstd(name: str, raw: IO[bytes]) -> IO[bytes]:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return cast(IO[bytes], importlib.import_module(module).open(raw, "rb"))
        except ImportError:
            continue
    raise IngestError(
        f"{name}: zstd data, and no package to decompress it; pip install 'shmlease[zstd]', or unzstd the file", path=name
    )


_OPENERS: dict[str, Callable[[str, IO[bytes]], IO[bytes]]] = {
    "gzip": _open_gzip,
    "bzip2": _open_bzip2,
    "xz": _open_xz,
    "zstd": _open_zstd,
}
