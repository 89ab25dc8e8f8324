"""Files as streams of text, whatever they are: plain or compressed, members of archives, pipes, UTF-16.

What a file is shows in its first bytes, not in its name. Only a plain file can be read in pieces; everything else is a
stream, read from its start. Every failure names the file.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias, cast

from shmlease.errors import IngestError
from shmlease.text.archives import member_of, open_member
from shmlease.text.decompression import decompressed, kind_of, require_end_of_bgzf
from shmlease.text.pipes import STANDARD_INPUT, is_pipe, pipe_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "FileState",
    "PathLike",
    "TextStream",
    "compression_of",
    "is_read_once",
    "open_source",
    "require_utf8_name",
    "state_of",
]

PathLike: TypeAlias = str | os.PathLike[str]

_HEAD_BYTES = 6
_UNREADABLE = {b"\x89HDF": "HDF5"}
_WIDE_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class FileState(NamedTuple):
    """Size of a file and when it was last changed; of a pipe, nothing is known."""

    size_bytes: int
    changed_ns: int


def state_of(path: PathLike) -> FileState:
    """The state of a file, or of the archive that it is a member of."""
    name = os.fspath(path)
    if name == STANDARD_INPUT or is_read_once(name):
        return FileState(0, 0)
    member = member_of(name)
    status = os.stat(member[0] if member else name)
    return FileState(status.st_size, status.st_mtime_ns)


def is_read_once(path: PathLike) -> bool:
    """Whether this is a pipe, which can be read once only."""
    try:
        return is_pipe(os.fspath(path))
    except OSError:
        return False  # the error comes where it is opened


def compression_of(path: PathLike) -> str:
    """How the text lies in the file: ``plain``, or as what it has to be read as a stream.

    That is ``gzip``, ``bzip2``, ``xz``, ``zstd`` or ``zip``, ``UTF-16`` or ``UTF-32``, or ``pipe``.

    Raises
    ------
    IngestError
        The file is missing, unreadable, or no text.
    """
    name = os.fspath(path)
    kind, raw = _open_raw(name)
    raw.close()
    return kind


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


class TextStream(io.BufferedReader):
    """The text of a file.

    Attributes
    ----------
    encoding : str or None
        ``utf-8`` where the file was in UTF-16 or UTF-32 and is read as UTF-8; else the file does not say.
    """

    def __init__(self, raw: io.RawIOBase, encoding: str | None = None) -> None:
        super().__init__(raw, buffer_size=1 << 18)
        self.encoding = encoding


def open_source(path: PathLike) -> TextStream:
    """The text of the file as a stream of bytes, decompressed where it is compressed, and in UTF-8 where it was in UTF-16.

    Several members, frames or streams in one file, BGZF among them, are read as one text. Reading raises `IngestError`
    where the compressed data are damaged or cut short.
    """
    name = os.fspath(path)
    kind, raw = _open_raw(name)
    try:
        if kind == "gzip" and not is_read_once(name):
            require_end_of_bgzf(name)
        stream = TextStream(decompressed(name, kind, raw))
    except BaseException:
        raw.close()
        raise
    try:
        wide = None if kind == "plain" else _wide_encoding(stream.peek(4))
    except IngestError:
        stream.close()
        raise
    return stream if wide is None else TextStream(_Transcoded(name, stream, wide), "utf-8")


def _wide_encoding(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _WIDE_ENCODINGS.items() if head.startswith(mark)), None)


class _Transcoded(io.RawIOBase):
    """UTF-16 or UTF-32 as UTF-8, without the byte order mark."""

    def __init__(self, name: str, stream: TextStream, encoding: str) -> None:
        self._name, self._stream, self._encoding = name, stream, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._ready:
            data = self._stream.read(1 << 16)
            try:
                self._ready = memoryview(self._decoder.decode(data, final=not data).encode())
            except UnicodeError as error:
                raise IngestError(
                    f"{self._name}: not {self._encoding}, as its first bytes say, near byte {self._position}: {error}",
                    path=self._name,
                ) from error
            self._position += len(data)
            if not data and not self._ready:
                return 0
        size = min(len(view), len(self._ready))
        view[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def _open_raw(name: str) -> tuple[str, IO[bytes]]:
    """How the text lies in a file, and its bytes, those of an archive's member unpacked."""
    require_utf8_name(name)
    try:
        if is_read_once(name):
            pipe = pipe_of(name)
            raw = cast(IO[bytes], pipe.open())
            head = pipe.read_at(0, _HEAD_BYTES)
            kind = kind_of(head)
            if kind == "zip":
                raise IngestError(f"{name}: a zip archive cannot be read from a pipe; write it to a file", path=name)
            _require_text(name, head)
            return "pipe" if kind == "plain" else kind, raw
        member = member_of(name)
        if member is not None:
            return "zip", open_member(*member)
        if stat.S_ISDIR(os.stat(name).st_mode):
            raise IngestError(f"{name}: a directory; name the files in it", path=name)
        raw = cast(IO[bytes], open(name, "rb", buffering=0))  # noqa: SIM115 - the caller closes it
        head = raw.read(_HEAD_BYTES)
        raw.seek(0)
    except OSError as error:
        raise IngestError(f"{name}: cannot be read: {error.strerror}", path=name) from error
    kind = kind_of(head)
    if kind == "zip":
        raw.close()
        return kind, open_member(name, None)
    try:
        _require_text(name, head)
    except IngestError:
        raw.close()
        raise
    wide = _wide_encoding(head)
    return kind if wide is None else wide.upper(), raw


def _require_text(name: str, head: bytes) -> None:
    for magic, kind in _UNREADABLE.items():
        if head.startswith(magic):
            raise IngestError(f"{name}: this is {kind}, not text", path=name)
