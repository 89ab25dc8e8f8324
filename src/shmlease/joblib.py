"""Importing this module registers the joblib backend "shmlease": see `shmlease.integrations.joblib`."""

from shmlease.integrations.joblib import ShmleaseBackend

__all__ = ["ShmleaseBackend"]
