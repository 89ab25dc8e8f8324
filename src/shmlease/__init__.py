"""Shared memory that cannot leak: leased numpy arrays between processes.

A registry process owns every segment and hands out leases; a segment lives exactly as long as its last lease or ticket.
What is named here is the public interface. It is imported when first used: the registry process, which imports this package
too, runs without numpy, and nothing here imports h5py or pytest.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Final

from shmlease.lazy import lazily

__version__ = "0.1.0"

if sys.platform != "linux":
    from shmlease.errors import UnsupportedPlatformError

    raise UnsupportedPlatformError(f"shmlease needs Linux with /dev/shm; this is {sys.platform}")

if TYPE_CHECKING:
    from shmlease.auditor.audit import audit
    from shmlease.client.address import Address
    from shmlease.client.handle import RegistryHandle
    from shmlease.client.lease import Lease
    from shmlease.client.objects import PackedObject, pack
    from shmlease.client.registry import Registry, connect
    from shmlease.client.statistics import Statistics
    from shmlease.client.ticket import Ticket
    from shmlease.errors import (
        AbandonedError,
        CapacityError,
        DTypeError,
        IngestError,
        LeaseClosedError,
        LeaseError,
        LeaseWarning,
        LingeringViewError,
        LingeringViewWarning,
        ModeError,
        ObjectError,
        PermissionDeniedError,
        ProtocolError,
        ReentrantCallError,
        RegistryFaultError,
        RegistryUnavailableError,
        SegmentExistsError,
        SegmentNotFoundError,
        SinkError,
        TicketError,
        UnreleasedLeaseWarning,
        UnsupportedPlatformError,
    )
    from shmlease.hdf5.sink import HDF5Sink
    from shmlease.hdf5.verification import verify
    from shmlease.ingestion.ingest import ingest
    from shmlease.integrations.carrying import carrying
    from shmlease.integrations.executor import Executor

__all__ = [
    "AbandonedError",
    "Address",
    "CapacityError",
    "DTypeError",
    "Executor",
    "HDF5Sink",
    "IngestError",
    "Lease",
    "LeaseClosedError",
    "LeaseError",
    "LeaseWarning",
    "LingeringViewError",
    "LingeringViewWarning",
    "ModeError",
    "ObjectError",
    "PackedObject",
    "PermissionDeniedError",
    "ProtocolError",
    "ReentrantCallError",
    "Registry",
    "RegistryFaultError",
    "RegistryHandle",
    "RegistryUnavailableError",
    "SegmentExistsError",
    "SegmentNotFoundError",
    "SinkError",
    "Statistics",
    "Ticket",
    "TicketError",
    "UnreleasedLeaseWarning",
    "UnsupportedPlatformError",
    "__version__",
    "audit",
    "carrying",
    "connect",
    "ingest",
    "pack",
    "verify",
]

_HOMES: Final = {
    "Address": "shmlease.client.address",
    "Executor": "shmlease.integrations.executor",
    "HDF5Sink": "shmlease.hdf5.sink",
    "Lease": "shmlease.client.lease",
    "PackedObject": "shmlease.client.objects",
    "Registry": "shmlease.client.registry",
    "RegistryHandle": "shmlease.client.handle",
    "Statistics": "shmlease.client.statistics",
    "Ticket": "shmlease.client.ticket",
    "audit": "shmlease.auditor.audit",
    "carrying": "shmlease.integrations.carrying",
    "connect": "shmlease.client.registry",
    "ingest": "shmlease.ingestion.ingest",
    "pack": "shmlease.client.objects",
    "verify": "shmlease.hdf5.verification",
}

# Who imports joblib later says `import shmlease.joblib`.
if (_register := getattr(sys.modules.get("joblib"), "register_parallel_backend", None)) is not None:
    _register(
        "shmlease", lambda **options: importlib.import_module("shmlease.integrations.joblib").ShmleaseBackend(**options)
    )

__getattr__, __dir__ = lazily(__name__, {**dict.fromkeys(__all__, "shmlease.errors"), **_HOMES})
