"""Whoever is malformed, slow, silent, greedy or another user harms only himself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until
from shmlease.core import messages as m
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.system.ledger import read_ledger

StartActor = Callable[..., Actor]
# Everything is imported first: another user may not be able to read the interpreter's files.
BECOME_NOBODY = "import socket, shmlease.client.registry; os.setgid(65534); os.setuid(65534)"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def dial(site: Site) -> Iterator[Callable[[], socket.socket]]:
    """Opens raw connections to the registry."""
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(60)
        connection.connect(site.directory.socket_path)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def hello(connection: socket.socket) -> m.Welcome:
    connection.send(encode([m.Hello(1, m.PROTOCOL, b"0123456789abcdef", 0)]))
    (welcome,) = decode_registry_packet(connection.recv(65536))
    assert isinstance(welcome, m.Welcome)
    return welcome


def is_hung_up(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_directory_socket_and_segments_are_this_users_alone(registry: shmlease.Registry, site: Site) -> None:
    with registry.share(np.arange(10), "a") as lease:
        assert lease.segment
        assert os.stat(site.directory.path).st_mode & 0o777 == 0o700
        for name in os.listdir(site.directory.path):
            assert os.stat(f"{site.directory.path}/{name}").st_mode & 0o777 == 0o600, name


@root_only
def test_another_user_is_told_whose_registry_it_is(registry: shmlease.Registry) -> None:
    with (
        Actor(before=BECOME_NOBODY) as stranger,
        pytest.raises(shmlease.PermissionDeniedError) as refused,
    ):
        stranger("shmlease.connect(id)", id=registry.id)
    assert "belongs to uid 0" in str(refused.value)


@root_only
def test_another_user_is_refused_by_the_kernels_word_though_every_door_stands_open(site: Site) -> None:
    os.chmod(site.directory.path, 0o755)
    os.chmod(site.directory.socket_path, 0o666)
    try:
        with Actor(before=BECOME_NOBODY) as stranger:
            answer = stranger(
                "connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
                "connection.connect(path)\n"
                "try:\n    connection.send(hello); said = connection.recv(65536)\n"
                "except OSError: said = b''\n"
                "said",
                path=site.directory.socket_path,
                hello=encode([m.Hello(1, m.PROTOCOL, b"0123456789abcdef", 0)]),
            )
        assert answer == b""
        assert len(site.ledger().clients) == 1
    finally:
        os.chmod(site.directory.path, 0o700)


def test_client_of_another_protocol_is_told_so(dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.send(encode([m.Hello(1, m.PROTOCOL + 1, b"0123456789abcdef", 0)]))
    (refused,) = decode_registry_packet(connection.recv(65536))
    assert isinstance(refused, m.Refused)
    assert "same version" in refused.message
    assert is_hung_up(connection)


@pytest.mark.parametrize(
    "packet",
    [b"\xc1", b"\0" * 65537, encode([m.Ping(1)]), b"\x91" * 3000, b"\x91\x95\x03\x01\x02\xa1\xff\xa0"],
    ids=["no message", "too long", "not hello", "nested", "bad UTF-8"],
)
def test_connection_that_does_not_begin_with_hello_ends(dial: Callable[[], socket.socket], packet: bytes) -> None:
    connection = dial()
    connection.send(packet)
    assert is_hung_up(connection)


@pytest.mark.filterwarnings("ignore:registry .* was closed while:shmlease.errors.LeaseWarning")
def test_connection_that_breaks_the_protocol_ends_and_its_leases_stay(
    dial: Callable[[], socket.socket], registry: shmlease.Registry
) -> None:
    connection = dial()
    client = hello(connection).client
    connection.send(encode([m.Lease(2, client << 40 | 2, "a", 4096, 1, b"", "", 0, 0)]))
    connection.recv(65536)
    connection.send(b"\xc1")
    assert is_hung_up(connection)
    assert registry.statistics().leases["write"] == 1


def test_second_hello_ends_the_connection(dial: Callable[[], socket.socket], registry: shmlease.Registry) -> None:
    connection = dial()
    hello(connection)
    connection.send(encode([m.Hello(2, m.PROTOCOL, b"0123456789abcdef", 0)]))
    assert is_hung_up(connection)
    assert registry.statistics().epoch == 1


def test_client_that_does_not_read_is_dropped_and_nobody_waits_for_it(
    dial: Callable[[], socket.socket], registry: shmlease.Registry
) -> None:
    greedy = dial()
    hello(greedy)
    greedy.setblocking(False)
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            try:
                greedy.send(encode([m.Statistics(number) for number in range(2, 60)]))
                sent += 1
            except BlockingIOError:
                with registry.share(np.arange(3), f"meanwhile {sent}"):
                    pass
    assert registry.statistics().epoch == 1


def test_silent_strangers_keep_nobody_out(dial: Callable[[], socket.socket], registry: shmlease.Registry) -> None:
    for _ in range(300):
        dial()
    with Actor(registry.id) as newcomer:
        assert newcomer("registry.statistics().epoch") == 1


def test_stopped_client_delays_nobody(actor: StartActor, registry: shmlease.Registry) -> None:
    stopped = actor()
    stopped("lease = registry.share(np.arange(10), 'held')")
    stopped.signal(signal.SIGSTOP)
    for number in range(200):
        with registry.share(np.arange(10), f"n{number}"), registry.attach(f"n{number}") as reader:
            assert reader.array.sum() == 45
    stopped.signal(signal.SIGCONT)
    assert stopped("lease.release()") is None


def test_one_who_asks_for_everything_waits_alone(actor: StartActor, registry: shmlease.Registry) -> None:
    greedy = actor()
    held = greedy("len([registry.lease(f'g{i}', shape=1 << 20, dtype='u1', timeout=0) for i in range(8)])")
    assert held == 8
    with registry.share(np.arange(10), "mine") as lease:
        assert lease.array.sum() == 45


def test_whatever_a_client_writes_into_its_notice_log_harms_nobody(
    actor: StartActor, registry: shmlease.Registry, site: Site
) -> None:
    vandal = actor()
    vandal("lease = registry.share(np.arange(10), 'a')")
    vandal(
        "import random; rng = random.Random(5); link = registry._link\n"
        "path = link.endpoint.directory.notice_log_path(link.session.client)\n"
        "for _ in range(200):\n"
        "    with open(path, 'r+b') as file:\n"
        "        file.seek(rng.randrange(16000)); file.write(rng.randbytes(rng.randrange(1, 200)))\n"
        "        if rng.random() < .1: file.truncate(rng.randrange(16000))\n"
        "    link.channel.connection.send(ring)",
        ring=encode([m.Ring(5000)]),
    )
    with registry.share(np.arange(10), "mine"):
        assert registry.statistics().epoch == 1
    vandal.kill()
    until(lambda: not site.files())


def test_huge_wait_does_not_end_the_registry(registry: shmlease.Registry) -> None:
    """epoll counts milliseconds in 32 bits: 24.8 days."""
    with registry.share(np.arange(10), "a") as lease:
        ticket = lease.ticket(ttl="10000h")
        with registry.lease("b", shape=3, timeout=float("inf"), due=1e12):
            assert registry.statistics().epoch == 1
        with registry.redeem(ticket):
            pass


def test_client_in_another_pid_namespace_is_not_taken_for_dead_and_takes_nobody_for_dead(
    registry: shmlease.Registry, site: Site
) -> None:
    """Containers that share /dev/shm and not their pids: a successor started inside cannot see who lives outside."""
    command = (
        ("unshare", "--pid", "--fork", "--mount-proc") if os.geteuid() == 0 else ("unshare", "-U", "-r", "--pid", "--fork")
    )
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let us make a pid namespace")
    with registry.share(np.arange(10), "outside") as lease, Actor(registry.id, command=command) as inside:
        inside("own = registry.share(np.arange(5), 'inside')")
        site.kill()
        assert inside("registry.statistics().epoch") == 2
        assert inside("with registry.attach('outside', timeout=0) as reader: total = int(reader.array.sum())\ntotal") == 45
        assert registry.statistics().epoch == 2
        with registry.attach("inside", timeout=0) as reader:
            assert reader.array.sum() == 10
        assert lease.array.sum() == 45
        with Actor(registry.id) as outsider:  # whom the successor sees without a pid
            outsider("held = registry.share(np.arange(3), 'short-lived')")
            outsider.kill()
            until(
                lambda: "short-lived" not in names_in(registry.id), what="the end of a lease whose holder has no pid here"
            )
        inside("own.release()")
        assert inside.leave() == 0


def names_in(registry_id: str) -> set[str | None]:
    """The names of the segments in the ledger."""
    return {segment.name for segment in read_ledger(f"/dev/shm/shmlease-{registry_id}/ledger").segments.values()}


def test_forged_ticket_is_an_error_and_no_bus_error() -> None:
    code = """
import msgspec, numpy as np, shmlease
from shmlease.client.layout import layout_of
with shmlease.Registry("4MiB") as registry, registry.share(np.arange(10.0), "a") as lease:
    ticket = lease.ticket()
    too_large = {"size_bytes": 1 << 22, "layout": layout_of(1 << 19, float).encoded}
    for changes in (too_large, {"segment": 4711}, {"layout": b"x"}):
        forged = msgspec.structs.replace(lease.ticket(), **changes)
        try:
            with registry.redeem(forged) as reader:
                print(reader.array.sum())
        except shmlease.LeaseError as error:
            print(type(error).__name__)
    print(registry.statistics().leases.get("read", 0))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "TicketError\n" * 3 + "0\n"), done.stderr
