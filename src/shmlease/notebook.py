"""Small tables for notebooks: what `_repr_html_` of the public classes gives."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["html_table"]


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values below `title`; all of it is text, and escaped."""
    left = "style='text-align:left'"
    lines = "".join(f"<tr><th {left}>{_escaped(name)}</th><td {left}>{_escaped(value)}</td></tr>" for name, value in rows)
    return f"<table><caption {left}><b>{_escaped(title)}</b></caption><tbody>{lines}</tbody></table>"


def _escaped(value: object) -> str:
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.encode(errors="replace").decode()
