"""A registry with a fault of its own: its traceback is kept, what two have died of is refused, everybody else is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import shmlease
from rig import planted_faults
from rig.actor import Actor
from rig.site import Site
from rig.until import until
from shmlease.core.model import EventKind

Start = Callable[[str], shmlease.Registry]


@pytest.fixture
def faulty() -> Iterator[Start]:
    """Starts a registry that has a fault, and whose successors have it."""
    started: list[shmlease.Registry] = []
    plants = []

    def start(fault: str) -> shmlease.Registry:
        plant = planted_faults.planted(fault)
        plant.__enter__()
        plants.append(plant)
        started.append(shmlease.Registry("16MiB", warm=0))
        return started[-1]

    yield start
    for registry in started:
        registry.close()
    for plant in plants:
        plant.__exit__(None, None, None)


def said_at_the_end(registry: shmlease.Registry) -> list[str]:
    """What the event log has of faults."""
    return [event.detail for event in Site(registry.id).ledger().events if event.kind is EventKind.FAULT]


def command(*arguments: str) -> str:
    words = [sys.executable, "-m", "shmlease", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "400"}).stdout


def test_request_that_raises_is_refused_to_its_sender_with_the_traceback_and_where_it_is(faulty: Start) -> None:
    registry = faulty("trimming_raises")
    with pytest.raises(shmlease.RegistryFaultError, match=r"two processes .* Trim number") as refused:
        registry.trim()
    assert f"AssertionError: {planted_faults.SAID}" in str(refused.value)
    log = f"/dev/shm/shmlease-{registry.id}/log"
    assert f"see {log}" in str(refused.value)
    assert registry.statistics().epoch == 3
    assert len(said_at_the_end(registry)) == 2
    with open(log) as file:
        written = file.read()
    for text in (written, *said_at_the_end(registry)):
        assert "Traceback (most recent call last)" in text
        assert planted_faults.SAID in text
    assert planted_faults.SAID in command("status")
    (told,) = json.loads(command("status", "--json"))
    assert "Traceback" in next(event["detail"] for event in told["events"] if event["kind"] == "registry failed")
    assert f"registry {registry.id} failed 2 times: AssertionError: {planted_faults.SAID}" in command("audit")


@pytest.mark.parametrize("fault", ["trimming_crashes", "trimming_is_killed"])
def test_request_that_ends_the_process_itself_is_refused(faulty: Start, fault: str) -> None:
    registry = faulty(fault)
    with registry.share(np.arange(10), "a") as lease:
        with pytest.raises(shmlease.RegistryFaultError) as refused:
            registry.trim()
        assert lease.array.sum() == 45
        with registry.attach("a") as reader:
            assert reader.array.sum() == 45
    assert registry.statistics().epoch == 3
    seen = "Segmentation fault" if fault == "trimming_crashes" else "left no traceback"
    assert seen in str(refused.value)


def test_notice_that_raises_is_not_applied_and_what_comes_after_it_is(faulty: Start) -> None:
    registry = faulty("publishing_raises")
    first, second = registry.lease("a", shape=3), registry.lease("b", shape=3)
    first.publish()
    second.release()
    assert registry.statistics().epoch == 3
    assert registry.statistics().leases["write"] == 1
    with pytest.raises(shmlease.SegmentNotFoundError):
        registry.attach("a", timeout=0)
    first.release()
    assert not registry.statistics().leases.get("write")
    assert any("Publish number" in event.detail for event in Site(registry.id).ledger().events)


def test_notice_in_hand_when_registries_were_killed_is_applied_all_the_same(faulty: Start) -> None:
    """Somebody killed them; what the notice said must not be lost."""
    registry = faulty("publishing_is_killed_three_times")
    with registry.lease("a", shape=3) as lease:
        lease.publish()
        with registry.attach("a") as reader:
            assert len(reader.array) == 3
    assert registry.statistics().epoch == 4


def test_what_was_being_granted_when_it_raised_is_not_held(faulty: Start) -> None:
    registry = faulty("attaching_raises_once_it_is_granted")
    with registry.share(np.arange(10), "a"):
        with pytest.raises(shmlease.RegistryFaultError):
            registry.attach("a")
        statistics = registry.statistics()
    assert (statistics.epoch, statistics.leases.get("read", 0)) == (3, 0)


def test_effect_that_raises_ends_two_processes_and_no_more(faulty: Start) -> None:
    registry = faulty("naming_in_shm_raises")
    with registry.share(np.arange(10), "a") as lease:
        with pytest.raises(shmlease.RegistryFaultError, match="Expose"):
            lease.segment  # noqa: B018 - asking is what gives it
        assert registry.statistics().epoch == 3


def test_segment_that_cannot_be_unlinked_is_left(faulty: Start) -> None:
    registry = faulty("unlinking_raises")
    registry.share(np.arange(10), "a").release()
    until(lambda: registry.statistics().epoch == 3, what="the third process")
    with registry.lease("a", shape=10):
        statistics = registry.statistics()
        assert (statistics.epoch, statistics.segments["retiring"]) == (3, 1)


@pytest.mark.filterwarnings("ignore:registry .* was closed while:shmlease.errors.LeaseWarning")
def test_death_that_cannot_be_dealt_with_leaves_the_dead_ones_lease_and_serves_the_rest(faulty: Start) -> None:
    registry = faulty("deaths_raise")
    with Actor(registry.id) as actor:
        actor("lease = registry.share(np.arange(10), 'a')")
        actor.kill()
    until(lambda: registry.statistics().epoch == 3, what="the third process")
    with registry.attach("a") as reader:
        assert reader.array.sum() == 45
    assert any("end of client 2" in event.detail for event in Site(registry.id).ledger().events)


def test_ticket_whose_end_raises_does_not_end(faulty: Start) -> None:
    registry = faulty("expiry_raises")
    with registry.share(np.arange(10)) as lease:
        lease.ticket(ttl=0.01)
    until(lambda: registry.statistics().epoch == 3, what="the third process")
    assert registry.statistics().tickets == 1
    assert registry.statistics().epoch == 3


def test_traceback_outlives_the_registry_in_the_log_of_its_owner(caplog: pytest.LogCaptureFixture) -> None:
    with (
        planted_faults.planted("trimming_raises"),
        shmlease.Registry("16MiB") as registry,
        pytest.raises(shmlease.RegistryFaultError),
    ):
        registry.trim()
    assert [record.levelname for record in caplog.records if record.name == "shmlease.registry"] == ["ERROR", "ERROR"]
    assert caplog.text.count("Traceback (most recent call last)") == 2
    assert f"AssertionError: {planted_faults.SAID}" in caplog.text


def test_registry_tells_its_log_what_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMLEASE_LOG", "debug")
    with shmlease.Registry("16MiB") as registry:
        with registry.share(np.arange(10), "a") as lease:
            lease.ticket(ttl=0.001)
        until(lambda: registry.statistics().tickets == 0, what="the end of the ticket")
        with open(f"/dev/shm/shmlease-{registry.id}/log") as file:
            lines = file.read()
    assert "DEBUG" in lines
    assert "LeaseRow" in lines
    assert "WARNING" in lines
    assert "ticket expired" in lines


def test_others_go_on_meanwhile(faulty: Start) -> None:
    registry = faulty("trimming_raises")
    infected = "from rig import planted_faults; planted_faults.infect('trimming_raises')"
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with Actor(registry.id, before=f"sys.path.append({tests!r}); {infected}") as other:
        other("lease = registry.share(np.arange(10), 'a')")
        other.begin("[registry.share(np.arange(i)).release() for i in range(2000)]; registry.trim()")
        with pytest.raises(shmlease.RegistryFaultError):
            registry.trim()
        with pytest.raises(shmlease.RegistryFaultError):
            other.result()
        assert other("registry.attach('a').array.sum()") == 45
    assert registry.statistics().epoch == 5, "each request ended two"
