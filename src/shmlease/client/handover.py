"""Taking over from the registry that clients have started in place of a killed `shmlease serve`."""

from __future__ import annotations

import os
import time
from typing import Final

from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.client.refusals import error_of
from shmlease.core import messages as m
from shmlease.core.wire import decode_registry_packet, encode
from shmlease.errors import PermissionDeniedError, RegistryUnavailableError
from shmlease.system.directory import RegistryDirectory

__all__ = ["begin_or_take_over"]

# Clients that notice the end first elect a successor of their own, which is asked in turn.
_WITHIN_S: Final = 10.0


def begin_or_take_over(directory: RegistryDirectory) -> int:
    """Make the directory of a registry and lock it; a registry there that clients have started makes way.

    Raises
    ------
    RegistryUnavailableError
        A registry is running there, for its user or for the process that has started it.
    """
    deadline_s = time.monotonic() + _WITHIN_S
    while True:
        directory.create()
        lock_fd = directory.lock()
        if lock_fd is not None:
            return lock_fd
        if time.monotonic() > deadline_s:
            raise RegistryUnavailableError(f"registry {directory.id} is running already; see `shmlease status`")
        _ask_to_make_way(DirectoryEndpoint(directory))


def _ask_to_make_way(endpoint: DirectoryEndpoint) -> None:
    """Return when the registry ends, or could not be asked and may have ended."""
    connection = endpoint.connection()
    try:
        connection.open()
    except (ConnectionError, FileNotFoundError, TimeoutError):
        connection.close()
        time.sleep(0.001)  # it is beginning, or ending
        return
    try:
        connection.send(encode([m.Hello(1, m.PROTOCOL, os.urandom(16), 0, to_serve=True)]))
        connection.receive(wait=True)
    except ConnectionError:
        return
    finally:
        connection.close()
    packet = connection.inbox[0] if connection.inbox else b""
    for answer in decode_registry_packet(packet) if packet else ():
        if isinstance(answer, m.Refused):
            error = error_of(answer)
            if isinstance(error, PermissionDeniedError):
                raise RegistryUnavailableError(error.message, **error.fields)
            raise error
