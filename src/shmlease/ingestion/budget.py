"""How large blocks, leases and tasks are, so that all that is under way at once fits the capacity."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from shmlease.errors import CapacityError
from shmlease.ingestion.tasks import TASKS_A_WORKER
from shmlease.text.blocks import BLOCK_BYTES
from shmlease.text.schema import Schema
from shmlease.units import format_bytes, format_count

__all__ = ["CHUNK_BYTES", "Budget", "budget_for", "default_capacity", "most_rows"]

CHUNK_BYTES = 1 << 20
# Four chunks a task make the cost of handing a task over (some 0.3 ms) small beside encoding them (3 ms).
_CHUNKS_A_TASK = 4
# Where the pieces of a file are parsed in turn, a task has so many blocks: handing over rows at both its ends and what it
# encoded costs as much for one block as for all.
_BLOCKS_A_STEP = 2
# Smaller ones cost more to hand over than to parse; only rows far wider than their text, in little memory, need them.
_SMALLEST_BLOCK_BYTES = 4 << 10


class Budget(msgspec.Struct, frozen=True):
    """Sizes of one run.

    Attributes
    ----------
    block_bytes : int
        Text that is parsed at once.
    step_bytes : int
        Text that one task parses, block by block, where the pieces of a file are parsed in turn.
    parse_bytes : int
        The most that a block, decompressed, and its rows take in shared memory.
    chunks_a_task : int
        Chunks that are encoded at once, into one lease.
    encode_bytes : int
        The most that an encoding task takes.
    limit_bytes : int
        No block is begun beyond this use of shared memory: what is left is for encoding, which frees.
    """

    block_bytes: int
    step_bytes: int
    parse_bytes: int
    chunks_a_task: int
    encode_bytes: int
    limit_bytes: int

    @property
    def has_long_steps(self) -> bool:
        """Whether most rows of a step are in chunks that begin and end in it: only then pieces are parsed in turn."""
        return self.step_bytes >= 2 * CHUNK_BYTES

    def reserved_bytes(self, text_bytes: int) -> int:
        """The most that so much text and its rows take."""
        return -(-min(text_bytes, self.step_bytes) * self.parse_bytes // self.block_bytes)

    def lease_rows(self, schema: Schema) -> int:
        """Rows that one lease holds at most."""
        return most_rows(schema, self.block_bytes)


def default_capacity(workers: int, free_bytes: int) -> int:
    """Shared memory that keeps `workers` busy with common tables, within half of what is free."""
    return min((32 << 20) * (workers + 2), free_bytes // 2)


def budget_for(capacity_bytes: int, workers: int, schemas: Iterable[Schema]) -> Budget:
    """The sizes for a run.

    Raises
    ------
    CapacityError
        The capacity is too small for even the smallest blocks.
    """
    tasks = workers * TASKS_A_WORKER
    # rows take this many bytes for each byte of text at most, and the text itself is held where it was decompressed here
    growth = 1 + max((schema.dtype.itemsize / _shortest_line(schema) for schema in schemas), default=1.0)
    chunks = max(min(_CHUNKS_A_TASK, capacity_bytes // 4 // (workers * CHUNK_BYTES)), 1)
    encode_bytes = chunks * CHUNK_BYTES
    limit_bytes = capacity_bytes - workers * encode_bytes
    block_bytes = min(BLOCK_BYTES, int(limit_bytes / (growth * tasks))) // 4096 * 4096
    if block_bytes < _SMALLEST_BLOCK_BYTES:
        needed = int(growth * tasks * _SMALLEST_BLOCK_BYTES) + workers * CHUNK_BYTES
        raise CapacityError(
            f"a capacity of {format_bytes(capacity_bytes)} is too small for {format_count(workers, 'worker')} "
            f"and these rows; give at least {format_bytes(needed + (1 << 20))}, or use fewer workers",
            requested_bytes=needed,
            capacity_bytes=capacity_bytes,
        )
    steps = max(min(_BLOCKS_A_STEP, int(limit_bytes / (growth * tasks)) // block_bytes), 1)
    return Budget(block_bytes, steps * block_bytes, int(block_bytes * growth), chunks, encode_bytes, limit_bytes)


def most_rows(schema: Schema, text_bytes: int) -> int:
    """Rows that so much text makes at most; no less than 1."""
    return max(text_bytes // _shortest_line(schema), 1)


@lru_cache(maxsize=64)
def _shortest_line(schema: Schema) -> int:
    """The fewest bytes that a line can have which makes a row."""
    if schema.short == "missing":
        return 2
    if schema.delimiter is None:
        return 2 * schema.row_width
    needed = sum(each.width for each in schema.fields if each.dtype.base.kind not in "SU" and "" not in schema.missing)
    return max(schema.row_width + needed, 2)
