"""The two processes that play a workload: who starts the registry, who joins it, and what is checked when the victim has
ended.

Whoever starts the registry says to the runner which it is, waits until the runner has prepared the kill, and tells the
other.
"""

from __future__ import annotations

from typing import Any

import shmlease
from kill_sweep.workloads import KEPT, KIB, WORDS, Line, Workload, is_sealed, sealed
from rig.site import Site
from rig.until import until
from shmlease.client.handle import RegistryHandle
from shmlease.verification.oracle import Oracle

__all__ = ["play_victim", "play_witness"]

PATIENCE_S = 60.0


def play_victim(workload: Workload, line: Line, runner: Line, *, holds: bool) -> None:
    """Be the one that may be killed; with `holds`, take leases before the registry is killed, and use them after it."""
    if workload.victim_owns:
        with shmlease.Registry(workload.capacity) as registry:
            _introduce(registry, line, runner)
            workload.victim(registry, line)
        return
    joined = shmlease.connect(line.must_hear())
    holdings = _Holdings(joined) if holds else None
    if holdings:
        runner.say("ready")
        runner.must_hear()
    workload.victim(joined, line)
    if holdings:
        holdings.use()


def play_witness(workload: Workload, line: Line, runner: Line) -> None:
    """Be the one that stays, and sees that nothing of the victim does."""
    if workload.victim_owns:
        try:
            joined = shmlease.connect(line.hear() or "none")
        except shmlease.RegistryUnavailableError:
            if line.say("there is no registry"):  # its owner lives
                raise
            return
        workload.witness(joined, line)
        return
    with shmlease.Registry(workload.capacity) as registry, registry.share(sealed(0), KEPT) as kept:
        _introduce(registry, line, runner)
        workload.witness(registry, line)
        line.wait_for_end()
        _check_all_is_well(registry, kept, workload.capacity)


def _introduce(registry: RegistryHandle, line: Line, runner: Line) -> None:
    runner.say(f"{registry.id} {Site(registry.id).pid}")
    runner.must_hear()
    line.say(registry.id)


class _Holdings:
    """One of each: a published segment, one that is being filled, a ticket in flight."""

    def __init__(self, registry: RegistryHandle) -> None:
        self._registry = registry
        self._published = registry.share(sealed(11), "published")
        self._filling = registry.lease("filling", shape=WORDS, dtype="i8")
        self._ticket = self._published.ticket()

    def use(self) -> None:
        """Go on with all of them, and let them go."""
        with self._registry.attach("published", timeout=0) as reader:
            assert is_sealed(reader.array, 11)
        with self._registry.redeem(self._ticket) as reader:
            assert is_sealed(reader.array, 11)
        assert is_sealed(self._published.array, 11)
        self._filling.array[:] = sealed(12)
        self._filling.publish()
        with self._registry.attach("filling", timeout=0) as reader:
            assert is_sealed(reader.array, 12)
        self._filling.release()
        self._published.release()


def _check_all_is_well(registry: RegistryHandle, kept: Any, capacity: int) -> None:
    """Nothing of the victim is held any more, everything else is there, and the registry serves."""
    assert is_sealed(kept.array, 0)
    with registry.attach(KEPT, timeout=0) as reader:
        assert is_sealed(reader.array, 0)

    oracle = Oracle(registry.id, is_private=False)

    def is_alone() -> bool:
        figures = registry.statistics()
        held = {mode: count for mode, count in figures.leases.items() if count and mode != "spare"}
        files = oracle.sample()
        return (
            (figures.clients, figures.waiting, held) == (1, 0, {"write": 1})
            and (files.segments, files.tickets) == (sum(figures.segments.values()), figures.tickets)
            and not oracle.names()
        )

    until(is_alone, PATIENCE_S, what="the end of all that the victim had")
    with (
        registry.share(sealed(9), "named") as lease,
        registry.attach("named", timeout=0) as reader,
    ):  # the name is free again
        assert is_sealed(reader.array, 9)
        assert reader.segment == lease.segment
    if registry.statistics().tickets == 0:  # one that nobody was given holds its segment until it expires
        registry.lease(shape=capacity - 64 * KIB, dtype="u1", timeout=60).release()
    try:
        registry.lease(shape=capacity, dtype="u1", timeout=0)
    except shmlease.CapacityError:
        return
    raise AssertionError("the registry has granted more than its capacity")
