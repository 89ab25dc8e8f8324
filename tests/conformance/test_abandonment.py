"""Who waits for a name whose writer dies or gives up is told at once, and who asks within a minute as well."""

from __future__ import annotations

import pytest
from worlds import World

import shmlease
from rig.until import until

GIVES_UP = "lease = registry.lease('a', shape=3)\nNone"


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "gives up"])
def test_waiter_is_told_who_ended_where(waiting_world: World, dies: bool) -> None:
    writer, reader = waiting_world.process(), waiting_world.peer()
    writer(GIVES_UP)
    waiting = waiting_world.meanwhile(lambda: reader.attach("a", timeout=None))
    until(lambda: waiting_world.registry.statistics().waiting == 1)
    if dies:
        writer.kill()
    else:
        writer("lease.release()")
    with pytest.raises(shmlease.AbandonedError, match="without publish") as told:
        waiting.result(60)
    assert isinstance(told.value, RuntimeError)
    assert told.value.name == "a"
    assert told.value.pid > 0
    assert told.value.site
    assert told.value.at_ns > 0


def test_who_asks_a_moment_later_is_told_and_who_asks_after_a_minute_waits(world: World) -> None:
    writer = world.process()
    writer(GIVES_UP)
    writer("lease.release()")
    until(lambda: world.registry.statistics().counters.get("abandoned") == 1)
    with pytest.raises(shmlease.AbandonedError):
        world.registry.attach("a")


def test_name_written_anew_is_attached(world: World) -> None:
    writer = world.process()
    writer(GIVES_UP)
    writer("lease.release()")
    until(lambda: world.registry.statistics().counters.get("abandoned") == 1)
    with world.registry.lease("a", shape=3) as lease:
        lease.publish()
        with world.registry.attach("a") as seen:
            assert len(seen.array) == 3


def test_patient_waiter_gets_what_the_next_writer_publishes(waiting_world: World) -> None:
    writer, reader = waiting_world.process(), waiting_world.peer()
    writer(GIVES_UP)
    waiting = waiting_world.meanwhile(lambda: reader.attach("a", timeout=None, abandoned="wait"))
    until(lambda: waiting_world.registry.statistics().waiting == 1)
    writer.kill()
    until(lambda: waiting_world.registry.statistics().counters.get("abandoned") == 1)
    assert not waiting.done()
    with waiting_world.registry.lease("a", shape=3) as lease:
        lease.publish()
        with waiting.result(60) as seen:
            assert len(seen.array) == 3


def test_what_to_do_when_abandoned_is_checked(world: World) -> None:
    with pytest.raises(ValueError, match="abandoned='ignore' is neither"):
        world.registry.attach("a", abandoned="ignore")
