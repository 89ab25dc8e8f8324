"""The first lines of a file, taken one by one: what a header is read from."""

from __future__ import annotations

import re
from typing import IO, Literal

import msgspec

from shmlease.errors import IngestError
from shmlease.text.records import Record, read_record, split_line
from shmlease.text.schema import Schema

__all__ = ["FirstLines", "FirstRow", "line_end_of"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOOK = 1 << 16  # bytes looked at to find out which line ends a file has
_LONGEST_LINE = 1 << 26
_ATTRIBUTE_LINE = re.compile(r"\s*([A-Za-z_]\w*)\s+(\S+)\s*")


def line_end_of(beginning: bytes) -> Literal["lf", "cr"]:
    """What ends the first line: LF (perhaps after a CR), or CR alone."""
    first = re.search(rb"\r\n?|\n", beginning)
    return "cr" if first and first[0] == b"\r" else "lf"


class FirstRow(msgspec.Struct, frozen=True):
    """How many lines and cells the first record has."""

    lines: int
    cells: int


class FirstLines:
    """The first lines of a stream, with their place."""

    def __init__(self, name: str, stream: IO[bytes], schema: Schema) -> None:
        self._name, self._stream, self._schema = name, stream, schema
        self._buffer = stream.read(_LOOK)
        self.offset = len(_BYTE_ORDER_MARK) if self._buffer.startswith(_BYTE_ORDER_MARK) else 0
        self.number = 1
        self.line_end = line_end_of(self._buffer) if schema.line_end == "auto" else schema.line_end
        self._newline = b"\r" if self.line_end == "cr" else b"\n"

    def take(self, what: str) -> str:
        """The next line, without its end; `what` says what it is for, should there be none."""
        line = self.peek()
        if line is None:
            raise IngestError(
                f"{self._name}: the file ends at line {self.number}, before {what}; check the lines to skip and the header",
                path=self._name,
                line=self.number,
            )
        self._pass(self._next_line_end(self.offset))
        return line

    def peek(self) -> str | None:
        """The next line without taking it, or None at the end of the file."""
        return self._text(self._next_line_end(self.offset))

    def take_attributes(self) -> tuple[tuple[str, str], ...]:
        """The lines of a word and a number that come next."""
        found = []
        while (line := self.peek()) is not None and (match := _ATTRIBUTE_LINE.fullmatch(line)):
            found.append((match[1], match[2]))
            self.take("the data")
        return tuple(found)

    def is_at_end_of_table(self) -> bool:
        """Whether something else than the table comes next."""
        mark = self._schema.ends_at
        return bool(mark) and (self.peek() or "").startswith(mark)

    def take_header(self) -> list[str]:
        """The cells of the next record."""
        if self._is_quoted and self.peek() is not None:
            record = self._record()
            if record.fault:
                raise IngestError(f"{self._name}: line {self.number}, the header: {record.fault}", path=self._name)
            line = self._text(record.end)
            self._pass(record.end)
        else:
            line = self.take("the header")
        return split_line(line or "", self._schema)

    def peek_row(self) -> FirstRow | None:
        """How many lines and cells the next record has; None at the end of the file, and where it is malformed."""
        line = self.peek()
        if line is None:
            return None
        if not self._is_quoted:
            return FirstRow(1, len(split_line(line, self._schema)))
        record = self._record()
        lines = 1 + self._buffer.count(self._newline, self.offset, record.end)
        return None if record.fault else FirstRow(lines, len(record.cells))

    def _pass(self, end: int) -> None:
        self.number += self._buffer.count(self._newline, self.offset, end) + 1
        self.offset = end + 1

    def _text(self, end: int) -> str | None:
        if self.offset >= len(self._buffer):
            return None
        raw = self._buffer[self.offset : end].removesuffix(b"\r")
        try:
            return raw.decode(self._schema.encoding)
        except UnicodeDecodeError as error:
            raise IngestError(
                f"{self._name}: line {self.number} is not {self._schema.encoding} (byte {raw[error.start]:#04x} at place "
                f"{error.start + 1}); name the file's encoding, for example latin-1",
                path=self._name,
                line=self.number,
            ) from error

    def are_blank(self, *, comments: bool) -> bool:
        """Whether there is nothing but line ends, and comments if those count, to the end of the file."""
        while not self._buffer[self.offset :].strip(b"\r\n"):
            if not self._read_on():
                return True
        if not comments or not self._buffer.startswith(tuple(each.encode() for each in self._schema.comments), self.offset):
            return False
        begin = self.offset, self.number
        self.skip_comments()
        at_end = self.peek() is None
        self.offset, self.number = begin
        return at_end

    def skip_until(self, beginning: str) -> None:
        """Take lines until the next one begins with `beginning`."""
        while (line := self.peek()) is not None and not line.lstrip().startswith(beginning):
            self.take("the header")
        if line is None:
            raise IngestError(f"{self._name}: no line begins with {beginning!r}", path=self._name)

    def skip_comments(self) -> None:
        """Take blank lines and comments."""
        while (line := self.peek()) is not None and (not line.strip() or line.startswith(self._schema.comments)):
            if self.is_at_end_of_table():
                return
            self.take("the data")

    @property
    def _is_quoted(self) -> bool:
        return bool(self._schema.quote)

    def _record(self) -> Record:
        """The next record, reading on as far as that needs."""
        is_whole = False
        while True:
            data = self._buffer.replace(b"\r", b"\n") if self.line_end == "cr" else self._buffer
            record = read_record(data, self.offset, self._schema, is_whole=is_whole)
            if record.is_complete:
                return record
            is_whole = not self._read_on()

    def _next_line_end(self, searched: int) -> int:
        while (end := self._buffer.find(self._newline, searched)) < 0:
            searched = len(self._buffer)
            if not self._read_on():
                return len(self._buffer)
        return end

    def _read_on(self) -> bool:
        """Read more of the file, twice as much each time; whether there was more."""
        more = self._stream.read(max(_LOOK, len(self._buffer)))
        self._buffer += more
        if len(self._buffer) - self.offset > _LONGEST_LINE:
            raise IngestError(
                f"{self._name}: line {self.number} is longer than {_LONGEST_LINE} bytes; is this a text table?",
                path=self._name,
                line=self.number,
            )
        return bool(more)
