"""Names whose writers ended without publishing: whoever waits for one, or asks within a minute, is told at once."""

from __future__ import annotations

from typing import Final

from shmlease.core.model import AbandonedRow, LeaseRow, SegmentRow, client_of
from shmlease.core.rows import Rows
from shmlease.core.timers import Timers

__all__ = ["REMEMBERED_NS", "Abandonments"]

# How long a name is remembered: a consumer that is started just after its producer has died still learns of it.
REMEMBERED_NS: Final = 60_000_000_000
# A client that abandons one name after another costs no more memory than this.
_MOST: Final = 1024


class Abandonments:
    """What was abandoned within the last minute, and not written anew since."""

    def __init__(self, rows: Rows, timers: Timers) -> None:
        self._rows = rows
        self._timers = timers
        self._by_name = {row.name: row.lease for row in rows.abandoned.values()}
        self.news: list[str] = []
        timers.handle("abandoned", self._due, lambda entries: {e for e in entries if e[1] in rows.abandoned})
        for row in rows.abandoned.values():
            timers.at(row.at_ns + REMEMBERED_NS, "abandoned", row.lease)

    def of(self, name: str) -> AbandonedRow | None:
        """Who abandoned `name`, if that is what became of it."""
        lease = self._by_name.get(name)
        return None if lease is None else self._rows.abandoned[lease]

    def note(self, segment: SegmentRow, lease: LeaseRow, now_ns: int, *, died: bool) -> None:
        """The writer of an unpublished segment has ended its lease."""
        if segment.name is None:
            return
        self.forget(segment.name)
        pid = self._rows.clients[client_of(lease.id)].identity.pid
        self._rows.put(AbandonedRow(lease.id, segment.name, pid, lease.site, now_ns, died))
        self._by_name[segment.name] = lease.id
        self.news.append(segment.name)
        self._timers.at(now_ns + REMEMBERED_NS, "abandoned", lease.id)
        if len(self._by_name) > _MOST:
            self.forget(next(iter(self._by_name)))

    def forget(self, name: str) -> None:
        """Somebody writes `name` anew."""
        lease = self._by_name.pop(name, None)
        if lease is not None:
            self._rows.drop_abandoned(self._rows.abandoned[lease])

    def take_news(self) -> list[str]:
        """The names abandoned since this was last asked."""
        news, self.news = self.news, []
        return news

    def _due(self, lease: int, now_ns: int) -> None:
        row = self._rows.abandoned.get(lease)
        if row is not None and row.at_ns + REMEMBERED_NS <= now_ns:
            self.forget(row.name)
