"""This process's links, one for each registry that it uses."""

from __future__ import annotations

from typing import Final

from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.client.hold import Hold
from shmlease.client.link import Link
from shmlease.errors import RegistryUnavailableError
from shmlease.interrupts import is_from_handler
from shmlease.system.directory import RegistryDirectory

__all__ = ["connected_link_to", "detached_holds", "link_to", "links"]

links: Final[dict[str, Link]] = {}


def link_to(id: str) -> Link:
    """This process's link to the registry `id`."""
    link = links.get(id)
    if link is None or link.ended:
        link = links[id] = Link(DirectoryEndpoint(RegistryDirectory(id)))
    return link


def connected_link_to(id: str) -> Link:
    """This process's link to the registry `id`, connected; a new one if the registry it was with has ended.

    Raises
    ------
    RegistryUnavailableError
        There is no such registry.
    """
    link = link_to(id)
    try:
        link.connect()
    except RegistryUnavailableError as error:
        if not link.ended or is_from_handler(error):
            raise
    else:
        return link
    link = link_to(id)  # to one of the same id that was started since
    link.connect()
    return link


def detached_holds() -> list[Hold]:
    """The leases of this process that arrays carry on."""
    holds = [hold for link in list(links.values()) for hold in list(link.loose_ends.lingering.values())]
    return [hold for hold in holds if hold.is_detached and hold.is_ours]
