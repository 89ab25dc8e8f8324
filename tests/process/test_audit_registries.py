"""Audit and reap beside real registries: what is theirs by design, what a killed one leaves, and whose it is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
from isolated import isolated

import shmlease
from rig.until import until
from shmlease.auditor.audit import audit
from shmlease.auditor.judge.findings import Finding
from shmlease.auditor.reap import reap
from shmlease.system.directory import RegistryDirectory
from shmlease.system.identity import identify
from shmlease.system.ledger import read_ledger

OWNER = """
import sys, shmlease
registry = shmlease.Registry(capacity="8MiB")
lease = registry.lease("calls", shape=100_000, dtype="f8")
lease.array[:] = 1
lease.segment
print(registry.id, flush=True)
sys.stdin.read()
"""


def findings_about(registry: str, **options: object) -> list[Finding]:
    report = audit(**options)  # type: ignore[arg-type]
    return [finding for finding in report.findings if registry in f"{finding.name} {finding.path} {finding.registry}"]


def lives(pid: int) -> bool:
    try:
        identify(pid)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def killed_registry() -> Iterator[str]:
    """A registry that was killed together with its only client; its id."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    registry = owner.stdout.readline().strip()
    row = read_ledger(RegistryDirectory(registry).ledger_path).registry
    assert row is not None
    os.kill(row.identity.pid, signal.SIGKILL)
    owner.kill()
    owner.communicate()
    until(lambda: not lives(row.identity.pid))
    yield registry
    RegistryDirectory(registry).remove()


def test_registry_at_work_is_clean() -> None:
    """Leases, warm segments, spares, tickets, an OS name, and mappings kept of what was released: all in order."""
    with shmlease.Registry(capacity="8MiB") as registry:
        for _ in range(5):
            registry.share(np.zeros(1000)).release()
        with registry.lease("a", shape=1000, dtype="f8") as lease:
            lease.array[:] = 1
            assert lease.segment
            ticket = lease.ticket()
            with registry.attach("a") as reader:
                assert reader.array[0] == 1
                assert findings_about(registry.id) == []
        assert findings_about(registry.id) == []
        registry.redeem(ticket).release()
        registry.trim()
        assert findings_about(registry.id) == []


def test_fork_of_a_client_is_no_leak() -> None:
    with shmlease.Registry(capacity="8MiB") as registry, registry.lease("a", shape=1000, dtype="f8") as lease:
        lease.array[:] = 1
        release, gate = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads
            child = os.fork()
        if child == 0:
            os.close(gate)
            os.read(release, 1)
            os._exit(0)
        assert findings_about(registry.id) == []
        os.close(gate)
        os.close(release)
        os.waitpid(child, 0)


@isolated
def test_killed_registry_is_reported_and_reaped() -> None:
    with killed_registry() as killed:
        (finding,) = findings_about(killed)
        assert (finding.rule, finding.registry) == ("LH007", killed)
        assert finding.resident_bytes >= 800_000
        (removed,) = reap(yes=False).removed
        assert removed.path == f"/dev/shm/shmlease-{killed}"
        assert os.path.isdir(removed.path)
        assert reap(yes=True).removed == (removed,)
        assert os.listdir("/dev/shm") == []


@isolated
def test_killed_registry_whose_segment_is_in_use_is_left_alone() -> None:
    """By a program that knows of no lease: it opened the segment by its file."""
    with killed_registry() as killed:
        number = max(read_ledger(RegistryDirectory(killed).ledger_path).segments)
        with open(f"/dev/shm/shmlease-{killed}/s{number}", "rb"):
            result = reap(yes=True)
        assert result.removed == ()
        assert [(one.path, one.reason) for one in result.declined] == [
            (f"/dev/shm/shmlease-{killed}", f"segment {number}: somebody has it open")
        ]
        assert os.path.exists(f"/dev/shm/shmlease-{killed}/s{number}")


@isolated
def test_killed_registry_with_a_client_alive_is_left_to_it() -> None:
    with shmlease.Registry(capacity="8MiB") as registry, registry.lease("a", shape=1000, dtype="f8") as lease:
        lease.array[:] = 7
        row = read_ledger(RegistryDirectory(registry.id).ledger_path).registry
        assert row is not None
        os.kill(row.identity.pid, signal.SIGKILL)
        until(lambda: not lives(row.identity.pid))
        (declined,) = reap(yes=True).declined
        assert (declined.path, declined.rule) == (f"/dev/shm/shmlease-{registry.id}", "LH007")
        assert f"pid {os.getpid()}" in declined.reason or "open" in declined.reason
        assert lease.array[5] == 7


@isolated
def test_registry_at_work_is_never_reaped() -> None:
    with shmlease.Registry(capacity="8MiB") as registry:
        registry.share(np.zeros(1000)).release()
        registry.statistics()
        before = set(os.listdir(f"/dev/shm/shmlease-{registry.id}"))
        assert reap(yes=True).removed == ()
        assert set(os.listdir(f"/dev/shm/shmlease-{registry.id}")) == before


@isolated
def test_orphan_beside_a_registry_at_work_is_reaped_alone() -> None:
    with shmlease.Registry(capacity="8MiB") as registry, open("/dev/shm/psm_1", "wb") as file:
        file.write(b"x")
        file.close()
        registry.share(np.zeros(1000)).release()
        assert [one.path for one in reap(yes=True).removed] == ["/dev/shm/psm_1"]


def test_stopped_registry_is_still_read() -> None:
    """The table is read from its ledger; nobody is asked."""
    with shmlease.Registry(capacity="8MiB") as registry, registry.lease("a", shape=1000, dtype="f8", due=0.001):
        row = read_ledger(RegistryDirectory(registry.id).ledger_path).registry
        assert row is not None
        os.kill(row.identity.pid, signal.SIGSTOP)
        try:
            assert [finding.rule for finding in findings_about(registry.id)] == ["LH010"]
        finally:
            os.kill(row.identity.pid, signal.SIGCONT)


def test_place_in_code_where_a_lease_was_taken_is_reported() -> None:
    with shmlease.Registry(capacity="8MiB") as registry:
        lease = registry.lease("a", shape=1000, dtype="f8", due=0.001)
        (finding,) = findings_about(registry.id)
        lease.release()
    assert finding.creator is not None
    assert finding.creator.pid == os.getpid()
    assert finding.creator.place is not None
    assert finding.creator.place.file.endswith("test_audit_registries.py")
    assert finding.label == "a"
