"""Where in the user's code a lease is taken."""

from __future__ import annotations

import types

from shmlease.client import handle
from shmlease.client.call_site import _known, calling_site


def test_site_is_the_nearest_caller_outside_shmlease() -> None:
    assert calling_site().startswith(__file__)
    assert calling_site().endswith("in test_site_is_the_nearest_caller_outside_shmlease")


def inside(filename: str) -> types.FunctionType:
    """A function that calls `calling_site` from the module `filename`."""
    code = compile("def call(f): return f()", filename, "exec")
    namespace: dict[str, object] = {}
    exec(code, namespace)
    return namespace["call"]  # type: ignore[return-value]


def test_frames_of_shmlease_are_passed_over() -> None:
    assert "test_call_site.py" in inside(handle.__file__)(calling_site)
    assert inside("/shmlease/client_of/mine.py")(calling_site) == "/shmlease/client_of/mine.py:1 in call"


def test_long_path_keeps_its_end() -> None:
    site = inside("/very/long/" * 100 + "the_end.py")(calling_site)
    assert len(site) <= 512
    assert site.endswith("the_end.py:1 in call")


def test_path_that_utf8_cannot_carry_can_be_sent() -> None:
    inside("caf\udce9.py")(calling_site).encode()


def test_sites_are_told_apart_though_each_is_looked_up_once() -> None:
    def two() -> tuple[str, str]:
        first = calling_site()
        second = calling_site()
        return first, second

    line = two.__code__.co_firstlineno
    for _ in range(3):
        assert [int(site.rpartition(":")[2].partition(" ")[0]) for site in two()] == [line + 1, line + 2]


def test_programs_that_generate_code_do_not_make_it_grow() -> None:
    for number in range(2000):
        assert inside(f"generated {number}")(calling_site) == f"generated {number}:1 in call"
    assert len(_known) <= 256
