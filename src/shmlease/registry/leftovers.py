"""Files that no row of the table speaks of: of clients that ended between what they did to a file and their notice of it.

One that made a token without a notice has given the ticket to nobody. One that claimed a token without a notice has used
the ticket up.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from shmlease.core.model import ClientState, SegmentState, client_of, number_of
from shmlease.core.table import Table
from shmlease.registry.interfaces import Store
from shmlease.system.clock import Clock

__all__ = ["Leftovers"]


class Leftovers:
    """Removes them when a client has ended, and after a takeover.

    Parameters
    ----------
    read_notices : callable
        Applies what a client has written to its notice log.
    """

    def __init__(self, table: Table, store: Store, clock: Clock, read_notices: Callable[[int], None]) -> None:
        self._table = table
        self._store = store
        self._clock = clock
        self._read_notices = read_notices
        self._ended: set[int] = set()  # clients, since their tokens were last looked for

    @property
    def may_exist(self) -> bool:
        """Whether a client has ended since `remove_tokens`."""
        return bool(self._ended)

    def client_ended(self, client: int) -> None:
        """`client` has ended, and may have left tokens without a notice."""
        self._ended.add(client)

    def remove_tokens(self) -> None:
        """See to the tokens of clients that have ended."""
        ended, self._ended = self._ended, set()
        for kind, ticket, redeemer in list(self._store.entries()):
            if kind != "t":
                continue
            if redeemer in ended:
                self._end_claim(ticket, redeemer)
            elif client_of(ticket) in ended and not self._table.knows_ticket(ticket):
                self._store.remove_entry(kind, ticket, redeemer)

    def remove_all(self) -> None:
        """After a takeover: remove files without a row, and tell the table of rows without a file."""
        table, rows = self._table, self._table.rows
        present = set()
        writing = {client.id for client in rows.clients.values() if client.state is not ClientState.ENDED}
        known: dict[str, Container[int]] = {"s": rows.segments, "t": rows.tickets, "j": writing}
        for kind, number, redeemer in list(self._store.entries()):
            if kind == "s":
                present.add(number)
            if kind == "t" and redeemer is not None and table.clients.has_ended(redeemer):
                self._end_claim(number, redeemer)
            elif number not in known[kind] and not (kind == "t" and self._may_still_have_notice(number, redeemer)):
                self._store.remove_entry(kind, number, redeemer)
        now_ns = self._clock.now_ns()
        for number, segment in list(rows.segments.items()):
            if number not in present and segment.state is not SegmentState.RETIRING:
                table.segment_missing(number, now_ns)

    def _end_claim(self, ticket: int, redeemer: int) -> None:
        """Who has claimed `ticket` has ended without a notice that it redeemed it."""
        self._read_notices(client_of(ticket))  # that of its making may not have been read yet
        if self._table.knows_ticket(ticket):
            self._table.redeemer_ended(ticket, redeemer, self._clock.now_ns())
        else:
            self._store.remove_entry("t", ticket, redeemer)

    def _may_still_have_notice(self, ticket: int, redeemer: int | None) -> bool:
        """Whether the notice of a ticket's making may yet come from its sender.

        It has come, and the ticket gone again, when the ticket was redeemed and later notices have been applied.
        """
        sender = client_of(ticket)
        row = self._table.rows.clients.get(sender)
        if row is None or row.state is ClientState.ENDED:
            return False
        return redeemer is None or self._table.rows.applied.get(sender, 0) < number_of(ticket)
