"""One test that tries many values, where each alone takes less time than a test does around it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["for_each"]


def for_each(name: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call the test with each of `values` as its argument `name`; a failure names the value."""
    tried = list(values)
    assert tried, f"there is no {name} to try"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def try_all(**fixtures: Any) -> None:
            for value in tried:
                try:
                    test(**fixtures, **{name: value})
                except BaseException as error:
                    error.add_note(f"with {name} = {value}")
                    raise

        signature = inspect.signature(test)
        others = [parameter for parameter in signature.parameters.values() if parameter.name != name]
        try_all.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return try_all

    return decorate
