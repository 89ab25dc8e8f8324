"""The pytest plugin: fails, or warns of, tests that leak shared memory; off unless an option or the configuration turns it
on.

What it needs for an audit is imported only then (`session_audit`), so that it costs nothing where it is only installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import pytest

from shmlease.errors import LeaseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmlease.client.registry import Registry

_MODES: Final = ("fail", "warn", "off")
_SCOPES: Final = ("function", "class", "module", "package", "session")
_MARKER: Final = (
    "allow_shm_leaks(reason, *, rule='*', name='*'): "
    "set aside the leaks of this test that match the globs, for the reason given."
)


def _mode(text: str) -> str:
    if text not in _MODES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(_MODES)}; write --shmlease-audit=fail {text}")
    return text


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and settings."""
    group = parser.getgroup("shmlease", "shared-memory leaks")
    group.addoption(
        "--shmlease-audit",
        nargs="?",
        const="fail",
        default=None,
        type=_mode,
        metavar="fail|warn|off",
        help="Audit shared memory after every test: fail tests that leak, or only warn of them.",
    )
    group.addoption(
        "--shmlease-report",
        metavar="FILE",
        default=None,
        help="Write what leaked in the whole session to FILE: .html, .json, .sarif, .xml (JUnit), .trace.json, .txt.",
    )
    parser.addini("shmlease_audit", "fail, warn or off: what --shmlease-audit is when it is not given", default="off")
    parser.addini(
        "shmlease_audit_children",
        "record in the Python programs that tests start, through PYTHONPATH",
        "bool",
        default=True,
    )
    parser.addini(
        "shmlease_audit_alone",
        "nothing else uses /dev/shm: what nobody is known to have made counts",
        "bool",
        default=False,
    )
    parser.addini("shmlease_registry_scope", "scope of the fixture shmlease_registry", default="function")
    parser.addini("shmlease_registry_capacity", "capacity of the fixture shmlease_registry", default="256MiB")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the audit if it is turned on."""
    config.addinivalue_line("markers", _MARKER)
    mode = config.getoption("shmlease_audit") or config.getini("shmlease_audit")
    if mode not in _MODES:
        raise pytest.UsageError(f"shmlease_audit = {mode!r}: it is one of {', '.join(_MODES)}")
    if config.getini("shmlease_registry_scope") not in _SCOPES:
        raise pytest.UsageError(f"shmlease_registry_scope is one of {', '.join(_SCOPES)}")
    if mode != "off":
        from shmlease.integrations.pytest.session_audit import start_audit  # noqa: PLC0415 - a tenth of a second, for those who want it

        try:
            start_audit(config, fails=mode == "fail")
        except LeaseError as error:
            raise pytest.UsageError(str(error)) from error


def _registry_scope(fixture_name: str, config: pytest.Config) -> Any:  # noqa: ARG001 - pytest's signature
    return config.getini("shmlease_registry_scope")


@pytest.fixture(scope=_registry_scope)
def shmlease_registry(pytestconfig: pytest.Config) -> Iterator[Registry]:
    """A registry for the test, closed after it; scope and capacity are settings."""
    from shmlease import Registry  # noqa: PLC0415 - numpy, for those who want it

    with Registry(capacity=pytestconfig.getini("shmlease_registry_capacity")) as registry:
        yield registry


@pytest.fixture
def assert_no_shm_leaks() -> Iterator[Callable[..., AbstractContextManager[None]]]:
    """Fails the test if it leaks, whatever the option says; the value is `shmlease.testing.assert_no_leaks`, for parts of
    it.

    It checks when it is torn down, so what was set up before it, and is torn down after it, does not count.
    """
    from shmlease.testing import LeakError, assert_no_leaks  # noqa: PLC0415 - a tenth of a second, for those who want it

    try:
        with assert_no_leaks("the test"):
            yield assert_no_leaks
    except LeakError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None  # its traceback is of this plugin alone
