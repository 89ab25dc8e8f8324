"""A first pass over a table for the lengths of its strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shmlease.text.blocks import BLOCK_BYTES, Piece, cut_table, read_piece
from shmlease.text.header import Table
from shmlease.text.parser import string_lengths
from shmlease.text.schema import Schema

__all__ = ["fit_needed_strings", "fit_strings", "measure_strings"]


def measure_strings(
    table: Table,
    pieces: Sequence[Piece] | None = None,
    block_bytes: int = BLOCK_BYTES,
    buffer: bytearray | None = None,
) -> dict[str, int]:
    """The longest cell of each string field in bytes, 0 where all are empty: of some pieces, by default of the
    whole file.
    """
    longest: dict[str, int] = {}
    buffer = bytearray() if buffer is None else buffer
    for piece in cut_table(table, block_bytes) if pieces is None else pieces:
        for block in read_piece(table, piece, block_bytes, buffer):
            for name, length in string_lengths(block.data, table.schema).items():
                longest[name] = max(length, longest.get(name, 0))
    return longest


def fit_strings(schema: Schema, lengths: Mapping[str, int]) -> Schema:
    """The schema with string fields just long enough.

    Parameters
    ----------
    schema : Schema
        A schema.
    lengths : mapping of str to int
        Bytes needed, by field: from `measure_strings`, or the largest over several files.
    """
    fields = tuple(
        replace(each, type=f"{'vlen' if each.is_variable else each.dtype.base.kind}{max(lengths[each.name], 1)}")
        if each.dtype.base.kind in "SU" and each.name in lengths and each.width == 1
        else each
        for each in schema.fields
    )
    return replace(schema, fields=fields)


def fit_needed_strings(schema: Schema, lengths: Mapping[str, int], *, all_strings: bool) -> Schema:
    """The schema with all string fields just long enough, or only those without a length; a field not measured is empty."""
    unfitted = {each.name: lengths.get(each.name, 0) for each in schema.fields if each.needs_fitting}
    return fit_strings(schema, {**lengths, **unfitted} if all_strings else unfitted)
