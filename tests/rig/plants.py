"""Where bugs are planted: what the table is sent, the rows that it writes, the effects that it decides.

`patch` replaces an attribute: `setattr` for good, or that of a monkeypatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shmlease.core.effects import Send
from shmlease.core.rows import Rows
from shmlease.core.table import Table

__all__ = ["after_rows", "answered_and_not_done", "on_messages", "on_rows"]

Patch = Callable[..., None]


def on_messages(change: Callable[[Table, int, Any], Any], patch: Patch = setattr) -> None:
    """Let the table apply what `change` makes of each message of a client; None is not applied."""
    apply = Table.apply

    def changed(self: Table, client: int, message: Any, now_ns: int) -> None:
        message = change(self, client, message)
        if message is not None:
            apply(self, client, message, now_ns)

    patch(Table, "apply", changed)


def answered_and_not_done(kind: type, answer: Callable[[Table, Any], Any], patch: Patch = setattr) -> None:
    """Let the table answer requests of that kind with what `answer` makes, and do nothing."""

    def answered(table: Table, client: int, message: Any) -> Any:
        if not isinstance(message, kind):
            return message
        table.effects.append(Send(client, answer(table, message)))
        return None

    on_messages(answered, patch)


def on_rows(change: Callable[[Any], Any], patch: Patch = setattr) -> None:
    """Let the table write what `change` makes of each row."""
    put = Rows.put
    patch(Rows, "put", lambda self, row: put(self, change(row)))


def after_rows(do: Callable[[Rows, Any], None], patch: Patch = setattr) -> None:
    """Do something to the indexes after each row that is written."""
    put = Rows.put

    def put_and_do(self: Rows, row: Any) -> None:
        put(self, row)
        do(self, row)

    patch(Rows, "put", put_and_do)
