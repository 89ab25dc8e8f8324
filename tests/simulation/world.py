"""What the clients of one simulated registry share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from shmlease.client.address import Address
from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.client.link import Link
from shmlease.core.settings import Settings
from shmlease.system.directory import RegistryDirectory
from simulation.contents import Content, IssuedTicket
from simulation.oracle import Oracle
from simulation.scheduler import Machine, Process

__all__ = ["World"]


@dataclasses.dataclass(slots=True)
class World:
    """What the clients of one registry share."""

    machine: Machine
    oracle: Oracle
    directory_id: str
    root: str
    life: Callable[[], int]
    launch: Callable[[Settings, int], None]
    mailbox: list[IssuedTicket] = dataclasses.field(default_factory=list)
    addresses: list[tuple[Address, Content]] = dataclasses.field(default_factory=list)
    calm: bool = False
    over: bool = False
    resting: set[Process] = dataclasses.field(default_factory=set)
    excused_ns: int = 0
    links: dict[Process, Link] = dataclasses.field(default_factory=dict)

    def excuse(self, for_ns: int) -> None:
        """For so long, calls may fail since the registry cannot be reached."""
        self.excused_ns = max(self.excused_ns, self.machine.now_ns() + for_ns)

    def excuses(self) -> bool:
        """Whether a call may fail now since the registry cannot be reached."""
        return self.over or self.oracle.closing or self.machine.now_ns() <= self.excused_ns

    def directory(self) -> RegistryDirectory:
        """The registry's directory, as one process has it."""
        return RegistryDirectory(self.directory_id, self.root)

    def endpoint(self) -> DirectoryEndpoint:
        """The registry, as one process reaches it."""
        return DirectoryEndpoint(self.directory(), self.machine, spawn=None, launch_successor=self.launch)

    def link(self, process: Process) -> Link:
        """A link of `process` to the registry; silent once the process is dead."""
        link = Link(self.endpoint())

        def died() -> None:
            link.ended = f"{process} is dead"

        process.at_death.append(died)
        self.links[process] = link
        return link

    def client_ids(self) -> set[int]:
        """Under what numbers the registry knows those who are alive."""
        return {link.session.client for process, link in self.links.items() if process.alive}
