"""Dask where one machine ends: a registry a node, arrays between its processes as leases."""
