"""Where and how an audit ran: the machine, the user and the command, for the report."""

from __future__ import annotations

import getpass
import os
import platform
import sys
import time

from shmlease import __version__
from shmlease.auditor.judge.evidence import Evidence
from shmlease.auditor.judge.findings import Environment

__all__ = ["environment_of"]


def environment_of(evidence: Evidence, elapsed_ns: int) -> Environment:
    """The environment of an audit that has taken `elapsed_ns` so far."""
    return Environment(
        version=__version__,
        host=platform.node(),
        kernel=platform.release(),
        boot_id=evidence.boot_id,
        user=_user_name(),
        user_id=evidence.user_id,
        privileged=evidence.user_id == 0,
        roots=tuple(root.path for root in evidence.roots),
        began_ns=time.time_ns() - elapsed_ns,
        elapsed_ns=elapsed_ns,
        command=" ".join(sys.argv),
    )


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return f"uid {os.geteuid()}"
