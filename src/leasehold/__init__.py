"""Shared memory that cannot leak: leased numpy arrays between processes.

A registry process owns every segment and hands out leases; a segment lives exactly as long as its last lease or ticket. What
is named here is the public interface. It is imported when first used: the registry process, which imports this package too,
runs without numpy, and nothing here imports h5py or pytest.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from leasehold.lazy import lazily

__version__ = "0.1.0"

if sys.platform != "linux" or not os.path.isdir("/dev/shm"):
    from leasehold.errors import UnsupportedPlatformError

    raise UnsupportedPlatformError(
        f"leasehold needs Linux with /dev/shm; this is {sys.platform}"
        + ("" if sys.platform != "linux" else " without it: mount a tmpfs there")
    )

if TYPE_CHECKING:
    from leasehold.auditor.looking import audit
    from leasehold.client.handle import RegistryHandle
    from leasehold.client.lease import Lease
    from leasehold.client.registry import Registry, connect
    from leasehold.client.statistics import Statistics
    from leasehold.client.ticket import Ticket
    from leasehold.errors import (
        CapacityError,
        DTypeError,
        IngestError,
        LeaseClosedError,
        LeaseholdError,
        LeaseholdWarning,
        LeaseNotHeldWarning,
        LingeringViewError,
        LingeringViewWarning,
        PermissionDeniedError,
        ProtocolError,
        RegistryUnavailableError,
        SegmentExistsError,
        SegmentNotFoundError,
        SinkError,
        TicketError,
        UnsupportedPlatformError,
    )
    from leasehold.pipeline.api import ingest
    from leasehold.sinks.hdf5 import HDF5Sink
    from leasehold.sinks.verification import verify

__all__ = [
    "CapacityError",
    "DTypeError",
    "HDF5Sink",
    "IngestError",
    "Lease",
    "LeaseClosedError",
    "LeaseNotHeldWarning",
    "LeaseholdError",
    "LeaseholdWarning",
    "LingeringViewError",
    "LingeringViewWarning",
    "PermissionDeniedError",
    "ProtocolError",
    "Registry",
    "RegistryHandle",
    "RegistryUnavailableError",
    "SegmentExistsError",
    "SegmentNotFoundError",
    "SinkError",
    "Statistics",
    "Ticket",
    "TicketError",
    "UnsupportedPlatformError",
    "__version__",
    "audit",
    "connect",
    "ingest",
    "verify",
]

_HOMES: Final = {
    "HDF5Sink": "leasehold.sinks.hdf5",
    "Lease": "leasehold.client.lease",
    "Registry": "leasehold.client.registry",
    "RegistryHandle": "leasehold.client.handle",
    "Statistics": "leasehold.client.statistics",
    "Ticket": "leasehold.client.ticket",
    "audit": "leasehold.auditor.looking",
    "connect": "leasehold.client.registry",
    "ingest": "leasehold.pipeline.api",
    "verify": "leasehold.sinks.verification",
}

__getattr__, __dir__ = lazily(__name__, {**dict.fromkeys(__all__, "leasehold.errors"), **_HOMES})
