"""A state machine for hypothesis that drives real processes through leases, and checks every promise after each step.

A registry and a few worker processes run for real; the machine tells one of them at a time what to do, kills it, stops it,
or kills the registry. After every step four accounts must agree: the model (`shmlease.testing.model`), the lease table as
its ledger has it, the files in /dev/shm, and the arrays as each process sees them (`shmlease.testing.agreement`).

Subclass it to add rules of your own::

    class MyMachine(RegistryMachine):
        @rule_for(holding=held)
        def compute(self, holding):
            holding.worker.call(my_module.compute, holding.key)   # compute(worker: Worker, key: int)

    TestMine = MyMachine.TestCase

All rules are in one class, because hypothesis takes them from one: that makes this module long.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable
from typing import ClassVar, Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

import shmlease
from shmlease import Address
from shmlease.client.handle import Mode
from shmlease.core.sizes import PAGE_BYTES, file_size
from shmlease.testing import selections as select
from shmlease.testing.agreement import Agreement
from shmlease.testing.model import Content, Holding, IssuedTicket, Model
from shmlease.testing.selections import held, issued, listening, rule_for
from shmlease.testing.strategies import LayoutArguments, layouts
from shmlease.testing.worker import checksum as checksum_of
from shmlease.testing.worker_pool import ANSWER_WITHIN_S, WorkerPool, WorkerProcess, close_forkservers
from shmlease.units import parse_bytes
from shmlease.verification import contents, faults
from shmlease.verification.operations import Client, packed_bytes

__all__ = ["RegistryMachine", "close_forkservers", "held", "issued", "listening", "rule_for"]

_TTL_S: Final = 600.0
_SHORT_S: Final = 0.02
# A takeover takes as long as some ten other steps.
_STEPS_BETWEEN_TAKEOVERS: Final = 8


def _pages(pages: int) -> LayoutArguments:
    """Whole pages, such as fit one another's memory."""
    return LayoutArguments(shape=(pages * PAGE_BYTES,), dtype=np.dtype("u1"), order="C")


_NAMES: Final = st.sampled_from([None, None, "a", "b", "calls/chr1"])
_STAMPS: Final = st.integers(0, 2**32 - 1)
_LAYOUTS: Final = st.runner().flatmap(lambda machine: layouts(machine.max_bytes))
_PAGES: Final = st.integers(1, 8).map(_pages)


class RegistryMachine(RuleBasedStateMachine):
    """Real processes, one real registry, and rules for everything that may happen to them.

    Attributes
    ----------
    capacity : str
        Of the registry; small, so that room is scarce.
    most_workers : int
        Processes at a time.
    preload : tuple of str
        Modules that the workers import before they begin.
    max_bytes : int
        Of one array.
    agree_within_s : float
        How long the lease table may take to agree: deaths are noticed at once, notice logs are read every 10 ms, but
        machines are loaded.
    steps : int
        How often everything was compared so far.
    """

    capacity: ClassVar[str] = "256KiB"
    most_workers: ClassVar[int] = 4
    preload: ClassVar[tuple[str, ...]] = ()
    max_bytes: ClassVar[int] = 64 * 1024
    agree_within_s: ClassVar[float] = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self._keys = self.steps = self._next_takeover = 0
        self.registry = shmlease.Registry(self.capacity)
        self.id = self.registry.id
        self.capacity_bytes = parse_bytes(self.capacity)
        self._pool = WorkerPool(self.id, self.preload)
        self._agreement = Agreement(self.model, self.id)

    # --- what a subclass's rules are made of -------------------------------------------------------------------------

    def start_worker(self) -> WorkerProcess:
        """One more process."""
        worker = self._pool.start()
        self.model.workers.append(worker)
        return worker

    def new_key(self) -> int:
        """A key under which a worker may keep a lease."""
        self._keys += 1
        return self._keys

    # --- rules: arrays come, are read and go ---------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Two workers to begin with."""
        self.start_worker()
        self.start_worker()

    @rule_for(worker=listening, name=_NAMES, layout=_LAYOUTS, stamp=_STAMPS)
    def lease(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A new segment, written."""
        self._new_content(worker, Client.lease, name, layout, stamp, is_published=False)

    @rule_for(worker=listening, name=_NAMES, layout=_LAYOUTS, stamp=_STAMPS)
    def share(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A copy of an array, published."""
        self._new_content(worker, Client.share, name, layout, stamp, is_published=True)

    @rule_for(worker=listening, name=_NAMES, layout=_PAGES, stamp=_STAMPS)
    def lease_pages(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A new segment of whole pages."""
        self._new_content(worker, Client.lease, name, layout, stamp, is_published=False)

    @rule_for(worker=listening, name=_NAMES, layout=_PAGES, stamp=_STAMPS)
    def share_pages(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A published copy of whole pages."""
        self._new_content(worker, Client.share, name, layout, stamp, is_published=True)

    @rule_for(worker=listening, name=_NAMES, layout=_LAYOUTS, stamp=_STAMPS)
    def put(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """An object that holds an array."""
        self._new_content(worker, Client.put, name, layout, stamp, is_published=True, is_object=True)

    @rule_for(worker=listening, name=_NAMES, layout=_PAGES, stamp=_STAMPS)
    def lease_mutable(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A new segment that all its holders may write, attachable at once."""
        self._new_content(worker, Client.lease_mutable, name, layout, stamp, is_published=True, is_mutable=True)

    @rule_for(holding=select.mutable, stamp=_STAMPS)
    def write_what_others_see(self, holding: Holding, stamp: int) -> None:
        """Any holder writes a mutable segment."""
        self.write(holding, stamp)

    @rule_for(holding=select.copied, stamp=_STAMPS)
    def write_what_nobody_else_sees(self, holding: Holding, stamp: int) -> None:
        """A reader writes on pages of its own."""
        holding.worker.call(Client.write, holding.key, stamp)
        holding.own_checksum = contents.checksum(stamp, holding.content.nbytes)

    @rule_for(holding=select.put)
    def load(self, holding: Holding) -> None:
        """The object is what was put."""
        if holding.own_checksum is None:
            holding.worker.call(Client.load, holding.key)

    @rule_for(holding=select.filling, stamp=_STAMPS)
    def write(self, holding: Holding, stamp: int) -> None:
        """Other content, before publication."""
        holding.worker.call(Client.write, holding.key, stamp)
        holding.content.stamp, holding.content.checksum = stamp, contents.checksum(stamp, holding.content.nbytes)

    @rule_for(holding=select.written, readers=st.integers(0, 2))
    def publish(self, holding: Holding, readers: int) -> None:
        """Publish, once or again, for some readers to come."""
        holding.worker.call(Client.publish, holding.key, readers, _TTL_S)
        holding.content.is_published = True
        holding.content.readers_expected = readers or holding.content.readers_expected

    @rule_for(holding=select.written)
    def publish_for_readers_who_never_come(self, holding: Holding) -> None:
        """A promise to readers expires."""
        holding.worker.call(Client.publish, holding.key, 1, _SHORT_S)
        holding.content.is_published = True
        holding.content.readers_expected = 0
        self.model.disturb(holding.content, "readers never came")

    @rule_for(worker=listening, name=_NAMES.filter(bool), mode=st.sampled_from(["r", "r", "c", "r+"]))
    def attach(self, worker: WorkerProcess, name: str, mode: Mode) -> None:
        """Read by name, or write: what is mutable by all, what is not as a copy."""
        content = self.model.named(name)
        if content is None or not content.is_published:
            missing = (shmlease.SegmentNotFoundError, shmlease.AbandonedError)
            worker.is_refused(missing, Client.attach, self.new_key(), name, 0.0)
            return
        key = self.new_key()
        if mode != "r" and (mode == "r+") != content.is_mutable:
            worker.is_refused(shmlease.ModeError, Client.attach, key, name, 0.0, mode)
            return
        worker.call(Client.attach, key, name, 5.0, mode)
        self._attached(worker, key, content, mode)

    @rule_for(holding=select.publishable)
    def address(self, holding: Holding) -> None:
        """An address; what is not published yet is published."""
        self.model.addresses.append((holding.worker.call(Client.address, holding.key), holding.content))
        holding.content.is_published = True

    @rule_for(worker=listening, found=select.addresses)
    def attach_at(self, worker: WorkerProcess, found: tuple[Address, Content]) -> None:
        """Read by address, which keeps nothing alive."""
        address, content = found
        key = self.new_key()
        if content not in self.model.contents:
            worker.is_refused(shmlease.SegmentNotFoundError, Client.attach_at, key, address)
            return
        worker.call(Client.attach_at, key, address)
        self.model.holdings.append(Holding(key, worker, content, is_writer=False))

    @rule_for(worker=listening, content=select.named)
    def withdraw(self, worker: WorkerProcess, content: Content) -> None:
        """A name is free again; readers who were announced are not waited for."""
        worker.call(Client.withdraw, content.name, content.stamp)
        worker.is_refused(shmlease.SegmentNotFoundError, Client.withdraw, content.name, content.stamp)
        content.name, content.readers_expected, content.os_name = None, 0, ""
        self.model.end_if_unused(content)

    @rule_for(worker=listening, awaited=select.awaited)
    def attach_before_publication(self, worker: WorkerProcess, awaited: Holding) -> None:
        """A reader waits for the name."""
        if worker is awaited.worker:
            return
        key = self.new_key()
        worker.send(Client.attach, key, awaited.content.name, ANSWER_WITHIN_S)
        awaited.worker.call(Client.publish, awaited.key, 0, _TTL_S)
        awaited.content.is_published = True
        worker.value()
        self._attached(worker, key, awaited.content)

    @rule_for(holding=select.publishable)
    def ticket(self, holding: Holding) -> None:
        """A ticket; what is not published yet is published."""
        text = holding.worker.call(Client.ticket, holding.key, _TTL_S)
        holding.content.is_published = True
        self.model.tickets.append(IssuedTicket(text, holding.content))

    @rule_for(holding=select.publishable, receiver=select.listening)
    def ticket_for(self, holding: Holding, receiver: WorkerProcess) -> None:
        """A ticket that ends with a process."""
        text = holding.worker.call(Client.ticket, holding.key, _TTL_S, receiver.process.pid)
        holding.content.is_published = True
        self.model.tickets.append(IssuedTicket(text, holding.content, receiver=receiver))

    @rule_for(worker=listening, issued=issued)
    def revoke(self, worker: WorkerProcess, issued: IssuedTicket) -> None:
        """A ticket is taken back, by anybody, once."""
        if issued.is_used:
            worker.is_refused(shmlease.TicketError, Client.revoke, issued.text, issued.content.stamp)
            return
        worker.call(Client.revoke, issued.text, issued.content.stamp)
        self.model.end_ticket(issued)

    @rule_for(worker=listening, issued=issued)
    def redeem(self, worker: WorkerProcess, issued: IssuedTicket) -> None:
        """The first redeemer gets the array, nobody else does."""
        key = self.new_key()
        if issued.is_used:
            worker.is_refused(shmlease.TicketError, Client.redeem, key, issued.text, issued.content.stamp)
            return
        worker.call(Client.redeem, key, issued.text, issued.content.stamp)
        issued.is_used = True
        self.model.holdings.append(Holding(key, worker, issued.content, is_writer=False))

    @rule_for(holding=select.publishable, worker=listening)
    def ticket_expires(self, holding: Holding, worker: WorkerProcess) -> None:
        """A ticket that nobody redeems in time is void."""
        text = holding.worker.call(Client.ticket, holding.key, _SHORT_S)
        holding.content.is_published = True
        self.model.disturb(holding.content, "a ticket expired")
        self.agree()
        worker.is_refused(shmlease.TicketError, Client.redeem, self.new_key(), text, 0)

    @rule_for(holding=select.without_view)
    def release(self, holding: Holding) -> None:
        """A lease ends in order."""
        holding.worker.call(Client.release, holding.key)
        self.model.end(holding)

    @rule_for(holding=select.without_view)
    def forget(self, holding: Holding) -> None:
        """A lease is lost, and collected."""
        holding.worker.call(Client.forget, holding.key, warns=["UnreleasedLeaseWarning"])
        self.model.end(holding)

    @rule_for(holding=select.without_view)
    def release_under_a_view(self, holding: Holding) -> None:
        """A view outlives its lease."""
        holding.worker.call(Client.keep_view, holding.key)
        holding.worker.call(Client.release, holding.key, warns=["LingeringViewWarning"])
        holding.has_view = holding.is_released = True
        self.model.disturb(holding.content, "a view lingered")

    @rule_for(holding=select.detachable)
    def detach(self, holding: Holding) -> None:
        """The array carries the lease from now on."""
        holding.worker.call(Client.detach, holding.key)
        holding.has_view = holding.is_released = holding.is_detached = True

    @rule_for(holding=select.views)
    def drop_view(self, holding: Holding) -> None:
        """The last view of a released lease, or a detached array, dies."""
        holding.worker.call(Client.drop_view, holding.key)
        self.model.end(holding)

    @rule_for(holding=select.read)
    def write_as_a_reader(self, holding: Holding) -> None:
        """A reader cannot write."""
        holding.worker.is_refused(ValueError, Client.write_as_a_reader, holding.key)

    @rule_for(holding=held)
    def expose(self, holding: Holding) -> None:
        """The segment gets a name in /dev/shm."""
        content = holding.content
        content.os_name = holding.worker.call(Client.expose, holding.key)
        self.model.disturb(content, "it had a name in /dev/shm")

    @rule_for(select.contents)
    def trim(self) -> None:
        """Warm memory goes back to the system."""
        self.registry.trim()
        left = self.registry.statistics().warm_bytes
        assert not left, f"{left} bytes are warm after trim()"

    @rule_for(holding=select.sole, worker=listening)
    def wait_for_room(self, holding: Holding, worker: WorkerProcess) -> None:
        """Somebody needs all that is free, and what another is about to release."""
        if worker is holding.worker:
            return
        self._agreement.look()
        if not holding.content.inode:
            return
        room = self.capacity_bytes - self._agreement.live_bytes(but=holding.content)
        key = self.new_key()
        worker.send(Client.lease, key, key, None, ANSWER_WITHIN_S, {"shape": (room,), "dtype": "u1", "order": "C"})
        holding.worker.call(Client.release, holding.key)
        self.model.end(holding)
        worker.value()
        content = Content(None, room, key, contents.checksum(key, room))
        self.model.add(content)
        self.model.holdings.append(Holding(key, worker, content, is_writer=True))

    # --- rules: processes come, fork, stop and die -----------------------------------------------------------------------

    @rule_for(select.has_room_for_a_worker)
    def start_another_worker(self) -> None:
        """A process joins."""
        self.start_worker()

    @rule_for(select.has_room_for_a_worker, parent=select.listening_holders)
    def fork(self, parent: WorkerProcess) -> None:
        """A process forks with all it holds."""
        child = self._pool.fork(parent)
        self.model.workers.append(child)
        for holding in self.model.holdings:
            if holding.worker is parent:
                self.model.disturb(holding.content, "its holder forked")
        self.model.inherited += [(child, holding) for holding in self.model.leases(parent)]
        self.model.inherited += [(child, holding) for worker, holding in self.model.inherited if worker is parent]

    @rule_for(inherited=select.inherited)
    def use_inherited(self, inherited: tuple[WorkerProcess, Holding]) -> None:
        """A forked child uses a lease of its parent's."""
        self.model.inherited.remove(inherited)
        child, holding = inherited
        if holding not in self.model.holdings:
            child.is_refused(shmlease.LeaseClosedError, Client.use_inherited, holding.key)
            return
        child.call(Client.use_inherited, holding.key)
        self.model.holdings.append(
            Holding(holding.key, child, holding.content, holding.is_writer, holding.mode, holding.own_checksum)
        )

    @rule_for(worker=select.listening_holders)
    def exit(self, worker: WorkerProcess) -> None:
        """A process ends with all it holds."""
        worker.end()
        for holding in [one for one in self.model.holdings if one.worker is worker and one.is_detached]:
            self.model.end(holding)  # as any other detached array that is dropped
        self._gone(worker, "its holder left with it")

    @rule_for(worker=select.holders)
    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        worker.process.kill()
        self._gone(worker, "its holder was killed")

    @rule_for(worker=select.listening_holders)
    def stop(self, worker: WorkerProcess) -> None:
        """SIGSTOP."""
        worker.process.signal(signal.SIGSTOP)
        worker.is_stopped = True

    @rule_for(worker=select.stopped)
    def resume(self, worker: WorkerProcess) -> None:
        """SIGCONT."""
        worker.process.signal(signal.SIGCONT)
        worker.is_stopped = False

    @rule_for(select.contents, lambda machine: machine.steps >= machine._next_takeover, times=st.sampled_from([1, 1, 1, 2]))
    def kill_registry(self, times: int) -> None:
        """SIGKILL the registry; the next call starts a successor."""
        self._next_takeover = self.steps + _STEPS_BETWEEN_TAKEOVERS
        for _ in range(times):
            self._agreement.registry_process().kill()
            self.registry.statistics()

    @rule_for(select.contents, worker=listening)
    def stop_registry(self, worker: WorkerProcess) -> None:
        """The registry is stopped for a moment; who asks it something waits."""
        with faults.stopped([self._agreement.registry_process()]):
            worker.send(Client.attach, self.new_key(), "nobody's", 0.0)
        assert isinstance(worker.answer().error, shmlease.SegmentNotFoundError)

    # --- after every step ----------------------------------------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        """Model, lease table, directory and processes say the same."""
        self.steps += 1
        self.registry.statistics()  # what was said before this is in the ledger when it answers
        self._agreement.wait(self.agree_within_s)

    def teardown(self) -> None:
        """The registry closes, with whatever is held; nothing is left, and what is mapped stays valid."""
        try:
            for worker in select.stopped(self):
                self.resume(worker)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", shmlease.LeaseWarning)  # of leases held by workers
                self.registry.close()
            left = self._agreement.left()
            assert not left, f"the registry has closed and left {left}"
            self._agreement.look(are_linked=False)
        finally:
            for worker in self.model.workers:
                worker.process.kill()
                worker.close()
            self.model.workers.clear()
            self._pool.close()

    # --- parts ---------------------------------------------------------------------------------------------------------

    def _new_content(
        self,
        worker: WorkerProcess,
        function: Callable[..., None],
        name: str | None,
        layout: LayoutArguments,
        stamp: int,
        *,
        is_published: bool,
        is_mutable: bool = False,
        is_object: bool = False,
    ) -> None:
        key = self.new_key()
        nbytes = int(layout["dtype"].itemsize) * math.prod(layout["shape"])
        if is_object:
            nbytes = packed_bytes(stamp, layout)
        if name is not None and self.model.named(name) is not None:
            worker.is_refused(shmlease.SegmentExistsError, function, key, stamp, name, 0.0, layout)
            return
        if self._agreement.live_bytes() + file_size(nbytes) > self.capacity_bytes:
            worker.is_refused(shmlease.CapacityError, function, key, stamp, name, 0.0, layout)
            return
        worker.call(function, key, stamp, name, ANSWER_WITHIN_S / 2, layout)
        # a copy that numpy makes of an array is another in the padding of its records
        checksum = worker.call(checksum_of, key) if is_published else contents.checksum(stamp, nbytes)
        content = Content(name, nbytes, stamp, checksum, is_published, is_mutable, is_object)
        self.model.add(content)
        self.model.holdings.append(Holding(key, worker, content, is_writer=True))

    def _attached(self, worker: WorkerProcess, key: int, content: Content, mode: Mode = "r") -> None:
        content.readers_expected = max(content.readers_expected - 1, 0)
        self.model.holdings.append(Holding(key, worker, content, is_writer=False, mode=mode))

    def _gone(self, worker: WorkerProcess, why: str) -> None:
        worker.close()
        self.model.end_worker(worker, why)
