"""Where in the user's code a lease is taken."""

from __future__ import annotations

import types

from shmlease.client import handle
from shmlease.client.call_site import calling_site


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
