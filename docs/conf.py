"""How `make docs` builds the site: these pages, and the reference from the docstrings, into build/docs."""

from __future__ import annotations

import shmlease

project = "shmlease"
author = "The shmlease developers"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = shmlease.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["benchmarks/*"]
# names in docstrings stand in single backticks
default_role = "py:obj"

myst_heading_anchors = 4
# decisions are read as files of the repository, too: their first line is "# 0001 Title"
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings have types in words
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"shmlease {version}"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "icon_links": [{"name": "Source", "url": "https://github.com/shmlease/shmlease", "icon": "fa-brands fa-github"}],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
