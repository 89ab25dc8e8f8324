"""What a call has taken on, and how that ends: the records behind the leases that a user has.

A call that takes something first makes its record. When the lease has ended, or when an exception has ended the call
half-way, the record becomes one of the link's loose ends, and whoever next uses the link settles it. `settle` may itself be
interrupted, and is then called again, so each step of it is one that can be repeated.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from shmlease.client.arrays import Anchor
from shmlease.core import messages as m
from shmlease.core.claims import Claim, Kept, Said
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
    kept : Kept, optional
        The spare that it is on, if no notice has told of that.
    is_in_use : bool
        What is kept in shared memory says that this spare is in use.
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
    kept: Kept | None = None
    is_in_use = False
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
        if self.kept is not None:
            if anchor is None and self._keep():
                return
            self._tell()
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

    def begin_use(self, kept: Kept, said: Said) -> bool:
        """Say in shared memory that the spare `kept` is in use from now on, as `said`; the link's lock is held.

        Whether the registry must be rung, which may not look there by itself. What is too long to be said there becomes a
        notice.
        """
        channel = self.link.channel
        notice_log = channel.notice_log
        assert notice_log is not None  # since the link was first ready
        if kept.said != said:
            if not notice_log.describe(m.Claim(1, self.lease, *said, False)):
                self._tell()
                self.session.outbox.append(self.session.claim_of(self.lease, said, again=False))
                return True
            kept.said = said
        begun = notice_log.use_begun(self.lease)
        self.is_in_use = True  # no call between the two: what is in use is known to be
        notice_log.store(notice_log.record_place, begun)
        return channel.is_ring_due()

    def tell(self) -> None:
        """Have a notice say what only shared memory says so far: from here on others may have a part of the segment."""
        if self.kept is not None:
            with self.link.lock:
                self._tell()
                self.session.spares_taken = 0  # keeping them saves nothing if the registry has to be told anyway

    def _tell(self) -> None:
        """The link's lock is held. Nothing comes between the changes, not even a signal handler."""
        kept, session = self.kept, self.session
        if kept is None:
            return
        claim, lease = Claim(kept.token), self.lease
        notice = session.claim_of(lease, kept.said, again=True, unsure=self.is_unsure)
        is_in_use, self.is_in_use = self.is_in_use, False
        session.claims[lease] = claim
        self.kept = session.kept = None
        if is_in_use:
            session.outbox.append(notice)

    def _keep(self) -> bool:
        """Keep the spare for the next lease, without a notice; False if that cannot be.

        Now and then it is given back all the same: somebody may wait for room, and the registry has others in line.
        """
        kept, link, channel = self.kept, self.link, self.link.channel
        notice_log = channel.notice_log
        if kept is None or notice_log is None or not self.is_in_use or self.is_exposed or self.mapping is None:
            return False
        if not channel.is_ready or channel.is_ring_due():
            return False
        self.is_unsure = True  # it can be revoked from here on
        if not link.endpoint.let_go(kept.spare.generation, kept.token):
            return False
        link.mappings.give_back(self)
        ended = notice_log.use_ended(self.lease)
        if kept.spare.fresh:
            kept.spare = replace(kept.spare, fresh=False)
        held.pop(self, None)
        if not self.is_in_use:  # a signal handler has forked meanwhile
            return False
        # no call between these: it is in use, or kept
        self.is_in_use = kept.is_taken = False
        self.kept = self.anchor = None
        self.lease = 0
        notice_log.store(notice_log.record_place, ended)
        return True

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
