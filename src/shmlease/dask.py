"""Dask: a registry a node, arrays between the processes of a node as leases, ingest over a cluster.

It is also the module that Dask preloads.
"""

from __future__ import annotations

try:
    import distributed as _distributed  # noqa: F401 - to say what is missing
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"shmlease.dask needs {error.name}: pip install 'shmlease[dask]'", name=error.name, path=error.path
    ) from error

from shmlease.hdf5.consolidation import consolidate
from shmlease.integrations.dask.cluster import LocalCluster, NodeRegistry, dask_setup, dask_teardown, join
from shmlease.integrations.dask.ingest import ingest

__all__ = ["LocalCluster", "NodeRegistry", "consolidate", "dask_setup", "dask_teardown", "ingest", "join"]
