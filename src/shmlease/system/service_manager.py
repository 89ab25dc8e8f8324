"""Tells the service manager that started this process (systemd) how it is: one datagram to the socket that it named.

Source: sd_notify(3), "Standalone Implementations".
"""

from __future__ import annotations

import os
import socket
from typing import Final

__all__ = ["notify_service_manager"]

_ENVIRONMENT: Final = "NOTIFY_SOCKET"
# A datagram is put into the manager's queue; one whose queue is full for that long is not waited for.
_WITHIN_S: Final = 5.0


def notify_service_manager(*assignments: str) -> bool:
    """Send `assignments`, such as ``READY=1``; whether there was a manager to send them to.

    What cannot be sent is lost: a service runs on without its manager's attention, and is not to fail for it.
    """
    address = os.environ.get(_ENVIRONMENT, "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_WITHIN_S)
        try:
            sender.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return False
    return True
