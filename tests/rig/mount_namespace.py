"""A mount namespace of its own for a command, in which it can mount what it likes; a network of its own as well."""

from __future__ import annotations

import functools
import shutil
import subprocess

import pytest

__all__ = ["mount_namespace"]


@functools.cache
def _prefix(*more: str) -> list[str]:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    for prefix in (["unshare", "--mount", *more], ["unshare", "--user", "--map-root-user", "--mount", *more]):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    pytest.skip(f"this system allows no mount namespace {' '.join(more)}")


def mount_namespace(script: str, *arguments: str, network: bool = False) -> list[str]:
    """The command that runs `script` in one; the test is skipped where that is not allowed."""
    return [*_prefix(*["--net"] * network), "sh", "-ec", script, "sh", *arguments]
