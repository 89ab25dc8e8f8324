"""The parser is chosen by what was compiled, and a wrong wish is an error."""

from __future__ import annotations

import pytest

from shmlease.errors import IngestError
from shmlease.text import native_parser, parser_choice
from shmlease.text.parser import parse_block
from shmlease.text.parser_choice import PARSERS, choose_parser


@pytest.fixture
def without_library(monkeypatch, tmp_path):
    monkeypatch.setattr(native_parser, "_SOURCE", str(tmp_path / "lines.c"))
    native_parser.library.cache_clear()
    yield tmp_path
    native_parser.library.cache_clear()


def test_numpy_can_be_asked_for():
    assert PARSERS[choose_parser("numpy")].parse_block is parse_block


@pytest.mark.skipif(native_parser.library() is None, reason="lines.c was not compiled (no C compiler)")
def test_what_was_compiled_is_used():
    assert choose_parser() == choose_parser("native") == "native"


def test_without_the_library_numpy_reads_all(without_library):
    assert choose_parser() == "numpy"
    with pytest.raises(IngestError, match="C compiler"):
        choose_parser("native")


@pytest.mark.skipif(native_parser.library() is None, reason="lines.c was not compiled (no C compiler)")
def test_a_library_of_another_source_is_not_used(without_library, monkeypatch):
    compiled = native_parser.__file__.replace("native_parser.py", "_lines.so")
    (without_library / "_lines.so").symlink_to(compiled)
    (without_library / "lines.c").write_text("/* a later one */")
    assert choose_parser() == "numpy"


def test_an_unknown_parser_is_refused():
    with pytest.raises(ValueError, match="auto, native, numpy"):
        parser_choice.choose_parser("polars")
