"""Text to rows, in a worker: into leases, or, where the first row is known, on to whole chunks in memory of the worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from shmlease.ingestion.encoded_chunks import EncodedChunks
from shmlease.ingestion.private_memory import Memory
from shmlease.ingestion.tasks import EXAMPLES, LEASE_TIMEOUT_S, TICKET_TTL_S, Context, Encoded, LoadContext, Part
from shmlease.text.native_parser import last_row_end_native
from shmlease.text.parser import BadRow
from shmlease.text.parser_choice import PARSERS
from shmlease.text.schema import Schema
from shmlease.text.text_buffer import Bytes

if TYPE_CHECKING:
    from shmlease.client.lease import Lease

__all__ = ["ChunkedRows", "LeasedRows", "RowStore", "TextParsing", "stored_form"]

# Leases of rows are whole multiples of this, so that blocks of about the same length recycle each other's segments.
_LEASE_STEP_BYTES: Final = 256 << 10
_SKIP_STRETCH_BYTES: Final = 1 << 20

Rows = np.ndarray[Any, Any]


class RowStore(Protocol):
    """Where parsed rows go."""

    def room(self, rows: int) -> Rows:
        """Room for so many rows behind those before."""
        ...

    def took(self, rows: int) -> None:
        """So many of them were filled."""
        ...

    def finish(self, *, is_last: bool) -> tuple[tuple[Part, ...], Encoded | None]:
        """The rows as parts, and the chunks made of them; with `is_last`, no rows follow in the dataset."""
        ...

    def release(self) -> None:
        """Let go of what it holds."""
        ...


class TextParsing:
    """Blocks of a piece parsed one after another, and what was found wrong with their lines."""

    def __init__(self, context: Context, store: RowStore) -> None:
        self._store = store
        self._schema: Schema = context.table.schema
        self._most = context.lease_rows
        self._on_error = context.on_error
        self._parser = PARSERS[context.parser]
        self.lines = 0
        self.bad: list[BadRow] = []
        self.bad_count = 0
        self.notes: Counter[str] = Counter()

    def parse(self, content: Bytes) -> None:
        """Parse the next block."""
        for text, rows in self._cut(content):
            out = self._store.room(rows)
            most_bad = 0 if self._on_error == "fail" else None
            parsed = self._parser.parse_block(text, self._schema, out=out, first_line=self.lines + 1, most_bad=most_bad)
            self._store.took(len(parsed.rows))
            self.bad_count += len(parsed.bad)
            self.bad += parsed.bad[: max(EXAMPLES - len(self.bad), 0)] if self._on_error == "skip" else parsed.bad
            self.notes += parsed.notes
            newline = self._schema.newline
            self.lines += (
                rows if newline == ord("\n") else int(np.count_nonzero(text == newline)) + int(text[-1] != newline)
            )

    def _cut(self, content: Bytes) -> Iterator[tuple[Bytes, int]]:
        """The text in stretches that make no more rows than one lease holds, each with the most it makes."""
        while len(content):
            size = self._stretch(content)
            rows = self._parser.max_rows(content[:size], self._schema)
            while rows > self._most:
                aim = max(int(size * 0.9 * self._most / rows), 1)
                cut = last_row_end_native(content[:aim], self._schema)
                if cut == 0:  # one line, and blank ones
                    cut = _first_row_end(content[:size], self._schema)
                    if cut == size:
                        break
                size, rows = cut, self._parser.max_rows(content[:cut], self._schema)
            yield content[:size], rows
            content = content[size:]

    def _stretch(self, content: Bytes) -> int:
        """How much to parse at once: all, unless reports are to be dropped in between, which take 600 bytes each."""
        if self._on_error != "skip" or len(content) <= _SKIP_STRETCH_BYTES:
            return len(content)
        return last_row_end_native(content[:_SKIP_STRETCH_BYTES], self._schema) or len(content)


class LeasedRows:
    """The rows of a piece in as many leases as they need."""

    def __init__(self, registry: Memory, context: Context) -> None:
        self._registry = registry
        self._dtype = context.table.schema.dtype
        self._most = context.lease_rows
        self._leases: list[tuple[Lease, int]] = []
        self._left = 0

    def room(self, rows: int) -> Rows:
        """Room for so many rows behind those before."""
        if not self._leases or self._left < rows:
            self._leases.append((_leased(self._registry, self._dtype, rows, self._most), 0))
            self._left = len(self._leases[-1][0].array)
        lease, filled = self._leases[-1]
        return lease.array[filled : filled + rows]

    def took(self, rows: int) -> None:
        """So many of them were filled."""
        lease, filled = self._leases[-1]
        self._leases[-1] = lease, filled + rows
        self._left -= rows

    def finish(self, *, is_last: bool) -> tuple[tuple[Part, ...], Encoded | None]:  # noqa: ARG002 - no chunks are made
        """The leases as parts."""
        return tuple(Part(lease.ticket(ttl=TICKET_TTL_S), filled) for lease, filled in self._leases if filled), None

    def release(self) -> None:
        """Let go of the leases."""
        for lease, _ in self._leases:
            lease.release()


class ChunkedRows:
    """The rows of a piece of which it is known which rows of the dataset they are: chunks are made as they become full.

    Rows lie in memory of the worker, one behind the other, until they are part of a chunk. Only those before the first
    chunk that begins in the piece, and those behind the last whole one, are leased, to be joined with others.

    Parameters
    ----------
    start_row : int
        The row of the dataset that the first one will be.
    chunks : EncodedChunks
        What takes the chunks.
    memory : callable
        Gives at least so many bytes, the same ones each time while they suffice.
    """

    def __init__(
        self, registry: Memory, context: Context, start_row: int, chunks: EncodedChunks, memory: Callable[[int], Bytes]
    ) -> None:
        self._registry = registry
        self._context = context
        self._chunks = chunks
        self._chunk_rows = chunks.codec.chunk_rows
        self._dtype = context.table.schema.dtype
        self._more_memory = memory
        self._memory = memory(0)
        self._filled = 0  # rows in memory
        self._row = start_row  # of the dataset, that the first of them will be
        self._parts: list[tuple[Lease | None, int]] = []

    def room(self, rows: int) -> Rows:
        """Room for so many rows behind those before."""
        filled_bytes = self._filled * self._dtype.itemsize
        size_bytes = filled_bytes + rows * self._dtype.itemsize
        if size_bytes > len(self._memory):
            before, self._memory = self._memory, self._more_memory(size_bytes)
            self._memory[:filled_bytes] = before[:filled_bytes]
        return self._rows(self._filled, self._filled + rows)

    def took(self, rows: int) -> None:
        """So many of them were filled."""
        self._filled += rows
        start = 0
        while (stop := start + self._chunk_rows - self._row % self._chunk_rows) <= self._filled:
            self._take(start, stop)
            start = stop
        if start:
            left = self._rows(start, self._filled).copy()
            self._filled = len(left)
            self._rows(0, self._filled)[:] = left

    def finish(self, *, is_last: bool) -> tuple[tuple[Part, ...], Encoded | None]:
        """The rows at both ends as parts in leases, and the chunks between them."""
        if self._filled:
            self._take(0, self._filled, is_whole=is_last)
            self._filled = 0
        encoded = self._chunks.finish()
        parts = [Part(None if lease is None else lease.ticket(ttl=TICKET_TTL_S), rows) for lease, rows in self._parts]
        return tuple(parts), encoded

    def release(self) -> None:
        """Let go of the leases."""
        for lease, _ in self._parts:
            if lease is not None:
                lease.release()

    def _take(self, start: int, stop: int, *, is_whole: bool = True) -> None:
        """Encode these rows as a chunk if they are a whole one; otherwise lease them, to be joined with others."""
        rows, lease = self._rows(start, stop), None
        if is_whole and self._row % self._chunk_rows == 0:
            self._chunks.add(self._row // self._chunk_rows, [stored_form(rows, self._context)])
        else:
            lease = _leased(self._registry, self._dtype, len(rows), len(rows))
            lease.array[: len(rows)] = rows
        self._parts.append((lease, len(rows)))
        self._row += len(rows)

    def _rows(self, start: int, stop: int) -> Rows:
        size_bytes = self._dtype.itemsize
        return self._memory[start * size_bytes : stop * size_bytes].view(self._dtype)


def _leased(registry: Memory, dtype: np.dtype[Any], rows: int, most: int) -> Lease:
    """A lease for these rows, and for more, up to `most`."""
    step = max(_LEASE_STEP_BYTES // dtype.itemsize, 1)
    shape = max(min(-(-rows // step) * step, most), rows) if rows > step else rows
    return registry.lease(shape=shape, dtype=dtype, timeout=LEASE_TIMEOUT_S)


def stored_form(rows: Rows, context: Context | LoadContext) -> Rows:
    """Rows of one subarray as the matrix that they are in the file."""
    if isinstance(context, LoadContext):
        return rows
    schema = context.table.schema
    return rows[schema.fields[0].name] if schema.matrix else rows


def _first_row_end(content: Bytes, schema: Schema) -> int:
    size = 1
    while size < len(content):
        end = last_row_end_native(content[:size], schema)
        if end:
            return end
        size *= 2
    return len(content)
