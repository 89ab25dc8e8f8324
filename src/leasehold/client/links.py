"""This process's links, one for each registry it uses; what a fork and the end of the process mean for them."""

from __future__ import annotations

import os
from typing import Final

from leasehold.client.endpoint import DirectoryEndpoint
from leasehold.client.link import Link
from leasehold.system.directory import RegistryDirectory

__all__ = ["link_to", "links"]

links: Final[dict[str, Link]] = {}


def link_to(id: str) -> Link:
    """This process's link to the registry `id`."""
    link = links.get(id)
    if link is None or link.is_ended:
        link = links[id] = Link(DirectoryEndpoint(RegistryDirectory(id)))
    return link


def _after_fork_in_child() -> None:
    for link in list(links.values()):
        link.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
