"""A client reaches a registry in the same way wherever it is: as a process, in memory, or on the simulation's kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from seams_under_test import simulated_system

import shmlease
from rig.until import until
from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.client.endpoint import Connection, Endpoint
from shmlease.core import messages as m
from shmlease.core.model import NUMBER_BITS
from shmlease.core.settings import NewRegistry, Settings
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import own_identity
from shmlease.testing.memory_transport import FakeClock, MemoryEndpoint, MemoryTransport

CAPACITY = 1 << 20


def hello(resume: int = 0) -> m.Hello:
    return m.Hello(1, m.PROTOCOL, bytes(16), resume)


def received(connection: Connection, count: int = 1) -> list[m.RegistryMessage]:
    """The next `count` messages."""
    messages: list[m.RegistryMessage] = []

    def take() -> bool:
        connection.receive(wait=True)
        while connection.inbox:
            messages.extend(decode_registry_packet(connection.inbox.popleft()))
        return len(messages) >= count

    until(take, what=f"{count} messages")
    return messages


def has_hung_up(connection: Connection) -> bool:
    connection.receive(wait=True)
    return b"" in connection.inbox


class EndpointConformance:
    """What an `Endpoint` must do; a subclass has a fixture `endpoint` of a registry that lives."""

    @pytest.fixture
    def connection(self, endpoint: Endpoint) -> Iterator[Connection]:
        connection = endpoint.connection()
        connection.open()
        yield connection
        connection.close()

    def test_registry_that_lives_is_there(self, endpoint: Endpoint) -> None:
        assert endpoint.exists()
        endpoint.succeed()
        assert endpoint.exists(), "and needs no successor"

    def test_client_is_welcome(self, connection: Connection) -> None:
        connection.send(encode([hello()]))
        [welcome] = received(connection)
        assert isinstance(welcome, m.Welcome)
        assert (welcome.seq, welcome.applied) == (1, 0)
        assert welcome.client > 0

    def test_requests_are_answered_in_their_order(self, connection: Connection) -> None:
        connection.send(encode([hello()]))
        received(connection)
        for seq in range(2, 12):
            connection.send(encode([m.Ping(seq)]))
        assert [answer.seq for answer in received(connection, 10) if isinstance(answer, m.Done)] == list(range(2, 12))

    def test_who_does_not_wait_finds_nothing_where_nothing_is(self, connection: Connection) -> None:
        connection.send(encode([hello()]))
        received(connection)
        connection.receive(wait=False)
        assert not connection.inbox

    def test_registry_hangs_up_on_who_breaks_the_protocol(self, connection: Connection) -> None:
        connection.send(encode([hello()]))
        received(connection)
        connection.send(b"nonsense")
        until(lambda: has_hung_up(connection), what="the end of the connection")
        with pytest.raises(OSError):  # noqa: PT011 - EPIPE or ECONNRESET
            connection.send(encode([m.Ping(2)]))

    def test_stranger_who_does_not_say_hello_is_refused(self, connection: Connection) -> None:
        connection.send(encode([m.Ping(1)]))
        [refused] = received(connection)
        assert isinstance(refused, m.Refused)
        assert refused.code is m.RefusalCode.PROTOCOL
        until(lambda: has_hung_up(connection), what="the end of the connection")

    def test_who_comes_back_is_the_same_client(self, endpoint: Endpoint, connection: Connection) -> None:
        connection.send(encode([hello()]))
        [first] = received(connection)
        assert isinstance(first, m.Welcome)
        again = endpoint.connection()
        again.open()
        again.send(encode([hello(resume=first.client)]))
        [second] = received(again)
        assert isinstance(second, m.Welcome)
        assert second.client == first.client
        until(lambda: has_hung_up(connection), what="the end of the stale connection")
        again.close()

    def test_notices_of_a_client_are_applied_before_its_request_is_answered(
        self, endpoint: Endpoint, connection: Connection
    ) -> None:
        connection.send(encode([hello()]))
        [welcome] = received(connection)
        assert isinstance(welcome, m.Welcome)
        lease = welcome.client << NUMBER_BITS | 1
        connection.send(encode([m.Lease(2, lease, "x", 4096, 10, b"", "", 0, 0)]))
        [granted] = received(connection)
        assert isinstance(granted, m.Granted)
        endpoint.map(granted.segment, 4096, writable=True, private=False, reserve=True).close()
        log = endpoint.open_notice_log(welcome.client)
        assert log.append(m.Release(3, lease))
        connection.send(encode([m.Statistics(4)]))
        [figures] = received(connection)
        assert isinstance(figures, m.Figures)
        assert not any(figures.leases.values())

    def test_connection_that_was_never_opened_is_closed_without_harm(self, endpoint: Endpoint) -> None:
        endpoint.connection().close()

    def test_registry_that_has_ended_is_not_there(self, endpoint: Endpoint, connection: Connection) -> None:
        connection.send(encode([hello()]))
        received(connection)
        connection.send(encode([m.Close(2)]))
        assert any(isinstance(answer, m.Closed) for answer in received(connection))

        def is_over() -> bool:
            endpoint.clock.wait_s(0.001)
            return not endpoint.exists()

        until(is_over, what="the end of the registry")
        another = endpoint.connection()
        with pytest.raises((ConnectionError, FileNotFoundError)):
            another.open()
        another.close()


@contextlib.contextmanager
def quiet(end: Callable[[], None]) -> Iterator[None]:
    """End a registry that a test may have ended."""
    try:
        yield
    finally:
        with contextlib.suppress(shmlease.LeaseError):
            end()


class TestDirectoryEndpoint(EndpointConformance):
    @pytest.fixture
    def endpoint(self) -> Iterator[Endpoint]:
        registry = shmlease.Registry(CAPACITY)
        with quiet(registry.close):
            yield DirectoryEndpoint(RegistryDirectory(registry.id))


class TestMemoryEndpoint(EndpointConformance):
    @pytest.fixture
    def endpoint(self) -> Endpoint:
        new = NewRegistry(CAPACITY, CAPACITY, 1.0, own_identity())
        return MemoryEndpoint(MemoryTransport("mem", new, FakeClock()), "mem")


class TestSimulatedEndpoint(EndpointConformance):
    @pytest.fixture
    def endpoint(self) -> Iterator[Endpoint]:
        with simulated_system() as system:
            directory = RegistryDirectory("sim", system.root)
            directory.create()
            lock_fd = directory.lock()
            assert lock_fd is not None
            system.kernel.launch(Settings("sim", system.root, NewRegistry(CAPACITY, CAPACITY, 1.0)), lock_fd)
            directory.unlock(lock_fd)
            yield DirectoryEndpoint(directory, system.machine, spawn=None, launch_successor=system.kernel.launch)
