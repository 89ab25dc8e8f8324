"""The marker that allows leaks takes a reason, and globs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from shmlease.integrations.pytest.item_audit import allowed_leaks


def allowed(*arguments: object, **options: object) -> list[tuple[str, str, str]]:
    mark = SimpleNamespace(args=arguments, kwargs=options)
    item = cast(Any, SimpleNamespace(nodeid="test_it.py::test_it", iter_markers=lambda name: [mark]))
    return [(each.reason, each.rule, each.name) for each in allowed_leaks(item)]


def test_reason_is_enough() -> None:
    assert allowed("kept on purpose") == allowed(reason="kept on purpose") == [("kept on purpose", "*", "*")]
    assert allowed("kept", rule="orphan", name="psm_*") == [("kept", "orphan", "psm_*")]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [((), {}), ((), {"name": "psm_*"}), (("",), {}), (("reason", "orphan"), {}), (("reason",), {"x": "y"}), ((3,), {})],
)
def test_anything_else_is_refused(arguments: tuple[object, ...], options: dict[str, object]) -> None:
    with pytest.raises(pytest.UsageError, match=r"test_it\.py::test_it: allow_shm_leaks takes a reason"):
        allowed(*arguments, **options)
