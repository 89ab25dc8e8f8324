"""A state machine for hypothesis that drives real processes through leases, and checks every promise after each step.

A registry and a few worker processes run for real; the machine tells one of them at a time what to do, kills it, stops it, or
kills the registry. After every step four accounts must agree: the model (`shmlease.testing.model`), the lease table as its
ledger has it, the files in /dev/shm, and the arrays as each process sees them.

Subclass it to add rules of your own::

    class MyMachine(RegistryMachine):
        @precondition(has_leases)
        @rule(holding=leases())
        def compute(self, holding):
            self.call(holding.worker, my_module.compute, holding.key)   # compute(worker: Worker, key: int)

    TestMine = MyMachine.TestCase
"""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Listener
from typing import Any, ClassVar, Final

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import shmlease
from shmlease.core.sizes import PAGE_BYTES, file_size
from shmlease.system.forkserver import ForkServer, Process
from shmlease.system.ledger import read_ledger
from shmlease.testing import worker as actions
from shmlease.testing.agreement import SHM, differences, directory_of, sight_differences, sizes_by_inode
from shmlease.testing.model import Content, Holding, IssuedTicket, Model, WorkerProcess
from shmlease.testing.strategies import LayoutArguments, layouts
from shmlease.testing.worker import Answer
from shmlease.units import parse_bytes

__all__ = [
    "RegistryMachine",
    "close_forkservers",
    "has_leases",
    "has_tickets",
    "has_workers",
    "leases",
    "tickets",
    "workers",
]

# How long an answer may take: a takeover on a loaded machine takes a second, a client gives up after ten.
_ANSWER_WITHIN_S: Final = 30.0
_TTL_S: Final = 600.0
_SHORT_S: Final = 0.02
# A takeover takes as long as some ten other steps.
_STEPS_BETWEEN_TAKEOVERS: Final = 8

Select = Callable[["RegistryMachine"], Sequence[Any]]


def _one_of(select: Select) -> st.SearchStrategy[Any]:
    return st.runner().flatmap(lambda machine: st.sampled_from(select(machine)))


def _needs(*selections: Select) -> Callable[[Any], Any]:
    """The rule runs only when each of these finds something."""
    return precondition(lambda machine: all(select(machine) for select in selections))


def _workers(machine: RegistryMachine) -> list[WorkerProcess]:
    return [worker for worker in machine.model.workers if not worker.is_stopped]


def _holders(machine: RegistryMachine) -> list[WorkerProcess]:
    """Workers whose end makes a difference."""
    return [w for w in machine.model.workers if any(holding.worker is w for holding in machine.model.holdings)]


def _listening_holders(machine: RegistryMachine) -> list[WorkerProcess]:
    return [worker for worker in _holders(machine) if not worker.is_stopped]


def _contents(machine: RegistryMachine) -> list[Content]:
    return machine.model.contents


def _stopped(machine: RegistryMachine) -> list[WorkerProcess]:
    return [worker for worker in machine.model.workers if worker.is_stopped]


def _leases(machine: RegistryMachine) -> list[Holding]:
    return list(machine.model.leases())


def _writers(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in machine.model.leases() if holding.is_writer]


def _filling(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in _writers(machine) if not holding.content.is_published]


def _published(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in machine.model.leases() if holding.is_writer or holding.content.is_published]


def _readers(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in machine.model.leases() if not holding.is_writer and holding.content.nbytes]


def _without_view(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in machine.model.leases() if not holding.has_view]


def _views(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in machine.model.holdings if holding.is_released and not holding.worker.is_stopped]


def _issued_tickets(machine: RegistryMachine) -> list[IssuedTicket]:
    return machine.model.tickets


def _inherited(machine: RegistryMachine) -> list[tuple[WorkerProcess, Holding]]:
    return [(worker, holding) for worker, holding in machine.model.inherited if not worker.is_stopped]


def _awaited(machine: RegistryMachine) -> list[Holding]:
    return [holding for holding in _filling(machine) if holding.content.name is not None]


def _sole(machine: RegistryMachine) -> list[Holding]:
    """Leases whose release gives room."""
    return [
        holding
        for holding in _without_view(machine)
        if len(machine.model.holders_of(holding.content)) == 1
        and not holding.content.readers_expected
        and not any(issued.content is holding.content and not issued.is_used for issued in machine.model.tickets)
    ]


def _pages(pages: int) -> LayoutArguments:
    return LayoutArguments(shape=(pages * PAGE_BYTES,), dtype=np.dtype("u1"), order="C")


def has_leases(machine: RegistryMachine) -> bool:
    """Whether `leases` finds one: a precondition for rules that use it."""
    return bool(_leases(machine))


def has_workers(machine: RegistryMachine) -> bool:
    """Whether `workers` finds one."""
    return bool(_workers(machine))


def has_tickets(machine: RegistryMachine) -> bool:
    """Whether `tickets` finds one."""
    return bool(_issued_tickets(machine))


def leases() -> st.SearchStrategy[Holding]:
    """One of the leases that are held by workers that listen, for rules of subclasses."""
    return _one_of(_leases)


def workers() -> st.SearchStrategy[WorkerProcess]:
    """One of the workers that listen."""
    return _one_of(_workers)


def tickets() -> st.SearchStrategy[IssuedTicket]:
    """One of the tickets that were made, used or not."""
    return _one_of(_issued_tickets)


_NAMES: Final = st.sampled_from([None, None, "a", "b", "calls/chr1"])
_STAMPS: Final = st.integers(0, 2**32 - 1)
_forkservers: Final[dict[tuple[str, ...], ForkServer]] = {}


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
        How long the lease table may take to agree: deaths are noticed at once, notice logs are read every 10 ms, but machines
        are loaded.
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
        self._keys = self._tags = self.steps = self._next_takeover = 0
        self.registry = shmlease.Registry(self.capacity)
        self.id = self.registry.id
        self.capacity_bytes = parse_bytes(self.capacity)
        self._directory = tempfile.TemporaryDirectory(prefix="shmlease-machine-")
        self._listener = Listener(f"{self._directory.name}/commander", "AF_UNIX", backlog=16)

    # --- what a subclass's rules are made of -----------------------------------------------------------------------

    def call(self, worker: WorkerProcess, function: Callable[..., Any], *arguments: Any, warns: Sequence[str] = ()) -> Any:
        """Have `worker` call ``function(Worker, *arguments)``: its value, or its error raised here."""
        self._send(worker, function, *arguments)
        return self._value(worker, warns)

    def is_refused(
        self, error: type[Exception], worker: WorkerProcess, function: Callable[..., Any], *arguments: Any
    ) -> None:
        """Have `worker` call the function, and see it raise `error`."""
        self._send(worker, function, *arguments)
        answer = self._answer(worker)
        assert isinstance(answer.error, error), (
            f"{worker} got {answer.error!r} from {function.__name__}, not {error.__name__}"
        )

    def start_worker(self) -> WorkerProcess:
        """One more process."""
        forkserver = _forkservers.get(self.preload)
        if forkserver is None:
            forkserver = _forkservers[self.preload] = ForkServer(["shmlease.testing.worker", *self.preload])
        self._tags += 1
        child = forkserver.fork("shmlease.testing.worker:run", str(self._listener.address), self._tags, self.id)
        return self._welcome(self._tags, child)

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

    @_needs(_workers)
    @rule(worker=workers(), name=_NAMES, layout=st.runner().flatmap(lambda m: layouts(m.max_bytes)), stamp=_STAMPS)
    def lease(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A new segment, written."""
        self._new_content(worker, actions.take, name, layout, stamp, is_published=False)

    @_needs(_workers)
    @rule(worker=workers(), name=_NAMES, layout=st.runner().flatmap(lambda m: layouts(m.max_bytes)), stamp=_STAMPS)
    def share(self, worker: WorkerProcess, name: str | None, layout: LayoutArguments, stamp: int) -> None:
        """A copy of an array, published."""
        self._new_content(worker, actions.share, name, layout, stamp, is_published=True)

    @_needs(_workers)
    @rule(worker=workers(), name=_NAMES, pages=st.integers(1, 8), stamp=_STAMPS)
    def lease_pages(self, worker: WorkerProcess, name: str | None, pages: int, stamp: int) -> None:
        """A new segment of whole pages, such as fit one another's memory."""
        self._new_content(worker, actions.take, name, _pages(pages), stamp, is_published=False)

    @_needs(_workers)
    @rule(worker=workers(), name=_NAMES, pages=st.integers(1, 8), stamp=_STAMPS)
    def share_pages(self, worker: WorkerProcess, name: str | None, pages: int, stamp: int) -> None:
        """A published copy of whole pages."""
        self._new_content(worker, actions.share, name, _pages(pages), stamp, is_published=True)

    @_needs(_filling)
    @rule(holding=_one_of(_filling), stamp=_STAMPS)
    def write(self, holding: Holding, stamp: int) -> None:
        """Other content, before publication."""
        holding.content.checksum = self.call(holding.worker, actions.write, holding.key, stamp)

    @_needs(_writers)
    @rule(holding=_one_of(_writers), readers=st.integers(0, 2))
    def publish(self, holding: Holding, readers: int) -> None:
        """Publish, once or again, for some readers to come."""
        self.call(holding.worker, actions.publish, holding.key, readers, _TTL_S)
        holding.content.is_published = True
        holding.content.readers_expected = readers or holding.content.readers_expected

    @_needs(_writers)
    @rule(holding=_one_of(_writers))
    def publish_for_readers_who_never_come(self, holding: Holding) -> None:
        """A promise to readers expires."""
        self.call(holding.worker, actions.publish, holding.key, 1, _SHORT_S)
        holding.content.is_published = True
        holding.content.readers_expected = 0
        self.model.disturb(holding.content, "readers never came")

    @_needs(_workers)
    @rule(worker=workers(), name=_NAMES.filter(bool))
    def attach(self, worker: WorkerProcess, name: str) -> None:
        """Read by name."""
        content = self.model.named(name)
        if content is None or not content.is_published:
            self.is_refused(shmlease.SegmentNotFoundError, worker, actions.attach, self.new_key(), name, 0.0)
            return
        key = self.new_key()
        self.call(worker, actions.attach, key, name, 5.0)
        self._attached(worker, key, content)

    @_needs(_workers, _awaited)
    @rule(worker=workers(), awaited=_one_of(_awaited))
    def attach_before_publication(self, worker: WorkerProcess, awaited: Holding) -> None:
        """A reader waits for the name."""
        if worker is awaited.worker:
            return
        key = self.new_key()
        self._send(worker, actions.attach, key, awaited.content.name, _ANSWER_WITHIN_S)
        self.call(awaited.worker, actions.publish, awaited.key, 0, _TTL_S)
        awaited.content.is_published = True
        self._value(worker)
        self._attached(worker, key, awaited.content)

    @_needs(_published)
    @rule(holding=_one_of(_published))
    def ticket(self, holding: Holding) -> None:
        """A ticket; what is not published yet is published."""
        text = self.call(holding.worker, actions.ticket, holding.key, _TTL_S)
        holding.content.is_published = True
        self.model.tickets.append(IssuedTicket(text, holding.content))

    @_needs(_workers, _issued_tickets)
    @rule(worker=workers(), issued=tickets())
    def redeem(self, worker: WorkerProcess, issued: IssuedTicket) -> None:
        """The first redeemer gets the array, nobody else does."""
        key = self.new_key()
        if issued.is_used:
            self.is_refused(shmlease.TicketError, worker, actions.redeem, key, issued.text)
            return
        self.call(worker, actions.redeem, key, issued.text)
        issued.is_used = True
        self.model.holdings.append(Holding(key, worker, issued.content, is_writer=False))

    @_needs(_published, _workers)
    @rule(holding=_one_of(_published), worker=workers())
    def ticket_expires(self, holding: Holding, worker: WorkerProcess) -> None:
        """A ticket that nobody redeems in time is void."""
        text = self.call(holding.worker, actions.ticket, holding.key, _SHORT_S)
        holding.content.is_published = True
        self.model.disturb(holding.content, "a ticket expired")
        self.agree()
        self.is_refused(shmlease.TicketError, worker, actions.redeem, self.new_key(), text)

    @_needs(_without_view)
    @rule(holding=_one_of(_without_view))
    def release(self, holding: Holding) -> None:
        """A lease ends in order."""
        self.call(holding.worker, actions.release, holding.key)
        self.model.end(holding)

    @_needs(_without_view)
    @rule(holding=_one_of(_without_view))
    def forget(self, holding: Holding) -> None:
        """A lease is lost, and collected."""
        self.call(holding.worker, actions.forget, holding.key, warns=["UnreleasedLeaseWarning"])
        self.model.end(holding)

    @_needs(_without_view)
    @rule(holding=_one_of(_without_view))
    def release_under_a_view(self, holding: Holding) -> None:
        """A view outlives its lease."""
        self.call(holding.worker, actions.keep_view, holding.key)
        self.call(holding.worker, actions.release, holding.key, warns=["LingeringViewWarning"])
        holding.has_view = holding.is_released = True
        self.model.disturb(holding.content, "a view lingered")

    @_needs(_views)
    @rule(holding=_one_of(_views))
    def drop_view(self, holding: Holding) -> None:
        """The last view of a released lease dies."""
        self.call(holding.worker, actions.drop_view, holding.key)
        self.model.end(holding)

    @_needs(_readers)
    @rule(holding=_one_of(_readers))
    def write_as_a_reader(self, holding: Holding) -> None:
        """A reader cannot write."""
        self.is_refused(ValueError, holding.worker, actions.try_to_write, holding.key)

    @_needs(_leases)
    @rule(holding=_one_of(_leases))
    def expose(self, holding: Holding) -> None:
        """The segment gets a name in /dev/shm."""
        content = holding.content
        content.os_name = self.call(holding.worker, actions.expose, holding.key)
        self.model.disturb(content, "it had a name in /dev/shm")

    @_needs(_contents)
    @rule()
    def trim(self) -> None:
        """Warm memory goes back to the system."""
        self.registry.trim()
        left = self.registry.statistics().warm_bytes
        assert not left, f"{left} bytes are warm after trim()"

    @_needs(_sole, _workers)
    @rule(holding=_one_of(_sole), worker=workers())
    def wait_for_room(self, holding: Holding, worker: WorkerProcess) -> None:
        """Somebody needs all that is free, and what another is about to release."""
        if worker is holding.worker:
            return
        self._know_inodes()
        sizes = sizes_by_inode(self.id)
        if not holding.content.inode:
            return
        room = self.capacity_bytes - self._live_bytes(sizes) + sizes[holding.content.inode]
        key = self.new_key()
        self._send(worker, actions.take, key, key, None, _ANSWER_WITHIN_S, {"shape": (room,), "dtype": "u1", "order": "C"})
        self.call(holding.worker, actions.release, holding.key)
        self.model.end(holding)
        content = Content(None, room, self._value(worker))
        self.model.add(content)
        self.model.holdings.append(Holding(key, worker, content, is_writer=True))

    # --- rules: processes come, fork, stop and die -----------------------------------------------------------------------

    @precondition(lambda machine: len(machine.model.workers) < machine.most_workers)
    @rule()
    def one_more_worker(self) -> None:
        """A process joins."""
        self.start_worker()

    @precondition(lambda machine: len(machine.model.workers) < machine.most_workers and bool(_listening_holders(machine)))
    @rule(parent=_one_of(_listening_holders))
    def fork(self, parent: WorkerProcess) -> None:
        """A process forks with all it holds."""
        self._tags += 1
        pid = self.call(parent, actions.fork, str(self._listener.address), self._tags)
        child = self._welcome(self._tags, Process(pid))
        for holding in self.model.leases(parent):
            self.model.disturb(holding.content, "its holder forked")
            self.model.inherited.append((child, holding))
        self.model.inherited += [(child, holding) for worker, holding in self.model.inherited if worker is parent]

    @_needs(_inherited)
    @rule(inherited=_one_of(_inherited))
    def use_inherited(self, inherited: tuple[WorkerProcess, Holding]) -> None:
        """A forked child uses a lease of its parent's."""
        self.model.inherited.remove(inherited)
        child, holding = inherited
        if holding not in self.model.holdings:
            self.is_refused(shmlease.LeaseClosedError, child, actions.use_inherited, holding.key)
            return
        self.call(child, actions.use_inherited, holding.key)
        self.model.holdings.append(Holding(holding.key, child, holding.content, holding.is_writer))

    @_needs(_listening_holders)
    @rule(worker=_one_of(_listening_holders))
    def exit(self, worker: WorkerProcess) -> None:
        """A process ends with all it holds."""
        worker.connection.send(None)
        assert worker.process.wait_end(_ANSWER_WITHIN_S), f"{worker} does not end"
        self._gone(worker, "its holder left with it")

    @_needs(_holders)
    @rule(worker=_one_of(_holders))
    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        worker.process.kill()
        self._gone(worker, "its holder was killed")

    @_needs(_listening_holders)
    @rule(worker=_one_of(_listening_holders))
    def stop(self, worker: WorkerProcess) -> None:
        """SIGSTOP."""
        worker.process.signal(signal.SIGSTOP)
        worker.is_stopped = True

    @_needs(_stopped)
    @rule(worker=_one_of(_stopped))
    def go_on(self, worker: WorkerProcess) -> None:
        """SIGCONT."""
        worker.process.signal(signal.SIGCONT)
        worker.is_stopped = False

    @precondition(lambda machine: bool(machine.model.contents) and machine.steps >= machine._next_takeover)
    @rule(times=st.sampled_from([1, 1, 1, 2]))
    def kill_registry(self, times: int) -> None:
        """SIGKILL the registry; the next call starts a successor."""
        self._next_takeover = self.steps + _STEPS_BETWEEN_TAKEOVERS
        for _ in range(times):
            self._registry_process().kill()
            self.registry.statistics()

    @_needs(_workers, _contents)
    @rule(worker=workers())
    def stop_registry(self, worker: WorkerProcess) -> None:
        """The registry is stopped for a moment; who asks it something waits."""
        process = self._registry_process()
        process.signal(signal.SIGSTOP)
        self._send(worker, actions.attach, self.new_key(), "nobody's", 0.0)
        process.signal(signal.SIGCONT)
        assert isinstance(self._answer(worker).error, shmlease.SegmentNotFoundError)

    # --- after every step ----------------------------------------------------------------------------------------------

    @invariant()
    def agree(self) -> None:
        """Model, lease table, directory and processes say the same."""
        deadline = time.monotonic() + self.agree_within_s
        self.steps += 1
        self.registry.statistics()  # what was said before this is in the ledger when it answers
        while found := differences(self.model, self.id):
            assert time.monotonic() < deadline, "\n".join(found)
            time.sleep(0.001)
        self._know_inodes()

    def teardown(self) -> None:
        """The registry closes, with whatever is held; nothing is left, and what is mapped stays valid."""
        try:
            for worker in _stopped(self):
                self.go_on(worker)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", shmlease.LeaseWarning)  # of leases held by workers
                self.registry.close()
            left = [name for name in os.listdir(SHM) if name.startswith(f"shmlease-{self.id}")]
            assert not left, f"the registry has closed and left {left}"
            self._compare_sights(are_linked=False)
        finally:
            for worker in self.model.workers:
                worker.process.kill()
                worker.process.close()
                worker.connection.close()
            self.model.workers.clear()
            self._listener.close()
            self._directory.cleanup()

    # --- parts ---------------------------------------------------------------------------------------------------------

    def _new_content(
        self,
        worker: WorkerProcess,
        function: Callable[..., int],
        name: str | None,
        layout: LayoutArguments,
        stamp: int,
        *,
        is_published: bool,
    ) -> None:
        key = self.new_key()
        nbytes = int(layout["dtype"].itemsize)
        for side in layout["shape"]:
            nbytes *= side
        if name is not None and self.model.named(name) is not None:
            self.is_refused(shmlease.SegmentExistsError, worker, function, key, stamp, name, 0.0, layout)
            return
        if self._live_bytes(sizes_by_inode(self.id)) + file_size(nbytes) > self.capacity_bytes:
            self.is_refused(shmlease.CapacityError, worker, function, key, stamp, name, 0.0, layout)
            return
        checksum = self.call(worker, function, key, stamp, name, _ANSWER_WITHIN_S / 2, layout)
        content = Content(name, nbytes, checksum, is_published)
        self.model.add(content)
        self.model.holdings.append(Holding(key, worker, content, is_writer=True))

    def _attached(self, worker: WorkerProcess, key: int, content: Content) -> None:
        content.readers_expected = max(content.readers_expected - 1, 0)
        self.model.holdings.append(Holding(key, worker, content, is_writer=False))

    def _live_bytes(self, sizes: dict[int, int]) -> int:
        # an empty array, whose inode nothing shows, takes a page
        return sum(sizes[content.inode] if content.inode else file_size(0) for content in self.model.contents)

    def _registry_process(self) -> Process:
        registry = read_ledger(f"{directory_of(self.id)}/ledger").registry
        assert registry is not None
        return Process(registry.identity.pid)

    def _gone(self, worker: WorkerProcess, why: str) -> None:
        worker.connection.close()
        worker.process.close()
        self.model.end_worker(worker, why)

    def _know_inodes(self) -> None:
        self._compare_sights(are_linked=True)

    def _compare_sights(self, *, are_linked: bool) -> None:
        for worker in _workers(self):
            sights = self.call(worker, actions.look)
            for holding in self.model.holdings:
                if holding.worker is worker:
                    sight = sights[holding.key]
                    holding.content.inode = holding.content.inode or sight.inode
                    seen = sight if are_linked else sight._replace(is_unlinked=False)
                    found = list(sight_differences(holding, seen))
                    assert not found, "\n".join(found)

    def _send(self, worker: WorkerProcess, function: Callable[..., Any], *arguments: Any) -> None:
        worker.connection.send((function, arguments))

    def _value(self, worker: WorkerProcess, warns: Sequence[str] = ()) -> Any:
        answer = self._answer(worker)
        if answer.error is not None:
            raise answer.error
        assert answer.warnings == list(warns), f"{worker} warned {answer.warnings}, expected were {list(warns)}"
        return answer.value

    def _answer(self, worker: WorkerProcess) -> Answer:
        assert worker.connection.poll(_ANSWER_WITHIN_S), f"{worker} has not answered for {_ANSWER_WITHIN_S:g} s"
        try:
            answer: Answer = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            raise AssertionError(f"{worker} has died of what it was told to do") from None
        return answer

    def _welcome(self, tag: int, process: Process) -> WorkerProcess:
        connection = self._listener.accept()
        assert connection.recv()[0] == tag
        worker = WorkerProcess(tag, process, connection)
        self.model.workers.append(worker)
        return worker


def close_forkservers() -> None:
    """End the processes that fork the workers."""
    while _forkservers:
        _forkservers.popitem()[1].close()


atexit.register(close_forkservers)
