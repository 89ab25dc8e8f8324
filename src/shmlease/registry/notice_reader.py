"""Reads the notices of all clients, in an order in which nothing comes before what it depends on.

Rules:

* The notices of one client are applied in the order in which they were written.
* What it did with the spare that it keeps is looked at after its notices were read, and noted before they are applied: a
  notice about that spare follows only when it is in use for good.
* A ticket that was redeemed or taken back was made by another client: that client's notices, up to that, come first.
* Who has sent a `Ring` may write for a while without another one: its log is looked at again once that while is over, and
  before any request of anybody is answered.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, Protocol

from shmlease.core import messages as m
from shmlease.core.model import client_of
from shmlease.core.table import Table
from shmlease.core.uses import Use

__all__ = ["NoticeReader"]

# Notices of what another client has made.
_OF_TICKETS: Final = (m.Redeemed, m.Revoked)


class _NoticeLogs(Protocol):
    def read_notice_log(self, client: int, applied: int) -> list[m.Notice]: ...
    def read_use(self, client: int) -> Use | None: ...


class NoticeReader:
    """The notices that were written and not applied yet.

    Parameters
    ----------
    table : Table
        It is asked who has ended, and which notices and tickets it knows; nothing is applied to it.
    store : Store
        Has the notice logs.
    apply : callable
        Applies one notice of a client to the table.
    note_use : callable
        Tells the table what a client did with the spare that it keeps.
    """

    def __init__(
        self,
        table: Table,
        store: _NoticeLogs,
        apply: Callable[[int, m.Notice], None],
        note_use: Callable[[int, Use], None],
    ) -> None:
        self._table = table
        self._store = store
        self._apply = apply
        self._note_use = note_use
        self._unapplied: defaultdict[int, deque[m.Notice]] = defaultdict(deque)
        self._being_read: set[int] = set()
        self._look_again_ns: dict[int, int] = {}

    @property
    def is_reading(self) -> bool:
        """Whether notices are being applied just now, by a caller of the one who asks."""
        return bool(self._being_read)

    def look_again_at(self, client: int, now_ns: int) -> None:
        """`client` may write notices for a while without a `Ring`."""
        self._look_again_ns[client] = now_ns + m.LOOK_AGAIN_NS

    def next_deadline_ns(self) -> int | None:
        """When a log is to be looked at again; None if there is nobody whose notices may have been missed."""
        return min(self._look_again_ns.values(), default=None)

    def read_due(self, now_ns: int) -> None:
        """Read the logs whose time has come."""
        for client in [client for client, look_ns in self._look_again_ns.items() if look_ns <= now_ns]:
            # what one has written may have ended another of them, and so it was forgotten
            if self._look_again_ns.pop(client, None) is not None:
                self.read(client)

    def read_all(self) -> None:
        """Read the logs of all who may have written without a `Ring`."""
        for client in list(self._look_again_ns):
            self.read(client)

    def read(self, client: int) -> None:
        """Apply what `client` has written, and of others what that depends on."""
        self._go_on_with(client)
        while waiting := [other for other, unapplied in self._unapplied.items() if unapplied]:
            before = sum(len(self._unapplied[other]) for other in waiting)
            for other in waiting:
                self._go_on_with(other)
            stuck = next((other for other in waiting if self._unapplied.get(other)), None)
            if stuck is not None and sum(map(len, self._unapplied.values())) >= before:
                # a cycle of tickets that wait for each other cannot come about in good faith
                self._apply(stuck, self._unapplied[stuck].popleft())

    def forget(self, client: int) -> None:
        """`client` has ended: what it wrote and was not applied is nobody's."""
        self._look_again_ns.pop(client, None)
        self._unapplied.pop(client, None)

    def _go_on_with(self, client: int) -> None:
        """Apply the notices of `client` up to one that depends on what another, being read just now, has yet to
        be applied.
        """
        table = self._table
        if client in self._being_read:
            return
        if table.clients.has_ended(client):
            self._unapplied.pop(client, None)
            return
        self._being_read.add(client)
        unapplied = self._unapplied[client]
        unapplied.extend(self._store.read_notice_log(client, table.rows.applied.get(client, 0)))
        use = self._store.read_use(client)
        if use is not None:
            self._note_use(client, use)
        while unapplied:
            notice = unapplied[0]
            if isinstance(notice, _OF_TICKETS) and not self._is_ready(notice.ticket):
                break
            self._apply(client, unapplied.popleft())  # nothing, if one of them was its end
        self._being_read.discard(client)
        if not unapplied:
            self._unapplied.pop(client, None)

    def _is_ready(self, ticket: int) -> bool:
        """Whether the making of `ticket` was applied, or will never come."""
        if self._table.knows_ticket(ticket):
            return True
        sender = client_of(ticket)
        self._go_on_with(sender)
        return self._table.knows_ticket(ticket) or not (sender in self._being_read or self._unapplied.get(sender))
