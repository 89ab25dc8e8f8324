"""Objects put and got: by name, by ticket, by address; their arrays hold the segment, and nothing else does."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import numpy as np
import pytest
from worlds import World, live

import shmlease
from rig.until import until

VALUE = {"x": np.arange(1000), "y": [np.ones(300), "text"], "z": None}


@pytest.mark.parametrize("how", ["name", "ticket", "address"])
def test_object_is_got_without_a_copy_and_holds_its_segment(world: World, how: str) -> None:
    peer = world.peer()
    with world.registry.put(VALUE, "o") as lease:
        first, last = lease.array.ctypes.data, lease.array.ctypes.data + lease.nbytes
        ways = {"name": lambda: "o", "ticket": lease.ticket, "address": lease.address}
        value = peer.get(ways[how]())
        assert first <= lease.load()["x"].ctypes.data < last
    assert (value["x"] == VALUE["x"]).all()
    assert (value["y"][1], value["z"]) == ("text", None)
    assert not value["x"].flags.writeable
    kept = value["y"][0]
    del value
    gc.collect()
    assert live(world.registry) == 1
    assert kept.sum() == 300
    del kept
    until(lambda: live(world.registry) == 0)
    assert "retired" not in world.registry.statistics().counters


def test_object_can_be_changed_in_a_copy_of_ones_own(world: World) -> None:
    with world.registry.put(VALUE, "o"):
        value = world.registry.get("o", mode="c")
        value["x"][:] = 0
        assert world.registry.get("o")["x"].sum() == 499_500
        with pytest.raises(shmlease.ModeError):
            world.registry.get("o", mode="r+")
        del value
        gc.collect()


def test_array_that_was_shared_is_got_as_one(world: World) -> None:
    with world.registry.share(np.arange(5), "a") as lease:
        assert world.registry.get("a").tolist() == [0, 1, 2, 3, 4]
        assert lease.load().tolist() == [0, 1, 2, 3, 4]


def test_object_without_memory_of_its_own_leaves_nothing(world: World) -> None:
    with world.registry.put("only text", "o"):
        assert world.registry.get("o") == "only text"
    until(lambda: live(world.registry) == 0)


def test_text_is_always_a_name(world: World) -> None:
    with world.registry.put(VALUE, "o") as lease:
        ticket = lease.ticket()
        with pytest.raises(shmlease.SegmentNotFoundError):
            world.registry.get(str(ticket), timeout=0)
        assert world.registry.get(shmlease.Ticket.parse(str(ticket)))["y"][1] == "text"


def test_object_that_cannot_be_loaded_is_an_error_and_leaves_nothing(world: World) -> None:
    with world.registry.put(VALUE, "o") as lease:
        content = lease.array.copy()
    from shmlease.client.layout import layout_of_object

    cut = content[:200]
    layout = layout_of_object(len(cut), needs_private=False)
    written = world.registry._written(
        world.registry._link, layout, "cut", 5.0, 0, "here", lambda array: np.copyto(array, cut)
    )
    with written, pytest.raises(shmlease.ObjectError, match="segment 'cut' holds no object"):
        world.registry.get("cut")
    gc.collect()
    until(lambda: live(world.registry) == 0)


def test_thousand_objects_put_and_got_taint_and_warn_of_nothing(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(1000):
            with world.registry.put({"n": np.arange(number % 100 + 1)}) as lease:
                assert world.registry.get(lease.ticket())["n"][-1] == number % 100
    until(lambda: live(world.registry) == 0)
    counters = world.registry.statistics().counters
    assert "lingered" not in counters
    assert counters["created"] <= 80


@pytest.mark.parametrize("table", [{"a": [1]}, pytest.param("frame", id="frame")])
def test_what_is_no_array_is_not_shared_as_one_but_pointed_to_put(world: World, table: Any) -> None:
    value = pytest.importorskip("pandas").DataFrame({"a": [1]}) if table == "frame" else table
    with pytest.raises(TypeError, match=f"not a {type(value).__name__}; put\\(\\) takes any object"):
        world.registry.share(value)
    with pytest.raises(shmlease.DTypeError, match="put\\(\\), which takes any object"):
        world.registry.share(np.array([None]))
