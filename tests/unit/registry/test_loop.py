"""The loop on real sockets, in a thread, with a server in memory on a clock that stands still."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from stage import SECRET, Stage

from rig.shell import identity
from rig.until import until
from shmlease.core import messages as m
from shmlease.core.messages import LOOK_AGAIN_NS, RefusalCode
from shmlease.core.model import NUMBER_BITS, ClientState, EventKind
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.registry import loop as loop_module
from shmlease.registry.loop import Loop
from shmlease.registry.server import Server
from shmlease.system.descriptors import Descriptors, descriptors_of
from shmlease.system.identity import identify, own_identity

# A process that says hello, and stays until its standard input ends.
STRANGER = """
import socket, sys
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect(bytes.fromhex(sys.argv[1]))
link.send(bytes.fromhex(sys.argv[2]))
print(link.recv(65536).hex(), flush=True)
sys.stdin.readline()
link.close()
print("hung up", flush=True)
sys.stdin.read()
"""


class _Listener(socket.socket):
    """One whose `accept` can be made to fail."""

    failures: list[OSError]

    def accept(self) -> Any:
        if self.failures:
            raise self.failures.pop()
        return super().accept()


class Caller:
    """A raw connection to the loop."""

    def __init__(self, address: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.socket.connect(address)
        self.client = 0

    def say(self, *messages: m.ClientMessage) -> None:
        self.socket.send(encode(messages))

    def hear(self) -> list[Any]:
        """The messages of the next packet; none at the end of the connection."""
        try:
            packet = self.socket.recv(65536)
        except ConnectionResetError:
            packet = b""
        return decode_registry_packet(packet) if packet else []

    def hello(self, *, resume: int = 0, secret: bytes = SECRET) -> m.Welcome:
        self.say(m.Hello(1, m.PROTOCOL, secret, resume))
        welcome = self.hear()[0]
        assert isinstance(welcome, m.Welcome)
        self.client = welcome.client
        return welcome

    def lease(self, seq: int, name: str) -> Any:
        self.say(m.Lease(seq, self.client << NUMBER_BITS | seq, name, 4096, 8, b"", "", 0, 0))
        return self.hear()[0]


class Served(Stage):
    """A stage whose transport is the loop."""

    def __init__(self) -> None:
        super().__init__(owner=identity(1))
        self.listener = _Listener(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.listener.failures = []
        self.listener.bind("")  # an address that the kernel chooses, and no file
        self.listener.listen(64)
        self.address: bytes = self.listener.getsockname()
        self.loop = Loop(self.listener, self.clock)
        self.server = self.loop.server = Server(self.table, self.store, self.ledger, self.loop, self.clock)
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.callers: list[Caller] = []

    def start(self) -> None:
        self.thread.start()

    def wake(self) -> None:
        os.write(self.loop._wake_w, b"!")

    def stop(self) -> None:
        """Let the loop end, as the registry process does when it is told to."""
        if self.thread.ident is not None:
            self.loop.stop()
            self.wake()
            self.thread.join(60)
        assert not self.thread.is_alive()

    def end(self) -> None:
        self.stop()
        for caller in self.callers:
            caller.socket.close()
        if self.listener.fileno() >= 0:
            self.loop.close()
        for end in (self.loop._wake_r, self.loop._wake_w):
            os.close(end)

    def call(self) -> Caller:
        """A connection on which nothing was said yet."""
        caller = Caller(self.address)
        self.callers.append(caller)
        return caller

    def state_of(self, client: int) -> ClientState | None:
        row = self.rows.clients.get(client)
        return None if row is None else row.state

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """The loop is busy meanwhile; it then finds what has come in."""
        tick, busy, go_on = self.server.tick, threading.Event(), threading.Event()

        def linger() -> None:
            self.server.tick = tick  # type: ignore[method-assign]
            busy.set()
            go_on.wait()
            tick()

        self.server.tick = linger  # type: ignore[method-assign]
        self.wake()
        assert busy.wait(60)
        try:
            yield
        finally:
            go_on.set()


@pytest.fixture
def idle() -> Iterator[Served]:
    """A loop that does not run yet."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    served = Served()
    yield served
    served.end()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def served(idle: Served) -> Served:
    idle.start()
    return idle


@pytest.fixture
def stranger(served: Served) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Starts a process that is a client: it, and its client id."""
    with contextlib.ExitStack() as stack:

        def started() -> tuple[subprocess.Popen[str], int]:
            hello = encode([m.Hello(1, m.PROTOCOL, SECRET, 0)])
            command = [sys.executable, "-S", "-E", "-c", STRANGER, served.address.hex(), hello.hex()]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            (welcome, *_) = decode_registry_packet(bytes.fromhex(process.stdout.readline()))
            return process, welcome.client

        yield started


# --- who is let in ---------------------------------------------------------------------------------------------------


def test_client_is_welcomed_as_who_the_kernel_says_it_is(served: Served) -> None:
    client = served.call().hello().client
    assert served.rows.clients[client].identity == own_identity()


def test_who_does_not_say_hello_is_told_so_and_hung_up_on(served: Served) -> None:
    caller = served.call()
    caller.say(m.Ping(1))
    (refused,) = caller.hear()
    assert refused.code is RefusalCode.PROTOCOL
    assert caller.hear() == []


def test_another_user_is_turned_away_without_a_word(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    known = served.call()
    known.hello()
    monkeypatch.setattr(loop_module, "peer_of", lambda _: (os.getpid(), os.geteuid() + 1))
    caller = served.call()
    with contextlib.suppress(BrokenPipeError):
        caller.say(m.Hello(1, m.PROTOCOL, SECRET[::-1], 0))
    assert caller.hear() == []
    assert list(served.rows.clients) == [known.client]
    assert isinstance(known.lease(2, "a"), m.Granted)


def test_one_who_died_before_it_was_let_in_is_turned_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(pid: int) -> None:
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}")

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "identify", nobody)
        assert served.call().hear() == []
    served.call().hello()


def test_stranger_who_is_silent_for_too_long_is_hung_up_on(served: Served) -> None:
    known, silent = served.call(), served.call()
    known.hello()
    until(lambda: len(served.loop._connections) == 2)
    served.clock.wait_s(5.1)
    served.wake()
    assert silent.hear() == []
    assert isinstance(known.lease(2, "a"), m.Granted)


def test_of_many_strangers_the_one_who_is_silent_longest_goes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_MAX_STRANGERS", 3)
    known = served.call()
    known.hello()
    silent = [served.call() for _ in range(4)]
    assert silent[0].hear() == []
    assert isinstance(known.lease(2, "a"), m.Granted)
    for caller in silent[1:]:
        caller.hello(secret=SECRET[::-1])


def test_accept_that_finds_no_descriptor_is_tried_again(idle: Served) -> None:
    idle.listener.failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "aborted")]
    idle.start()
    idle.call().hello()
    assert idle.listener.failures == []


def test_newcomers_wait_while_descriptors_are_short_and_the_loop_does_not_spin(idle: Served) -> None:
    known = idle.call()
    idle.start()
    known.hello()
    idle.listener.failures = [OSError(errno.EMFILE, "Too many open files") for _ in range(1000)]
    newcomer = idle.call()
    for seq in range(2, 12):
        assert isinstance(known.lease(seq, f"a{seq}"), m.Granted)
    assert len(idle.listener.failures) > 900
    idle.listener.failures.clear()
    newcomer.hello(secret=SECRET[::-1])


def test_clients_that_die_before_they_are_accepted_cost_no_descriptor(idle: Served) -> None:
    code = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(bytes.fromhex(sys.argv[1]))"
    dead = [
        subprocess.Popen([sys.executable, "-S", "-E", "-W", "ignore", "-c", code, idle.address.hex()]) for _ in range(4)
    ]
    for process in dead:  # dead and not buried: the kernel still knows the pid
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    before = descriptors_of().in_use
    idle.start()
    idle.call().hello()
    until(lambda: len(idle.loop._connections) == 1)
    assert descriptors_of().in_use == before + 3  # both ends of the connection, and the pidfd
    for process in dead:
        process.wait()


def test_silent_stranger_goes_so_that_another_is_heard_when_descriptors_are_short(
    idle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = idle.call()
    idle.start()
    until(lambda: len(idle.loop._connections) == 1)
    monkeypatch.setattr(loop_module, "descriptors_of", lambda: Descriptors(60 if idle.loop._connections else 10, 64))
    newcomer = idle.call()
    assert silent.hear() == []
    newcomer.say(m.Hello(1, m.PROTOCOL, SECRET, 0))
    (refused,) = newcomer.hear()
    assert refused.code is RefusalCode.CAPACITY
    assert refused.fields == {"descriptors": 60, "descriptors_limit": 64, "clients": 0}


# --- connections and deaths ------------------------------------------------------------------------------------------


def test_end_of_a_connection_is_not_the_end_of_its_process(served: Served) -> None:
    caller = served.call()
    caller.hello()
    caller.lease(2, "a")
    caller.socket.close()
    until(lambda: served.state_of(caller.client) is ClientState.DETACHED)
    assert len(served.rows.leases) == 1
    again = served.call()
    assert again.hello(resume=caller.client).client == caller.client


def test_client_has_one_connection_the_last(served: Served) -> None:
    first, second = served.call(), served.call()
    first.hello()
    second.hello(resume=first.client)
    assert first.hear() == []
    assert isinstance(second.lease(2, "a"), m.Granted)
    assert served.state_of(first.client) is ClientState.CONNECTED


def test_malformed_packet_ends_its_senders_connection_alone(served: Served) -> None:
    vandal, other = served.call(), served.call()
    vandal.hello()
    other.hello(secret=SECRET[::-1])
    vandal.socket.send(b"\xc1")
    assert vandal.hear() == []
    assert served.state_of(vandal.client) is ClientState.DETACHED
    assert isinstance(other.lease(2, "a"), m.Granted)


def test_packet_longer_than_allowed_is_not_cut_to_fit(served: Served) -> None:
    caller = served.call()
    caller.hello()
    layouts = [b"\0" * 32768, b"\0" * 32768]

    def packet() -> bytes:
        base = caller.client << NUMBER_BITS
        return encode([m.Lease(seq, base | seq, None, 1, 1, layout, "", 0, 0) for seq, layout in enumerate(layouts, 2)])

    layouts[1] = layouts[1][len(packet()) - m.MAX_PACKET_BYTES :]
    assert len(packet()) == m.MAX_PACKET_BYTES, "as long as is allowed"
    caller.socket.send(packet() + b"\0")
    assert caller.hear() == []
    assert served.rows.leases == {}


def test_death_of_a_process_ends_what_it_held(
    served: Served, stranger: Callable[[], tuple[subprocess.Popen[str], int]]
) -> None:
    process, client = stranger()
    process.kill()
    until(lambda: served.state_of(client) in (None, ClientState.ENDED))
    until(lambda: not served.loop._deaths)
    assert served.entries() == set()


def test_death_is_noticed_of_a_process_that_has_hung_up(
    served: Served, stranger: Callable[[], tuple[subprocess.Popen[str], int]]
) -> None:
    process, client = stranger()
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    until(lambda: served.state_of(client) is ClientState.DETACHED)
    process.kill()
    until(lambda: served.state_of(client) in (None, ClientState.ENDED))


def test_client_of_a_predecessor_is_watched_until_it_comes_back(idle: Served) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        predecessors = identify(process.pid)
        client = idle.table.hello(m.Hello(1, m.PROTOCOL, SECRET, 0), predecessors, 0)
        assert idle.loop.watch_client(client, predecessors)
        idle.start()
        process.kill()
        until(lambda: idle.state_of(client) in (None, ClientState.ENDED))
    assert not idle.loop.watch_client(client, predecessors), "it is dead already"


def test_loop_ends_with_the_process_that_it_works_for(idle: Served) -> None:
    with subprocess.Popen(["sleep", "600"]) as owner:
        idle.loop.watch_owner(identify(owner.pid))
        idle.start()
        client = idle.call()
        client.hello()
        owner.kill()
        owner.wait()
        assert isinstance(client.lease(2, "a"), m.Granted), "it serves whoever is left"
    idle.files.open_notice_log(client.client).append(m.Bye(3))
    client.say(m.Ring(4))
    idle.thread.join(60)
    assert not idle.thread.is_alive()


def test_loop_whose_owner_is_dead_already_ends_at_once(idle: Served) -> None:
    with subprocess.Popen(["sleep", "600"]) as owner:
        dead = identify(owner.pid)
        owner.kill()
    idle.loop.watch_owner(dead)
    idle.start()
    idle.thread.join(60)
    assert not idle.thread.is_alive()


def test_clients_that_come_and_go_leave_no_descriptor_open(served: Served) -> None:
    served.call().hello()
    before = set(os.listdir("/proc/self/fd"))
    for number in range(5):
        caller = served.call()
        caller.hello(secret=bytes([number]) * 16)
        again = served.call()
        again.hello(resume=caller.client, secret=bytes([number]) * 16)
        served.files.open_notice_log(again.client).append(m.Bye(2))
        again.say(m.Ring(3))
        assert again.hear() == []
        served.call().socket.close()
        for ended in (caller, again):
            ended.socket.close()
    until(lambda: set(os.listdir("/proc/self/fd")) <= before, what="the end of the descriptors")


# --- fairness --------------------------------------------------------------------------------------------------------


def test_client_that_does_not_read_is_dropped_and_may_come_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_BACKLOG", 8)
    greedy, other = served.call(), served.call()
    greedy.hello()
    greedy.lease(2, "a")
    other.hello(secret=SECRET[::-1])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for number in range(3, 300):
            greedy.say(*[m.Statistics(number * 100 + part) for part in range(60)])
    until(lambda: served.state_of(greedy.client) is ClientState.DETACHED)
    (event,) = [event for event in served.rows.events.values() if event.kind is EventKind.CLIENT_DROPPED]
    assert event.detail == "8 packets unread: the client was dropped and may resume"
    assert isinstance(other.lease(2, "b"), m.Granted)
    assert served.call().hello(resume=greedy.client).client == greedy.client
    assert len(served.rows.leases) == 2


def test_client_that_reads_late_gets_everything_in_order(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_BACKLOG", 10_000)
    late = served.call()
    late.hello()
    (connection,) = served.loop._by_client.values()
    tick, answered, asking = served.server.tick, list[int](), True

    def read_a_little() -> None:
        """There is room in the socket again when the next answers are sent, while earlier ones wait for it."""
        if asking and connection.outgoing:
            answered.extend(message.seq for message in late.hear())
        tick()

    served.server.tick = read_a_little  # type: ignore[method-assign]
    asked = list(range(100, 100 + 200 * 64))
    for start in range(0, len(asked), 64):
        late.say(*map(m.Ping, asked[start : start + 64]))
    until(lambda: served.table.counters["messages"] == len(asked))
    with served.held_up():
        asking = False
    assert connection.outgoing, "more than fits the socket"
    while len(answered) < len(asked):
        answered += [message.seq for message in late.hear()]
    assert answered == asked


def test_client_with_much_to_say_does_not_keep_others_waiting(idle: Served) -> None:
    talkative, brief = idle.call(), idle.call()
    said: list[bytes] = []
    received = idle.server.received

    def listen(client: int, packet: bytes) -> None:
        said.append(idle.rows.clients[client].secret)
        received(client, packet)

    idle.server.received = listen  # type: ignore[method-assign]
    for caller, secret, pings in ((talkative, SECRET, 50), (brief, SECRET[::-1], 1)):
        caller.say(m.Hello(1, m.PROTOCOL, secret, 0))
        for number in range(2, 2 + pings):
            caller.say(m.Ping(number))
    idle.start()
    until(lambda: len(said) == 51)
    assert said.index(SECRET[::-1]) < 30


def test_ring_that_lies_in_its_socket_is_found_before_a_request_is_refused(served: Served) -> None:
    writer, reader = served.call(), served.call()
    writer.hello()
    reader.hello(secret=SECRET[::-1])
    lease = writer.lease(2, "a").lease
    served.clock.wait_s(LOOK_AGAIN_NS / 1e9)
    served.wake()
    until(lambda: served.server._notices.next_deadline_ns() is None, what="nobody having rung lately")
    with served.held_up():
        reader.say(m.Attach(3, reader.client << NUMBER_BITS | 3, "a", "", 0, 0))
        served.files.open_notice_log(writer.client).append(m.Publish(3, lease, 0, 0))
        writer.say(m.Ring(4))
    assert isinstance(reader.hear()[0], m.Attached)


def test_one_who_waits_for_years_does_not_end_the_loop(served: Served) -> None:
    patient, other = served.call(), served.call()
    patient.hello()
    other.hello(secret=SECRET[::-1])
    patient.say(m.Attach(2, patient.client << NUMBER_BITS | 2, "never", "", 0, 10**18))
    for seq in (2, 3):
        other.say(m.Ping(seq))
        assert other.hear() == [m.Done(seq)]
        served.clock.wait_s(1)


def test_loop_that_is_closed_hangs_up_on_everybody(served: Served) -> None:
    before = set(os.listdir("/proc/self/fd"))
    callers = [served.call() for _ in range(3)]
    for number, caller in enumerate(callers[:2]):
        caller.hello(secret=bytes([number]) * 16)
    until(lambda: len(served.loop._connections) == 3, what="the one that says nothing")
    served.stop()
    served.loop.close()
    assert [caller.hear() for caller in callers] == [[], [], []]
    for caller in callers:
        caller.socket.close()
    assert set(os.listdir("/proc/self/fd")) < before
