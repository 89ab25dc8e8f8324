"""From values to a page: templates of Jinja2 that escape everything, in one frame.

Names come from anybody. So every value is escaped by the templates, the page forbids itself to load anything or to run any
script but its own, and a value that a template names and is not given is an error.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from shmlease.pages.charts import Bars, Chart
from shmlease.pages.diagrams import Diagram
from shmlease.units import format_bytes, format_count, format_duration

__all__ = ["Headline", "render_bars", "render_chart", "render_diagram", "render_page"]

_COMMON: Final = "shmlease.pages"


@dataclass(frozen=True, slots=True)
class Headline:
    """What a page says first: `state` is good, bad or unsure; `facts` are names and values beside it."""

    state: str
    text: str
    line: str
    facts: Sequence[tuple[str, str]]


def render_page(
    package: str,
    name: str,
    *,
    tool: str,
    title: str,
    at: datetime | None,
    headline: Headline,
    footer: Sequence[tuple[str, str]],
    data: bytes,
    save_as: str,
    **content: Any,
) -> str:
    """A whole page.

    Parameters
    ----------
    package, name : str
        The template is ``templates/NAME.html`` of the package, and extends ``frame.html``; ``NAME.css`` and ``NAME.js``
        beside it, where they exist, are added to those of all pages.
    tool, title : str
        The command that made it; what stands in the browser's tab.
    at : datetime, optional
        The time it tells of.
    headline, footer
        What it says first and last.
    data : bytes
        The same as JSON, embedded for other tools; `save_as` is the file name offered for it.
    **content
        The template's own variables.
    """
    css = _resource(_COMMON, "page.css") + _resource(package, f"{name}.css")
    script = _resource(_COMMON, "page.js") + _resource(package, f"{name}.js")
    # "</script>" in a name must not end the block; these three escapes are JSON's own
    json = data.decode().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    frame = {"tool": tool, "title": title, "at": at, "headline": headline, "footer": footer, "save_as": save_as}
    own = {"css": css, "script": script, "script_hash": _hash(script), "json": json}
    page: str = _environment(package).get_template(f"{name}.html").render(**frame, **own, **content)
    return page + "\n"


def render_chart(chart: Chart) -> str:
    """`chart` as an SVG file."""
    svg: str = _environment(_COMMON).get_template("chart.svg").render(chart=chart)
    return svg.strip()


def render_bars(bars: Bars) -> str:
    """`bars` as an SVG file."""
    svg: str = _environment(_COMMON).get_template("bars.svg").render(bars=bars)
    return svg.strip()


def render_diagram(diagram: Diagram) -> str:
    """`diagram` as an SVG file."""
    svg: str = _environment(_COMMON).get_template("states.svg").render(diagram=diagram)
    return svg.strip()


@functools.cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_COMMON)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=format_bytes, duration=format_duration, count=format_count)
    return environment


def _resource(package: str, name: str) -> str:
    file = resources.files(package).joinpath("templates", name)
    return file.read_text("utf-8") if file.is_file() else ""


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
