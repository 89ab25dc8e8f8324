"""What a call has taken on, and how that ends: the records behind the leases that a user has.

A call that takes something first makes its record. When the lease has ended, or when an exception has ended the call
half-way, the record becomes one of the link's loose ends, and whoever next uses the link settles it. `settle` may itself be
interrupted, and is then called again, so each step of it is one that can be repeated.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from shmlease.client.arrays import Anchor
from shmlease.system.forks import notice_fork
from shmlease.system.mapping import Mapping

if TYPE_CHECKING:
    from shmlease.client.lease import Lease
    from shmlease.client.link import Link
    from shmlease.client.redemption import Redemption

__all__ = ["Hold", "Watch", "held", "held_leases"]


class Hold:
    """A lease of this process, from before it is asked for until its release is queued.

    Attributes
    ----------
    seq : int
        Number of the request that is to be answered; 0 if there is none.
    lease : int
        Id of the lease that is held; 0 if there is none.
    segment : int
        What it is on.
    mapping : Mapping, optional
        Where the segment is mapped.
    anchor : weakref.ref, optional
        The base of all arrays: alive as long as the lease object or a view. A `Watch` where its death is to be seen to.
    redemption : Redemption, optional
        The ticket that is being redeemed.
    is_exposed : bool
        Something the registry does not know may map the segment: its mapping is not kept for reuse.
    is_detached : bool
        The array carries the lease: that views of it live on is as it should be.
    site : str
        Where the lease was taken.
    is_unsure : bool
        The registry may have ended the lease already.
    """

    seq = 0
    lease = 0
    segment = 0
    mapping: Mapping | None = None
    anchor: weakref.ref[Anchor] | None = None
    redemption: Redemption | None = None
    is_exposed = False
    is_unsure = False
    is_lingering = False
    is_detached = False
    site = ""

    def __init__(self, link: Link) -> None:
        notice_fork()  # else the session is the parent's
        self.link = link
        self.session = link.session

    @property
    def is_ours(self) -> bool:
        """Whether it is this process's, not one inherited through a fork."""
        return self.session is self.link.session

    def redeemed(self) -> None:
        """The ticket's token is ours; queue the notice that says so."""
        redemption = self.redemption
        if redemption is not None and redemption.claimed:
            self.redemption = None
            self.lease = redemption.lease
            self.session.outbox.append(redemption.notice)

    def settle(self) -> None:
        """The lease, or the call that was to take it, has ended: queue what the registry must know. The link's lock is
        held.
        """
        if self.session is not self.link.session:
            return
        if self.seq:
            self.link.abandon(self.seq)
            self.seq = 0
        if self.redemption is not None:
            self.redeemed()
        if not self.lease:
            return
        anchor = None if self.anchor is None else self.anchor()
        if anchor is not None:
            self._linger(anchor)
            return
        is_reserved = self.mapping is not None  # what could not be reserved was not mapped
        if self.mapping is not None:
            if self.is_exposed:  # never used again, and its pages live as long as any mapping
                self.mapping = None
            else:
                self.link.mappings.give_back(self)
        lease, release = self.lease, self.session.release_of(self.lease, reserved=is_reserved, unsure=self.is_unsure)
        self.link.loose_ends.lingering.pop(lease, None)
        held.pop(self, None)
        self.lease, self.anchor = 0, None
        self.session.outbox.append(release)

    def _linger(self, anchor: Anchor) -> None:
        """Views are alive: say so, and be told when the last one dies."""
        if not self.is_lingering:
            self.link.loose_ends.attend(self.link.settle)
            self.anchor = self.link.loose_ends.watch(anchor, self)
            told = self.session.detach_of if self.is_detached else self.session.linger_of
            linger = told(self.lease)
            self.link.loose_ends.lingering[self.lease] = self
            self.is_lingering = True
            self.session.outbox.append(linger)


class Watch(weakref.ref[Anchor]):
    """Tells when the lease object is lost, or the last view dies of one that has ended.

    Python drops what a signal handler raises in a callback, so the callback is a function written in C, during which no
    handler runs: the watch is put into a queue.
    """

    __slots__ = ("hold",)
    hold: Hold

    def settle(self) -> None:
        """Nothing can look at the segment any more."""
        self.hold.settle()


# Leases of this process that have not ended, by what is behind each; weak, so that a lost one is collected, and warns. Not
# a WeakSet, which runs Python code when one of its members dies.
held: Final[dict[Hold, weakref.ref[Lease[Any]]]] = {}


def held_leases() -> list[Lease[Any]]:
    """The leases that this process holds now."""
    leases = [(hold, reference()) for hold, reference in list(held.items())]
    return [lease for hold, lease in leases if lease is not None and lease.held and hold.is_ours]
