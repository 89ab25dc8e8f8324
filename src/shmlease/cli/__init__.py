"""The command line: `shmlease COMMAND`, also `python -m shmlease`.

Each command lives in the module of its name and is imported when it is called, so that `shmlease --help` stays quick.
Data goes to stdout, talk and progress to stderr.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from typing import Any

import click

from shmlease import __version__
from shmlease.errors import LeaseError
from shmlease.exhaustion import shortage_behind
from shmlease.system.shm_shortage import explained

__all__ = ["main"]

# command -> its line in the overview; the module is shmlease.cli.<command>, its click command is named `command`
COMMANDS = {
    "serve": "Run a registry in the foreground.",
    "status": "Show the lease table of this user's registries.",
    "ingest": "Load text files into one HDF5 file through shared memory.",
    "verify": "Check an HDF5 file against its checksums and sources.",
    "audit": "Report what leaked in /dev/shm, and who made it.",
    "run": "Run a command and report what it leaked.",
    "reap": "Remove segments that are proved to belong to nobody.",
    "selftest": "Plant every kind of leak and see it detected.",
    "stress": "Run clients under injected faults and report every broken promise.",
    "bench": "Measure hand-over and leases against other libraries.",
    "top": "Watch the registries live.",
}

_INTERRUPTED = 130  # 128 and the number of the signal
_NOT_TAKEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"shmlease.cli.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; a command that is not there is answered with those that are spelled like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib  # noqa: PLC0415 - only for who mistyped

            alike = difflib.get_close_matches(args[0], COMMANDS)
            if not alike:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(map(repr, alike))}?", error.ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """As click's; Ctrl-C is answered as shells have it, with what the error says beside."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo(f"shmlease: interrupted{error}", err=True)
            sys.exit(_INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shmlease")
def cli() -> None:
    """Shared memory that cannot leak, for numpy arrays between processes."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error of shmlease or of the system becomes one line on stderr and exit code 2."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited: no exit code of a child could be asked for
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        cli.main(args=arguments, prog_name="shmlease")
    except LeaseError as error:
        click.echo(f"shmlease: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # files that a user names are written by shmlease.output_file, so what a disk does not take is stdout
        subject = error.filename or ("standard output" if error.errno in _NOT_TAKEN else None)
        click.echo(f"shmlease: {subject}: {error.strerror}" if subject else f"shmlease: {explained(error)}", err=True)
        _drop_unwritten_stdout()
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        shortage = shortage_behind(error)
        if shortage is None:
            raise
        click.echo(f"shmlease: {explained(shortage)}", err=True)
        sys.exit(2)
    except ImportError as error:  # an extra that is not installed; or there is no memory for a library
        click.echo(f"shmlease: {error.name or 'a library'} cannot be loaded: {error}", err=True)
        sys.exit(2)


def _drop_unwritten_stdout() -> None:
    """Let nothing be left in stdout's buffer: Python would fail at it again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
