"""The error tree: each error is the builtin that a caller expects, keeps its facts, and arrives whole in
another process.
"""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from shmlease import errors
from shmlease.errors import CapacityError, LeaseError, SinkError

ERRORS = [
    value for name in errors.__all__ if isinstance(value := getattr(errors, name), type) and issubclass(value, LeaseError)
]
WARNINGS = [value for name in errors.__all__ if issubclass(value := getattr(errors, name), Warning)]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("SegmentNotFoundError", LookupError),
        ("SegmentExistsError", FileExistsError),
        ("CapacityError", MemoryError),
        ("LeaseClosedError", ValueError),
        ("TicketError", ValueError),
        ("RegistryUnavailableError", ConnectionError),
        ("RegistryFaultError", RuntimeError),
        ("ReentrantCallError", RuntimeError),
        ("ProtocolError", ValueError),
        ("PermissionDeniedError", PermissionError),
        ("DTypeError", TypeError),
        ("LingeringViewError", BufferError),
        ("SinkError", OSError),
        ("IngestError", ValueError),
        ("UnsupportedPlatformError", ImportError),
    ],
)
def test_error_is_the_builtin_that_a_caller_expects(error: str, builtin: type) -> None:
    assert issubclass(getattr(errors, error), (LeaseError, builtin))
    assert issubclass(getattr(errors, error), builtin)


def test_every_error_and_warning_is_listed() -> None:
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, LeaseError | Warning)
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_message_and_facts_survive_pickle_and_copy(error: type[LeaseError]) -> None:
    raised = error("segment 'a' is gone", segment="a", pid=7, nothing=None)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(raised, protocol))
        assert type(again) is error
        assert str(again) == "segment 'a' is gone"
        assert (again.segment, again.pid, again.nothing) == ("a", 7, None)
    assert copy.deepcopy(raised).fields == raised.fields
    assert copy.copy(raised).pid == 7


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_message_reads_the_same_for_errors_of_the_operating_system(error: type[LeaseError]) -> None:
    """OSError would print its arguments as errno and strerror."""
    assert str(error("one sentence")) == "one sentence"
    assert error("one sentence").args == ("one sentence",)


def test_fact_that_an_error_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'CapacityError' object has no attribute 'colour'"):
        _ = CapacityError("full", requested_bytes=4).colour
    assert not hasattr(CapacityError("full"), "requested_bytes")


@pytest.mark.parametrize("warning", WARNINGS, ids=lambda warning: warning.__name__)
def test_warnings_have_one_base(warning: type[Warning]) -> None:
    assert issubclass(warning, errors.LeaseWarning)


def test_only_what_was_never_released_is_a_resource_warning() -> None:
    """Python hides ResourceWarnings by default: a view that keeps memory is worth being seen."""
    assert [warning for warning in WARNINGS if issubclass(warning, ResourceWarning)] == [errors.UnreleasedLeaseWarning]


def test_reason_of_the_system_survives_pickle() -> None:
    raised = SinkError("out.h5: the disk is full", path="out.h5", errno=errno.ENOSPC)
    assert pickle.loads(pickle.dumps(raised)).errno == copy.copy(raised).errno == raised.errno == errno.ENOSPC
    assert SinkError("too many rows").errno is None
