"""Each refusal of the registry is the exception that its caller expects."""

from __future__ import annotations

import pytest

from shmlease import errors
from shmlease.client.refusals import error_of
from shmlease.core.messages import RefusalCode, Refused

EXPECTED = {
    RefusalCode.CAPACITY: errors.CapacityError,
    RefusalCode.NOT_FOUND: errors.SegmentNotFoundError,
    RefusalCode.EXISTS: errors.SegmentExistsError,
    RefusalCode.NOT_HELD: errors.LeaseClosedError,
    RefusalCode.TICKET: errors.TicketError,
    RefusalCode.CLOSING: errors.RegistryUnavailableError,
    RefusalCode.PROTOCOL: errors.ProtocolError,
    RefusalCode.PERMISSION: errors.PermissionDeniedError,
    RefusalCode.RESUME: errors.RegistryUnavailableError,
    RefusalCode.FAULT: errors.RegistryFaultError,
    RefusalCode.ABANDONED: errors.AbandonedError,
    RefusalCode.MODE: errors.ModeError,
}


@pytest.mark.parametrize("code", list(RefusalCode))
def test_refusal_is_its_exception_with_its_facts(code: RefusalCode) -> None:
    error = error_of(Refused(1, code, "in words", {"requested_bytes": 5, "name": None}))
    assert type(error) is EXPECTED[code]
    assert str(error) == "in words"
    assert error.fields == {"requested_bytes": 5, "name": None}
