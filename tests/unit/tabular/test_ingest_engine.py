"""The parser is chosen by what is installed and by how much there is to read, and a wrong wish is an error."""

from __future__ import annotations

import importlib.util

import pytest

from leasehold.errors import IngestError
from leasehold.tabular.engine import choose_parser
from leasehold.tabular.parse import parse_block

_INSTALLED = importlib.util.find_spec("numba") is not None


def test_little_text_is_read_without_compiling():
    assert choose_parser(1 << 20) is parse_block


def test_the_general_parser_can_be_asked_for():
    assert choose_parser(1 << 40, "numpy") is parse_block


@pytest.mark.skipif(_INSTALLED, reason="numba is installed")
def test_without_numba_the_general_parser_reads_all():
    assert choose_parser(1 << 40) is parse_block
    with pytest.raises(IngestError, match=r"pip install 'leasehold\[numba\]'"):
        choose_parser(1, "numba")


@pytest.mark.skipif(not _INSTALLED, reason="numba is not installed")
def test_with_numba_much_text_is_read_by_the_compiled_parser():
    assert choose_parser(1 << 40).__name__ == "parse_block_compiled"
    assert choose_parser(1, "numba").__name__ == "parse_block_compiled"
