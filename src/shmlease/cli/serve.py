"""`shmlease serve`: this user's default registry, in the foreground."""

from __future__ import annotations

import os

import click

from shmlease.client.handover import begin_or_take_over
from shmlease.client.starting import WARM_IDLE_S, checked_id, new_registry, starting
from shmlease.core.settings import Settings
from shmlease.errors import LeaseError, RegistryUnavailableError
from shmlease.registry.log import ENVIRONMENT, RegistryLog
from shmlease.registry.process import serve
from shmlease.system.directory import RegistryDirectory
from shmlease.system.reclaim import sweep
from shmlease.system.registries import default_registry_id
from shmlease.system.service_manager import notify_service_manager
from shmlease.system.shm_shortage import explained
from shmlease.system.surroundings import settle_in
from shmlease.units import format_bytes

__all__ = ["command"]


@click.command()
@click.option(
    "--id", "registry", default=None, help="Id of the registry.  [default: the user's own, which connect() joins]"
)
@click.option(
    "--capacity",
    default=None,
    help='Size of all segments together, such as "2GiB".  [default: half of what /dev/shm has free]',
)
@click.option(
    "--warm", default=None, help="Most memory of free segments that is kept for reuse.  [default: half of the capacity]"
)
@click.option("--warm-idle", default=f"{WARM_IDLE_S:g}s", show_default=True, help="How long an unused segment is kept.")
def command(registry: str | None, capacity: str | None, warm: str | None, warm_idle: str) -> None:
    """Run a registry in the foreground, until Ctrl-C or SIGTERM.

    Any process of this user joins it with shmlease.connect(). If a registry of that id was killed before, its leases are
    taken over and its limits stay. If it is killed, the first of its clients to notice starts a successor, which all use
    from then on; the successor makes way when this command is run again, and ends after a minute without client, lease or
    ticket.
    """
    with starting():
        sweep()
        try:
            directory = RegistryDirectory(default_registry_id() if registry is None else checked_id(registry))
            new = new_registry(directory, capacity, warm, warm_idle)
            if new.capacity_bytes > (size_bytes := directory.total_bytes()):
                raise ValueError(
                    f"--capacity {capacity} is more than {directory.root} can hold, {format_bytes(size_bytes)}"
                )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        lock_fd = begin_or_take_over(directory)
    os.umask(0o077)
    settings = Settings(directory.id, directory.root, new, in_foreground=True)

    def ready() -> None:
        serves = f"registry {directory.id} serves up to {format_bytes(new.capacity_bytes)} in {directory.path}"
        click.echo(f"shmlease: {serves}; Ctrl-C ends it", err=True)
        notify_service_manager("READY=1", f"STATUS={serves}")

    log = RegistryLog(directory, os.environ.get(ENVIRONMENT, ""), echo=True)
    try:
        serve(settings, lock_fd, ready, lambda _: settle_in(), log)
    except LeaseError:
        raise
    except OSError as error:
        raise RegistryUnavailableError(f"registry {directory.id} cannot be served: {explained(error)}") from error
    click.echo(f"shmlease: registry {directory.id} has ended, nothing is left", err=True)
