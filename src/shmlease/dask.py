"""Dask: a registry a node, and arrays between the processes of a node as leases; also the module that Dask preloads."""

from __future__ import annotations

try:
    import distributed as _distributed  # noqa: F401 - to say what is missing
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"shmlease.dask needs {error.name}: pip install 'shmlease[dask]'", name=error.name, path=error.path
    ) from error

from shmlease.integrations.dask.cluster import LocalCluster, NodeRegistry, dask_setup, dask_teardown, join

__all__ = ["LocalCluster", "NodeRegistry", "dask_setup", "dask_teardown", "join"]
