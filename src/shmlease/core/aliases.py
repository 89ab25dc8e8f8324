"""Names in /dev/shm itself, which segments are given for programs that open shared memory by name."""

from __future__ import annotations

from msgspec.structs import replace

from shmlease.core import messages as m
from shmlease.core.effects import LinkAlias, UnlinkAlias
from shmlease.core.model import SegmentRow, SegmentState
from shmlease.core.names import Names
from shmlease.core.os_names import can_be_os_name, os_name_of
from shmlease.core.outbox import Outbox
from shmlease.core.preconditions import held_by, require_own_id
from shmlease.core.refusals import Refusal, not_held_refusal
from shmlease.core.rows import Rows
from shmlease.core.sizes import file_size

__all__ = ["Aliases"]


class Aliases:
    """Gives a segment its alias: one that nobody can guess, or its own name.

    The table does not know who opens it by that name, so the segment is not recycled unless the kernel says that nobody has
    it open: see `Pool`.
    """

    def __init__(self, rows: Rows, outbox: Outbox, names: Names) -> None:
        self._rows = rows
        self._outbox = outbox
        self._names = names

    def expose(self, client: int, message: m.Expose, now_ns: int) -> None:
        """A holder asks for an alias, or for the one that the segment has."""
        del now_ns
        segment = self._rows.segments[held_by(self._rows, client, message.lease).segment]
        if not segment.alias:
            segment = replace(segment, alias=os_name_of(segment, self._rows.registry), exposed=True)
            self._rows.put(segment)
        self._outbox.add(LinkAlias(segment.number, segment.alias, client, message.seq))

    def link(self, client: int, message: m.Link, now_ns: int) -> None:
        """A holder links the segment under its own name in /dev/shm, its file as large as the array; or gives that up."""
        lease = held_by(self._rows, client, message.lease)
        segment = self._rows.segments[lease.segment]
        if not message.keepers:
            self._give_up(segment, now_ns)
            return
        if segment.name is None or segment.state is not SegmentState.PUBLISHED:
            raise not_held_refusal(lease.id, "only a published segment that has its name can be linked")
        if not can_be_os_name(segment.name):
            raise not_held_refusal(lease.id, f"{segment.name!r} cannot be the name of a file in /dev/shm")
        if segment.alias not in ("", segment.name):
            raise not_held_refusal(lease.id, f"its segment is called {segment.alias} in /dev/shm already")
        for keeper, _ in message.keepers:
            require_own_id(client, keeper)
        self._names.keep(segment, message.keepers, lease.site)
        size_bytes = file_size(segment.nbytes)
        # its client links it; if that was killed before it has, no program was told of a name that is not there
        self._rows.put(replace(segment, alias=segment.name, exposed=True, size_bytes=size_bytes))

    def linked(self, effect: LinkAlias, failure: str, now_ns: int) -> None:
        """The segment has its name in /dev/shm, or, with the reason, could not get it."""
        if failure:
            refusal = Refusal(m.RefusalCode.NOT_HELD, f"segment {effect.segment} cannot be named in /dev/shm: {failure}")
            self._outbox.refuse(effect.client, effect.seq, refusal, now_ns)
        else:
            self._outbox.send(effect.client, m.Exposed(effect.seq, effect.alias))

    def _give_up(self, segment: SegmentRow, now_ns: int) -> None:
        if segment.alias and segment.alias == segment.name:
            self._rows.put(replace(segment, alias=""))
            self._outbox.add(UnlinkAlias(segment.number, segment.alias))
            self._names.stop_keeping(segment.number, now_ns)

    def restore(self, segment: SegmentRow) -> None:
        """After a takeover: a segment whose own name was withdrawn may still have it in /dev/shm."""
        if segment.alias and segment.name is None and segment.alias != os_name_of(segment, self._rows.registry):
            self._outbox.add(UnlinkAlias(segment.number, segment.alias))
