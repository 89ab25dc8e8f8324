"""What simulated clients do: everything that the public interface offers, in any order, until they are told to rest."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from shmlease.client.handle import RegistryHandle
from shmlease.client.lease import Lease
from shmlease.core import messages as m
from shmlease.errors import (
    AbandonedError,
    CapacityError,
    LeaseClosedError,
    LeaseError,
    RegistryFaultError,
    RegistryUnavailableError,
    SegmentNotFoundError,
    TicketError,
)
from shmlease.system.mapping import map_segment
from shmlease.verification import contents
from shmlease.verification.operations import Call
from shmlease.verification.promises import REFUSALS
from simulation.contents import Holding
from simulation.scheduler import Killed, Process
from simulation.world import World

__all__ = ["Client"]

WORDS_A_PAGE: Final = 512
_NAMES: Final = ("north", "south", "west")
_MOST_HELD: Final = 5
# A ticket that expires within this is now and then redeemed just before.
_LAST_MOMENT_NS: Final = 25_000_000


@dataclasses.dataclass(slots=True, eq=False)
class _Held:
    lease: Lease
    holding: Holding
    view: np.ndarray[Any, Any] | None = None

    @property
    def is_being_written(self) -> bool:
        """Whether it is its writer's, and not sealed."""
        return self.lease._is_writer and self.lease.writable

    @property
    def is_shared_in_writing(self) -> bool:
        """Whether others see what is written from now on."""
        return self.holding.content.is_mutable and self.lease.writable


class Client:
    """One process that uses the registry."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.machine = world.machine
        self.oracle = world.oracle
        self.random = world.machine.random
        self.held: list[_Held] = []
        self.views: list[_Held] = []
        self.link = world.link(process)
        self.handle = RegistryHandle(self.link, "ignore")

    def live(self) -> None:
        """Do one thing after another; then let go of everything and rest."""
        while not self.world.calm:
            act, call = self.random.choices(_ACTS, _WEIGHTS)[0]
            self.machine.note(act.__name__)
            with self._excused(call), contextlib.suppress(KeyboardInterrupt):
                act(self)
            if not self.process.alive:  # killed in a callback of the collector, which swallows that
                raise Killed
            if self.link.ended:
                self.inspect()  # what is mapped stays valid until it is let go
                return
        self.rest()

    def rest(self) -> None:
        """Let go of everything; then leave, or stay and do nothing."""
        while self.held or self.views:
            self.drop_view()
            self.release()
        if not self.link.ended:
            self.handle.statistics()  # what was answered to a call that was interrupted is taken in with the next
        self.world.resting.add(self.process)
        if self.random.getrandbits(1):
            self.link.close()
        else:
            self.machine.wait(lambda: self.world.over)

    # --- taking ----------------------------------------------------------------------------------------------------------

    def lease(self) -> None:
        """Lease a new segment and fill it."""
        if not self._may_take():
            return
        name = self.random.choice((None, None, None, *_NAMES))
        pages, timeout_s = self.random.choice((1, 1, 1, 2, 4, 5)), self.random.choice((0.0, 0.005, 0.05, 0.4))
        lease = self.handle.lease(name, shape=pages * WORDS_A_PAGE, dtype=np.uint64, timeout=timeout_s)
        self._keep(lease, self.oracle.granted(lease, name), write=True)

    def lease_in_turn(self) -> None:
        """Lease one small segment after another, each released before the next, and go on with the last."""
        if not self._may_take():
            return
        for _ in range(self.random.randrange(2, 12)):
            lease = self.handle.lease(shape=WORDS_A_PAGE, dtype=np.uint64, timeout=0.02)
            holding = self.oracle.granted(lease, None)
            contents.write(lease.array, holding.content.stamp)
            self.oracle.looks(holding, lease.array)
            if not self.random.randrange(8):
                break
            holding.end()
            lease.release()
        else:
            return
        self._keep(lease, holding)

    def lease_mutable(self) -> None:
        """Lease a segment that all its holders may write."""
        if self._may_take():
            lease = self.handle.lease(shape=WORDS_A_PAGE, dtype=np.uint64, timeout=0.05, mutable=True)
            self._keep(lease, self.oracle.granted_mutable(lease), write=True)

    def share(self) -> None:
        """Lease, fill and publish in one."""
        if not self._may_take():
            return
        name = self.random.choice((None, None, *_NAMES))
        stamp = self.oracle.announce(name)
        lease = self.handle.share(contents.array_of(stamp, WORDS_A_PAGE), name, timeout=0.02)
        self.held.append(_Held(lease, self.oracle.shared(lease, stamp)))

    def attach(self) -> None:
        """Read by name."""
        if not self._may_take():
            return
        name, timeout_s = self.random.choice(_NAMES), self.random.choice((0.0, 0.002, 0.05, 0.3))
        before, asked_ns = self.oracle.find(name), self.machine.now_ns()
        counting = self.oracle.counting(before)
        self.oracle.asked_for(name)
        try:
            lease = self.handle.attach(name, timeout=timeout_s)
        except (SegmentNotFoundError, AbandonedError):
            self.oracle.answered()
            if before is not None and before.has_name:  # else somebody has begun to withdraw it meanwhile
                self.oracle.not_found(repr(name), before, counting)
        else:
            self.oracle.answered()
            self._keep(lease, self.oracle.attached(lease, name, asked_ns))

    def attach_at(self) -> None:
        """Attach by an address, perhaps of what is no more."""
        if not self.world.addresses or not self._may_take():
            return
        address, content = self.random.choice(self.world.addresses)
        counting = self.oracle.counting(content)
        try:
            lease = self.handle.attach(address, mode="r+" if content.is_mutable else self.random.choice(("r", "c")))
        except SegmentNotFoundError:
            self.oracle.not_found(repr(address), content, counting)
        else:
            self._keep(lease, self.oracle.attached_at(lease, content))

    def redeem(self) -> None:
        """Redeem a ticket that somebody made, perhaps one that was redeemed before, perhaps at the last moment."""
        if not self.world.mailbox or not self._may_take():
            return
        issued = self.random.choice(self.world.mailbox)
        left_ns = issued.ticket.deadline_ns - self.machine.now_ns()
        if 0 < left_ns < _LAST_MOMENT_NS and self.random.getrandbits(1):
            self.machine.wait_s(max(left_ns - self.random.randrange(60_000), 0) / 1e9)
        was_good = issued.is_good(self.machine.now_ns())
        try:
            lease = self.handle.redeem(issued.ticket)
        except TicketError:
            self.oracle.not_redeemed(issued, was_good)
            self.world.mailbox = [other for other in self.world.mailbox if other is not issued]
        except (KeyboardInterrupt, RegistryUnavailableError):
            if issued.redeemer is self.process:  # claimed, and not said: that ends with the process that gives up
                self.leave()
            raise
        else:
            self._keep(lease, self.oracle.redeemed(lease, issued))

    def revoke(self) -> None:
        """Take back a ticket that somebody made."""
        if self.world.mailbox:
            issued = self.random.choice(self.world.mailbox)
            was_good = issued.is_good(self.machine.now_ns())
            issued.revokers.add(self.process)
            self.oracle.revoked(issued, was_good, self.handle.revoke(issued.ticket))

    def fork(self) -> None:
        """Let a child take a lease of its own on what this process holds."""
        if not self.held or self.world.calm or self.oracle.closing:
            return
        for held in self.held:
            held.lease._hold.tell()
            self.link.send(lambda seq, lease=held.lease._hold.lease: m.Share(seq, lease))  # type: ignore[misc]
        held = self.random.choice(self.held)
        lease = held.lease
        grant = lease._grant
        descriptor = os.open(self.world.directory().segment_path(grant.segment), os.O_RDWR)
        mapping = map_segment(descriptor, grant.size_bytes, writable=lease._is_writer or lease._writable)
        os.close(descriptor)
        process = self.machine.process(f"child of {self.process.name}", self.world.life())
        child = Client(self.world, process)
        inherited = Lease(child.link, "ignore", "")
        inherited._fill(grant, mapping, is_writer=lease._is_writer, writable=mapping.writable)
        inherited._hold.session, inherited._hold.lease = self.link.session, lease._hold.lease  # its parent's
        inherited._writable = lease._writable
        shadow = Holding(held.holding.content, process, counts=False)
        parent = held.holding

        def body() -> None:
            child.inherit(inherited, shadow, parent)
            child.live()

        self.machine.start(process, body)

    def inherit(self, inherited: Lease, shadow: Holding, parent: Holding) -> None:
        """In a forked child: use what the parent holds, which takes a lease of its own."""
        with self._excused(), contextlib.suppress(KeyboardInterrupt):
            try:
                inherited.array  # noqa: B018 - asking is what takes it
            except LeaseClosedError:
                if parent.counts and not self.world.calm:
                    self.oracle.lost_in_fork(parent)
            else:
                shadow.counts = True
                self.held.append(_Held(inherited, shadow))
                if parent.content.published:
                    self.oracle.looks(shadow, inherited.array)
                return
        shadow.end()

    # --- using -----------------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Publish, with or without readers to come."""
        held = self._any(lambda held: held.is_being_written)
        if held is not None:
            readers, ttl_s = self.random.choice((0, 0, 1, 2)), self.random.choice((0.005, 0.1))
            self.oracle.published(held.holding, readers, int(ttl_s * 1e9))
            held.lease.publish(readers=readers, ttl=ttl_s)
            self.oracle.expects(held.holding, readers)

    def ticket(self) -> None:
        """Make a ticket and put it where others find it."""
        held = self._any()
        if held is not None:
            held.holding.content.published = True
            receiver = self.random.choice([None, *self.world.links]) if self.random.getrandbits(1) else None
            to = None if receiver is None else receiver.identity.pid
            try:
                ticket = held.lease.ticket(ttl=self.random.choice((0.002, 0.02, 0.3)), to=to)
            except TicketError:
                if receiver is None or receiver.alive:
                    raise
                return
            self.world.mailbox.append(self.oracle.minted(held.holding, ticket, receiver))
            del self.world.mailbox[:-12]

    def address(self) -> None:
        """Tell others where something lies."""
        held = self._any()
        if held is not None:
            held.holding.content.published = True
            self.world.addresses.append((held.lease.address(), held.holding.content))
            held.holding.content.is_said = True
            del self.world.addresses[:-12]

    def withdraw(self) -> None:
        """Make the name of something free again."""
        held = self._any()
        if held is not None and held.holding.content.name is not None:
            content = held.holding.content
            self.oracle.withdraws(content)
            with contextlib.suppress(SegmentNotFoundError):  # it was withdrawn before
                self.handle.withdraw(content.name)
            self.oracle.withdrawn(content)

    def rewrite(self) -> None:
        """Write what all holders see."""
        held = self._any(lambda held: held.is_shared_in_writing)
        if held is not None:
            contents.write(held.lease.array, self.oracle.rewrites(held.holding))

    def inspect(self) -> None:
        """Look at everything that can be seen."""
        for held in self.held:
            self.oracle.looks(held.holding, held.lease.array)
        for held in self.views:
            if held.view is not None:
                self.oracle.looks(held.holding, held.view)

    def expose(self) -> None:
        """Ask for a name in /dev/shm."""
        held = self._any()
        if held is not None:
            held.lease.segment  # noqa: B018 - asking is what gives it the name

    def figures(self) -> None:
        """Ask for the figures, or for room."""
        if self.random.getrandbits(1):
            self.handle.statistics()
        else:
            self.handle.trim()

    def pause(self) -> None:
        """Do nothing for a while."""
        self.machine.wait_s(self.random.choice((0.0005, 0.005, 0.03)))

    # --- letting go ---------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Release a lease, now and then with a view of it alive."""
        held = self._any()
        if held is None:
            return
        self.held.remove(held)
        self.oracle.looks(held.holding, held.lease.array)
        if not self.random.getrandbits(2):
            held.view = held.lease.array[...]
            self.views.append(held)
            held.lease.release()
        else:
            held.holding.end()
            held.lease.release()

    def detach(self) -> None:
        """Let an array carry its lease."""
        held = self._any(lambda held: held.is_shared_in_writing or not held.is_being_written)
        if held is not None:
            self.held.remove(held)
            self.views.append(held)
            try:
                held.view = held.lease.detach()
            except BaseException:  # interrupted: the array is lost
                self.views.remove(held)
                held.holding.end()
                raise

    def drop_view(self) -> None:
        """Let the last view of a released lease, or a detached array, die."""
        if self.views:
            held = self.views.pop(self.random.randrange(len(self.views)))
            assert held.view is not None
            self.oracle.looks(held.holding, held.view)
            held.holding.end()
            held.view = None

    def leave(self) -> None:
        """End this process in order or without a word, with whatever it has."""
        try:
            if self.random.getrandbits(1):
                for held in (*self.held, *self.views):
                    held.holding.counts = False
                self.link.close()
        finally:  # interrupted or not, the process ends
            self.machine.kill(self.process)
            self.machine.step()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _may_take(self) -> bool:
        if len(self.held) + len(self.views) < _MOST_HELD:
            return True
        if self.views and self.random.getrandbits(1):
            self.drop_view()
        else:
            self.release()
        return False

    def _keep(self, lease: Lease, holding: Holding, *, write: bool = False) -> None:
        if write:
            contents.write(lease.array, holding.content.stamp)
        else:
            self.oracle.looks(holding, lease.array)
        self.held.append(_Held(lease, holding))

    def _any(self, fits: Callable[[_Held], bool] = lambda _: True) -> _Held | None:
        fitting = [held for held in self.held if fits(held)]
        return self.random.choice(fitting) if fitting else None

    @contextlib.contextmanager
    def _excused(self, call: Call | None = None) -> Iterator[None]:
        """Errors that may come: refusals of `call`, and that the registry cannot be reached when there is a reason for
        that.
        """
        try:
            yield
        except LeaseError as error:
            if not self.process.alive:
                raise Killed from None
            if isinstance(error, RegistryFaultError) and "left no traceback" in error.message:
                pass  # two registries were killed while they had it in hand
            elif isinstance(error, RegistryUnavailableError):
                if not self.world.excuses():
                    self.machine.fail(error)
            # a successor is joined anew, for which a full /dev/shm has no room
            elif not isinstance(error, (*(REFUSALS.get(call, ()) if call else ()), CapacityError)):
                raise


_CHANCES: Final[dict[tuple[Callable[[Client], None], Call | None], int]] = {
    (Client.lease, Call.LEASE): 16,
    (Client.share, Call.SHARE): 4,
    (Client.attach, Call.ATTACH): 8,
    (Client.redeem, Call.REDEEM): 14,
    (Client.publish, Call.PUBLISH): 10,
    (Client.ticket, Call.TICKET): 12,
    (Client.release, Call.RELEASE): 18,
    (Client.inspect, Call.READ): 8,
    (Client.drop_view, None): 4,
    (Client.pause, None): 8,
    (Client.fork, None): 1,
    (Client.expose, None): 1,
    (Client.figures, Call.STATISTICS): 2,
    (Client.leave, None): 1,
    (Client.lease_in_turn, Call.LEASE): 8,
    (Client.lease_mutable, Call.LEASE): 2,
    (Client.rewrite, None): 2,
    (Client.address, None): 3,
    (Client.attach_at, Call.ATTACH): 4,
    (Client.withdraw, None): 1,
    (Client.revoke, None): 2,
    (Client.detach, None): 3,
}
_ACTS: Final = list(_CHANCES)
_WEIGHTS: Final = list(_CHANCES.values())
