"""Names in /dev/shm itself, which segments are given for programs that open shared memory by name."""

from __future__ import annotations

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import LinkAlias
from shmlease.core.os_names import os_name_of
from shmlease.core.outbox import Outbox
from shmlease.core.preconditions import held_by
from shmlease.core.refusals import Refusal
from shmlease.core.rows import Rows

__all__ = ["Aliases"]


class Aliases:
    """Gives a segment its alias; whoever opens it by that name is unknown to the table, so the segment is never
    recycled.
    """

    def __init__(self, rows: Rows, outbox: Outbox) -> None:
        self._rows = rows
        self._outbox = outbox

    def expose(self, client: int, message: m.Expose, now_ns: int) -> None:
        """A holder asks for an alias, or for the one that the segment has."""
        del now_ns
        segment = self._rows.segments[held_by(self._rows, client, message.lease).segment]
        if not segment.alias:
            segment = replace(segment, alias=os_name_of(segment, self._rows.registry), exposed=True)
            self._rows.put(segment)
        self._outbox.add(LinkAlias(segment.number, segment.alias, client, message.seq))

    def linked(self, effect: LinkAlias, failure: str, now_ns: int) -> None:
        """The segment has its name in /dev/shm, or, with the reason, could not get it."""
        if failure:
            refusal = Refusal(m.RefusalCode.NOT_HELD, f"segment {effect.segment} cannot be named in /dev/shm: {failure}")
            self._outbox.refuse(effect.client, effect.seq, refusal, now_ns)
        else:
            self._outbox.send(effect.client, m.Exposed(effect.seq, effect.alias))
