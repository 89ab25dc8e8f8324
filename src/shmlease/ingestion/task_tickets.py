"""Which tickets a task or a result carries: what has to be used up where nobody takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from shmlease.ingestion.tasks import Encode, Encoded, Load, Loaded, Measure, Measured, Parse, ParsedPiece, Result, Task

if TYPE_CHECKING:
    from shmlease.client.ticket import Ticket

__all__ = ["tickets_of"]


def tickets_of(value: Task | Result) -> tuple[Ticket, ...]:
    """The tickets that a task or a result carries."""
    match value:
        case Parse():
            return () if value.text is None else (value.text,)
        case Encode():
            return value.parts
        case Encoded():
            return () if value.ticket is None else (value.ticket,)
        case ParsedPiece():
            parts = tuple(part.ticket for part in value.parts if part.ticket is not None)
            return parts if value.encoded is None else (*parts, *tickets_of(value.encoded))
        case Loaded():
            return tuple(block.any_ticket for block in value.blocks if block.any_ticket is not None)
        case Measure() | Measured() | Load():
            return ()
        case _:
            assert_never(value)
