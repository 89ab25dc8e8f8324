"""Hypothesis strategies for what shmlease takes: dtypes, layouts of arrays, names of segments.

Everything they draw is valid, and includes what people do not think of: sub-arrays, titles, foreign byte order, padding,
zero-sized dimensions and items, names with blanks and slashes.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

__all__ = ["LayoutArguments", "dtypes", "layouts", "names", "shapes"]


class LayoutArguments(TypedDict):
    """What `numpy.empty` and `Registry.lease` both take."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """Dtypes that can live in shared memory: plain, structured, nested, with titles, sub-arrays, padding, either byte
    order.
    """
    plain = hnp.scalar_dtypes()
    aligned = st.lists(plain, min_size=1, max_size=4).map(
        lambda kinds: np.dtype([(f"f{number}", kind) for number, kind in enumerate(kinds)], align=True)
    )
    return st.one_of(plain, hnp.array_dtypes(), hnp.nested_dtypes(max_itemsize=256), aligned)


def shapes(max_items: int = 4096) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of zero to four dimensions with at most `max_items` items, none included."""
    several = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12).filter(
        lambda shape: int(np.prod(shape)) <= max_items
    )
    return st.one_of(st.integers(0, max_items).map(lambda items: (items,)), several)


@st.composite
def layouts(draw: st.DrawFn, max_bytes: int = 65536, dtype: st.SearchStrategy[Any] | None = None) -> LayoutArguments:
    """Dtype, shape and order of an array of at most `max_bytes` bytes."""
    kind: np.dtype[Any] = np.dtype(draw(dtypes() if dtype is None else dtype))
    shape = draw(shapes(max(max_bytes // max(kind.itemsize, 1), 0)))
    return LayoutArguments(shape=shape, dtype=kind, order=draw(st.sampled_from("CF")))


def names() -> st.SearchStrategy[str]:
    """Names that a segment may have."""
    characters = st.characters(min_codepoint=32, exclude_characters="\x7f", codec="utf-8")
    return st.one_of(
        st.sampled_from(["calls/chr1", "a", "with blank", "name:with:colons", "ä/ö"]),
        st.text(characters, min_size=1, max_size=255),
    )
