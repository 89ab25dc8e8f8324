"""A registry that runs out of descriptors refuses newcomers with the figures and serves the rest; none are lost."""

from __future__ import annotations

import os
import resource
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
from shmlease.core.wire import decode_registry_packet
from shmlease.system.descriptors import Descriptors, descriptors_of

StartActor = Callable[..., Actor]
LIMIT = 64


@pytest.fixture
def registry_pid(registry: shmlease.Registry, site: Site) -> int:
    """A registry that may have few descriptors."""
    del registry
    row = site.ledger().registry
    assert row is not None
    resource.prlimit(row.identity.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    return row.identity.pid


CROWD = """
import socket
import subprocess
import sys
from shmlease.core import messages as m
from shmlease.core.wire import encode
connections, answers = [], []
for number in range(count):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(60)
    connection.connect(path)
    connection.send(encode([m.Hello(1, m.PROTOCOL, number.to_bytes(16), 0)]))
    answers.append(connection.recv(65536))
    connections.append(connection)
answers
"""


@pytest.fixture
def crowd(registry: shmlease.Registry, site: Site) -> Iterator[Callable[[], list[m.RegistryMessage]]]:
    """Connects 40 clients, all of one process; what each was answered."""
    del registry
    with Actor() as process:

        def connected() -> list[m.RegistryMessage]:
            answers = process(CROWD, count=40, path=site.directory.socket_path)
            return [decode_registry_packet(answer)[0] for answer in answers]

        yield connected


def test_newcomers_are_refused_with_the_figures_and_the_rest_is_served(
    registry: shmlease.Registry,
    registry_pid: int,
    actor: StartActor,
    crowd: Callable[[], list[m.RegistryMessage]],
) -> None:
    one = actor()
    answers = crowd()
    welcomed = [answer for answer in answers if isinstance(answer, m.Welcome)]
    refused = [answer for answer in answers if isinstance(answer, m.Refused)]
    assert len(welcomed) >= 8
    assert len(welcomed) + len(refused) == 40
    assert {answer.code for answer in refused} == {m.RefusalCode.CAPACITY}
    assert f"of its {LIMIT} descriptors are in use" in refused[0].message
    with Actor() as newcomer, pytest.raises(shmlease.CapacityError, match="takes no more clients") as error:
        newcomer("shmlease.connect(id)", id=registry.id)
    assert error.value.descriptors_limit == LIMIT
    assert one("registry.share(np.arange(10)).ticket(); registry.statistics().epoch") == 1
    with registry.share(np.arange(1000)) as lease, registry.redeem(lease.ticket()) as reader:
        assert reader.array.sum() == 499_500
    statistics = registry.statistics()
    assert statistics.epoch == 1
    assert Descriptors(statistics.descriptors, statistics.descriptors_limit) == descriptors_of(registry_pid)


def test_who_is_gone_leaves_room_for_another(
    registry: shmlease.Registry, registry_pid: int, actor: StartActor, crowd: Callable[[], list[m.RegistryMessage]]
) -> None:
    del registry_pid
    one = actor()
    assert isinstance(crowd()[-1], m.Refused)
    one.kill()
    with Actor(registry.id) as another:
        assert another("registry.statistics().epoch") == 1


def test_clients_of_a_registry_at_its_limit_go_on_with_its_successor(
    registry: shmlease.Registry,
    site: Site,
    registry_pid: int,
    actor: StartActor,
    crowd: Callable[[], list[m.RegistryMessage]],
) -> None:
    """Who comes back is let in before newcomers are."""
    actors = [actor() for _ in range(4)]
    assert isinstance(crowd()[-1], m.Refused)
    assert site.kill() == registry_pid
    for one in actors:
        assert one("registry.share(np.arange(10)).array.sum()") == 45
    assert registry.statistics().epoch == 2
    assert site.directory.is_served()


def test_no_descriptor_is_lost_for_clients_that_die_early(registry: shmlease.Registry, site: Site) -> None:
    row = site.ledger().registry
    assert row is not None
    before = registry.statistics().descriptors
    os.kill(row.identity.pid, signal.SIGSTOP)
    path, children = site.directory.socket_path, []
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.connect(path)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.kill(row.identity.pid, signal.SIGCONT)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as last:  # who is heard when all before it were accepted
            last.settimeout(60)
            last.connect(path)
            last.send(b"no hello")
            assert last.recv(65536)
        until(lambda: registry.statistics().descriptors == before, what="all descriptors being closed")
    finally:
        for pid in children:
            os.waitpid(pid, 0)


def test_registry_without_descriptors_for_a_client_does_not_start_and_leaves_nothing() -> None:
    code = (
        "import resource, shmlease\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "try: shmlease.Registry('1MiB')\n"
        "except shmlease.RegistryUnavailableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert "it may have 20 descriptors open, and needs 2" in done.stdout
    assert done.stderr == ""
