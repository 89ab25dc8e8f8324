"""The promises, checked from outside: what clients were told, what files there are, and what is in them.

It is naive on purpose and shares no code with the lease table. It knows what the public calls returned, sees segment files
come and go, and compares every array with what its writer put there. It does not know how the registry decides.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import numpy as np

from shmlease.client.lease import Lease
from shmlease.client.ticket import Ticket
from shmlease.errors import RegistryUnavailableError
from shmlease.verification import contents
from shmlease.verification.promises import Violation
from simulation.contents import Content, Holding, IssuedTicket
from simulation.scheduler import Machine, Process

__all__ = ["Oracle"]


class Oracle:
    """Watches over the promises of one registry."""

    def __init__(self, machine: Machine, path: str, capacity_bytes: int) -> None:
        self.machine = machine
        self.closing = False
        self.files: dict[int, int] = {}  # inode -> size, of segment files that have a name
        self._path = path
        self._capacity_bytes = capacity_bytes
        self._contents: dict[int, Content] = {}  # inode -> what was put there last
        self._issued: dict[int, IssuedTicket] = {}
        self._stamps = 0
        self._asking: dict[Process, str] = {}  # by what name somebody attaches, or did when it died
        self._announced: dict[int, str | None] = {}

    # --- what the file system shows --------------------------------------------------------------------------------------

    def segment_made(self, number: int, inode: int, size_bytes: int) -> None:
        """A segment file has got its size."""
        self.machine.note("made", f"s{number}", size_bytes)
        self.files[inode] = size_bytes
        self._contents.pop(inode, None)  # the kernel may use an inode number again
        used = sum(self.files.values())
        if used > self._capacity_bytes:
            self._broken(Violation.CAPACITY, f"segments of {used} bytes in all, and the capacity is {self._capacity_bytes}")

    def segment_unlinked(self, number: int, inode: int) -> None:
        """A segment file has lost its name."""
        self.machine.note("unlinked", f"s{number}")
        self.files.pop(inode, None)
        content = self._contents.get(inode)
        if content is not None and not self.closing and (use := self._use_of(content)):
            self._broken(Violation.LOST, f"s{number} was unlinked under a live use: {use}")

    def renamed(self, source: str, target: str) -> None:
        """A token that is renamed is a ticket that is redeemed."""
        name = os.path.basename(source)
        if name.startswith("t") and name[1:].isdigit():
            self.machine.note("claimed", name, os.path.basename(target))
            issued = self._issued.get(int(name[1:]))
            if issued is not None:
                if issued.redeemer is not None:
                    self._broken(
                        Violation.REDEEMED_TWICE,
                        f"{issued} was redeemed by {issued.redeemer} and then by {self._running}",
                    )
                issued.redeemer = self._running

    # --- what clients were told ------------------------------------------------------------------------------------------

    def granted(self, lease: Lease, name: str | None, stamp: int = 0) -> Holding:
        """`lease` was granted to the running process as a writer: what must it write there?"""
        inode = self._inode_of(lease)
        before = self._contents.get(inode)
        if before is not None:
            use = self._use_of(before, mapped=True)
            if use:
                self._broken(
                    Violation.REUSED,
                    f"s{lease._grant.segment} was granted to {self._running} though in use: {use}",
                )
            if before.disturbed:
                self._broken(Violation.REUSED, f"s{lease._grant.segment} was used again though {before.disturbed}")
            for issued in before.tickets:
                if issued.redeemer is None:
                    self._broken(
                        Violation.REUSED, f"s{lease._grant.segment} was used again though {issued} was never redeemed"
                    )
        return Holding(self._begin(lease, inode, stamp or self._next_stamp(), name), self._running)

    def announce(self, name: str | None) -> int:
        """What the running process is about to share: others may read it before `share` has returned."""
        stamp = self._next_stamp()
        self._announced[stamp] = name
        return stamp

    def shared(self, lease: Lease, stamp: int) -> Holding:
        """`share` has returned."""
        content = self._contents.get(self._inode_of(lease))
        if content is not None and content.stamp == stamp:
            holding = Holding(content, self._running)
        else:
            holding = self.granted(lease, self._announced[stamp], stamp)
        holding.content.published = holding.content.is_said = True
        return holding

    def attached(self, lease: Lease, name: str | None, asked_ns: int | None = None) -> Holding:
        """`lease` was granted to the running process as a reader, who asked for `name` at that time, or otherwise."""
        inode = self._inode_of(lease)
        content = self._contents.get(inode)
        stamp = contents.stamp_of(lease.array)
        if (content is None or content.stamp != stamp) and stamp in self._announced:
            content = self._begin(lease, inode, stamp, self._announced[stamp])
            content.published = True
        self.machine.note("reads", content)
        if content is None or not content.published:
            self._broken(
                Violation.WRONG_READ,
                f"{self._running} reads s{lease._grant.segment}, where nothing was published: {content}",
            )
        if content.name != name:
            self._broken(Violation.WRONG_READ, f"{self._running} asked for {name!r} and got {content}")
        if asked_ns is not None and content.nameless_since_ns is not None and content.nameless_since_ns < asked_ns:
            self._broken(Violation.WRONG_READ, f"{self._running} got {content}, whose name was withdrawn before it asked")
        return Holding(content, self._running)

    def redeemed(self, lease: Lease, issued: IssuedTicket) -> Holding:
        """`lease` was granted for `issued`."""
        holding = self.attached(lease, issued.content.name)
        if holding.content is not issued.content:
            self._broken(Violation.WRONG_READ, f"{issued} gave {holding.content}")
        if issued.used or issued.redeemer is not self._running:
            self._broken(Violation.REDEEMED_TWICE, f"{issued} was redeemed before")
        issued.used = True
        return holding

    def attached_at(self, lease: Lease, content: Content) -> Holding:
        """`lease` was granted for the address of `content`."""
        holding = self.attached(lease, content.name)
        if holding.content is not content:
            self._broken(Violation.WRONG_READ, f"the address of {content} gave {holding.content}")
        return holding

    def minted(self, holding: Holding, ticket: Ticket, receiver: Process | None) -> IssuedTicket:
        """The running process was given `ticket`, perhaps for one `receiver`."""
        issued = self._issued[ticket.id] = IssuedTicket(holding.content, ticket, receiver)
        holding.content.is_said = True
        holding.content.tickets.append(issued)
        self.machine.note("minted", issued)
        return issued

    def granted_mutable(self, lease: Lease) -> Holding:
        """`lease` was granted on a segment that all its holders may write."""
        if lease.array.any():
            self._broken(Violation.WRONG_READ, f"s{lease._grant.segment} was granted as mutable, and is not zeroed")
        holding = self.granted(lease, None)
        holding.content.is_mutable = holding.content.published = holding.content.is_said = True
        return holding

    def rewrites(self, holding: Holding) -> int:
        """The running process is about to overwrite what all holders see: with what?"""
        holding.content.stamp = self._next_stamp()
        return holding.content.stamp

    def withdraws(self, content: Content) -> None:
        """The name of `content`, and of what others may have published under it since, is about to be withdrawn."""
        for other in self._contents.values():
            if other.name == content.name:
                other.has_name = other.readers_certain = False

    def withdrawn(self, content: Content) -> None:
        """The name of `content` was withdrawn."""
        content.nameless_since_ns = self.machine.now_ns()

    def revoked(self, issued: IssuedTicket, was_good: bool, is_revoked: bool) -> None:
        """`revoke` has returned."""
        if is_revoked:
            if issued.used or issued.redeemer is not self._running:
                self._broken(Violation.REDEEMED_TWICE, f"{issued} was taken back, and had been redeemed")
            issued.used = True
        elif was_good and issued.redeemer is None:
            self.not_redeemed(issued, was_good)

    def published(self, holding: Holding, readers: int, ttl_ns: int) -> None:
        """`publish` is about to be called."""
        content = holding.content
        content.published = True
        if readers:
            # until the call returns, and after somebody attached, how many are still to come is the registry's to know
            content.readers, content.readers_certain = 0, content.has_name and content.name not in self._asking.values()
            content.readers_deadline_ns = self.machine.now_ns() + ttl_ns

    def expects(self, holding: Holding, readers: int) -> None:
        """`publish` has returned."""
        holding.content.is_said = True
        if readers:
            holding.content.readers = readers

    def looks(self, holding: Holding, array: np.ndarray[Any, Any]) -> None:
        """The running process reads its array."""
        wrong = contents.flaw(array, holding.content.stamp)
        if wrong:
            self._broken(Violation.WRONG_READ, f"{holding} reads another's content, or none: {wrong}")

    # --- what clients were refused ---------------------------------------------------------------------------------------

    def find(self, name: str) -> Content | None:
        """A content of that name that is published for certain, and in use."""
        for content in self._contents.values():
            if (
                content.name == name
                and content.has_name
                and content.is_said
                and any(holding.counts for holding in content.holdings)
            ):
                return content
        return None

    def answered(self) -> None:
        """The running process has its answer to `attach`."""
        self._asking.pop(self._running, None)

    def asked_for(self, name: str) -> None:
        """The running process attaches by name: how many readers are still to come is not certain any more."""
        self._asking[self._running] = name
        for content in self._contents.values():
            if content.name == name:
                content.readers_certain = False

    def lost_in_fork(self, parent: Holding) -> None:
        """A child was refused a lease of its own, and its parent has the one it inherited from."""
        self._broken(Violation.LOST, f"a child could not inherit what {parent} holds")

    def counting(self, content: Content | None) -> list[Holding]:
        """Who relies on `content` now."""
        return [] if content is None else [holding for holding in content.holdings if holding.counts]

    def not_found(self, wanted: str, before: Content | None, counting: list[Holding]) -> None:
        """`attach` said that nothing of that kind was published; `before` and `counting` are of when it was called."""
        if before is not None and not self.closing and any(holding.counts for holding in counting):
            self._broken(
                Violation.LOST_PUBLICATION,
                f"{self._running} could not attach {wanted} though {before} was published and held",
            )

    def not_redeemed(self, issued: IssuedTicket, was_good: bool) -> None:
        """`redeem` refused."""
        if self.closing:
            return
        if was_good and issued.is_good(self.machine.now_ns()) and issued.redeemer in (None, self._running):
            self._broken(
                Violation.LOST_PUBLICATION,
                f"{issued} was refused though it is good for {issued.ticket.deadline_ns - self.machine.now_ns()} ns",
            )

    # --- at the end ------------------------------------------------------------------------------------------------------

    def in_use(self) -> list[str]:
        """What is used by somebody, in words."""
        return [use for content in self._contents.values() if (use := self._use_of(content, mapped=True))]

    # --- parts -------------------------------------------------------------------------------------------------------

    @property
    def _running(self) -> Process:
        return self.machine.current.process

    def _use_of(self, content: Content, *, mapped: bool = False) -> str:
        now_ns = self.machine.now_ns()
        for holding in content.holdings:
            if holding.counts or (mapped and holding.maps):
                return repr(holding)
        for issued in content.tickets:
            if issued.is_good(now_ns):
                return repr(issued)
        if content.readers and content.readers_certain and now_ns < content.readers_deadline_ns:
            return f"{content.readers} readers expected on {content}"
        return ""

    def _next_stamp(self) -> int:
        self._stamps += 1
        return self._stamps

    def _begin(self, lease: Lease, inode: int, stamp: int, name: str | None) -> Content:
        content = self._contents[inode] = Content(lease._grant.segment, inode, stamp, name)
        self.machine.note("granted", content)
        return content

    def _inode_of(self, lease: Lease) -> int:
        mapping = lease._require_held().mapping
        if mapping.size_bytes < lease.nbytes:
            self._broken(
                Violation.CAPACITY,
                f"s{lease._grant.segment} is mapped with {mapping.size_bytes} bytes for an array of {lease.nbytes}",
            )
        try:
            return os.stat(f"{self._path}/s{lease._grant.segment}").st_ino
        except FileNotFoundError:
            if self.closing:
                raise RegistryUnavailableError("the registry is being closed") from None
            self._broken(
                Violation.LOST,
                f"{self._running} was given a lease on s{lease._grant.segment}, which has no file",
            )

    def _broken(self, how: Violation, what: str) -> NoReturn:
        self.machine.fail(f"promise broken: {how}: {what}")
