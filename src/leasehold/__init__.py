"""Shared memory that cannot leak: leased numpy arrays between processes."""

__version__ = "0.1.0"
