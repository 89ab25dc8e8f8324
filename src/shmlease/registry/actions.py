"""Carries out what the table has decided, on files and connections, and reports to it what came of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from shmlease.core.effects import (
    CreateSegment,
    DropClient,
    DropToken,
    Effect,
    LinkAlias,
    RetireSegment,
    RevokeSpare,
    Stop,
    UnlinkAlias,
    UnwatchReceiver,
    VoidToken,
    WatchReceiver,
)
from shmlease.core.model import LeaseState
from shmlease.core.table import Table
from shmlease.registry.interfaces import Store, Transport
from shmlease.registry.unreserved_bytes import UnreservedBytes
from shmlease.system.clock import Clock
from shmlease.system.shm_shortage import explained
from shmlease.units import format_bytes

__all__ = ["Actions"]

# What is short now and may be there in a moment; anything else that a file cannot be made for will be so in a moment, too.
_PASSING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.EEXIST}
)


class Actions:
    """One action for each kind of effect but `Send`, of which many share a packet.

    Parameters
    ----------
    forget_client : callable
        Told of each client that has ended.
    """

    def __init__(
        self, table: Table, store: Store, transport: Transport, clock: Clock, forget_client: Callable[[int], None]
    ) -> None:
        self._table = table
        self._store = store
        self._transport = transport
        self._clock = clock
        self._forget_client = forget_client
        self._unreserved = UnreservedBytes(store.unreserved_bytes)
        self._of: dict[type, Callable[[Any], None]] = {
            CreateSegment: self._create,
            RevokeSpare: self._revoke,
            VoidToken: self._void,
            LinkAlias: self._link,
            UnlinkAlias: self._unlink,
            RetireSegment: self.retire,
            WatchReceiver: self._watch_receiver,
            UnwatchReceiver: lambda effect: self._transport.unwatch_receiver(effect.ticket),
            DropToken: lambda effect: self._store.drop_token(effect.ticket, effect.client),
            DropClient: self._drop_client,
            Stop: lambda _: self._transport.stop(),
        }

    def carry_out(self, effect: Effect) -> None:
        """Do what `effect` says."""
        self._of[type(effect)](effect)

    def measure_room(self) -> None:
        """Tell the table what /dev/shm has left beside what is reserved, as exactly as can be."""
        self._unreserved.look_at_all()
        self._note_room()

    def retire(self, effect: RetireSegment) -> None:
        """Unlink a segment, or make another of it."""
        self._unreserved.discard(effect.segment)
        failure, into = "", effect.recycled_as
        if not into or not self._store.recycle_segment(effect.segment, effect.alias, effect.size_bytes, into):
            into = 0
            try:
                self._store.retire_segment(effect.segment, effect.alias, punch=effect.punch)
            except OSError as error:
                failure = str(error)
        self._table.segment_retired(effect.segment, failure, self._clock.now_ns(), into)

    def _create(self, effect: CreateSegment) -> None:
        store, table, now_ns = self._store, self._table, self._clock.now_ns()
        self._note_room()
        if effect.size_bytes > table.shm_free_bytes:
            self.measure_room()
        if effect.size_bytes > table.shm_free_bytes:
            table.segment_failed(effect.segment, self._no_room(), table.shm_free_bytes, now_ns)
            return
        try:
            store.create_segment(effect.segment, effect.size_bytes)
        except FileNotFoundError:  # somebody has removed the directory: there is nothing to serve any more
            self._transport.stop()
            return
        except OSError as error:
            reason = self._no_room() if error.errno == errno.ENOSPC else explained(error, "the registry process")
            passes = error.errno in _PASSING
            table.segment_failed(effect.segment, reason, store.free_bytes(), now_ns, passes=passes)
            return
        self._unreserved.add(effect.segment, effect.size_bytes)
        table.segment_created(effect.segment, now_ns)

    def _note_room(self) -> None:
        self._table.shm_free_bytes = max(self._store.free_bytes() - self._unreserved.total_bytes, 0)

    def _no_room(self) -> str:
        free = format_bytes(self._table.shm_free_bytes)
        return (
            f"/dev/shm has not enough room, {free} free there; free some of it, which `shmlease audit` lists, or enlarge "
            "the mount"
        )

    def _revoke(self, effect: RevokeSpare) -> None:
        lease = self._table.rows.leases.get(effect.lease)
        is_spare = lease is not None and lease.state is LeaseState.RESERVED  # else it may be another's by now
        revoked = is_spare and self._store.revoke_spare(effect.segment, effect.generation)
        self._table.spare_revoked(effect, revoked, self._clock.now_ns())

    def _void(self, effect: VoidToken) -> None:
        self._table.token_voided(effect.ticket, self._store.void_token(effect.ticket), self._clock.now_ns())

    def _link(self, effect: LinkAlias) -> None:
        failure = ""
        try:
            self._store.link_alias(effect.segment, effect.alias)
        except OSError as error:
            failure = str(error)
        self._table.aliases.linked(effect, failure, self._clock.now_ns())

    def _unlink(self, effect: UnlinkAlias) -> None:
        try:
            self._store.unlink_alias(effect.segment, effect.alias)
        except OSError:
            pass  # it is tried again when the segment is unlinked

    def _watch_receiver(self, effect: WatchReceiver) -> None:
        if not self._transport.watch_receiver(effect.ticket, effect.receiver):
            self._table.receiver_ended(effect.ticket, self._clock.now_ns())

    def _drop_client(self, effect: DropClient) -> None:
        self._forget_client(effect.client)
        self._transport.drop(effect.client)
        self._store.drop_notice_log(effect.client)
