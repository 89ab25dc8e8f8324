"""`shmlease stress`: a seeded workload under injected faults, and a verdict that does not rely on shmlease."""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
import time
from typing import BinaryIO, Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from shmlease.core.sizes import PAGE_BYTES
from shmlease.errors import LeaseError, UnsupportedPlatformError
from shmlease.output_file import check_output, write_output
from shmlease.system.interpreter import module_command
from shmlease.units import format_bytes, format_duration, parse_bytes, parse_duration
from shmlease.verification.faults import FAULTS, FaultKind
from shmlease.verification.stress.generator import Schedule
from shmlease.verification.stress.page import as_page
from shmlease.verification.stress.run import Options, Progress, run
from shmlease.verification.stress.sandbox import enter_small_shm
from shmlease.verification.stress.shrink import shrink
from shmlease.verification.stress.verdict import Verdict, as_text

__all__ = ["command"]

# Set for the process that runs in namespaces of its own.
_PRIVATE: Final = "SHMLEASE_STRESS_PRIVATE"
# Of the private /dev/shm: room for the segments, the ledger and notice logs; small enough to be filled.
_SHM_FACTOR: Final = 2
_SHM_SLACK_BYTES: Final = 32 << 20


@click.command()
@click.option("--seed", type=int, default=None, help="Seed of workload and faults.  [default: a new one]")
@click.option("--clients", type=click.IntRange(1, 256), default=4, show_default=True, help="Number of client processes.")
@click.option("--capacity", default="64MiB", show_default=True, help="Capacity of the registry.")
@click.option("--seconds", "duration", default="30s", show_default=True, help="How long to run.")
@click.option("--operations", type=click.IntRange(1), default=None, help="Operations of each client, instead of a time.")
@click.option("--chaos", default="", help=f"Faults to inject: all, or some of {','.join(FAULTS)}.")
@click.option("--every", default="250ms", show_default=True, help="Mean time between two faults.")
@click.option("--rest-every", default="5s", show_default=True, help="How often everything is released and checked.")
@click.option("--isolate/--no-isolate", default=True, help="Use a private /dev/shm, where the system allows it.")
@click.option("--replay", type=click.File("rb"), default=None, help="Run this schedule again.")
@click.option(
    "--shrink",
    "shrink_for",
    default="60s",
    show_default=True,
    help="How long to shrink a failing schedule; 0 for not at all.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the verdict as JSON.")
@click.option("--html", "page", metavar="FILE", help="Write the verdict as a page.")
def command(
    seed: int | None,
    clients: int,
    capacity: str,
    duration: str,
    operations: int | None,
    chaos: str,
    every: str,
    rest_every: str,
    isolate: bool,
    replay: BinaryIO | None,
    shrink_for: str,
    as_json: bool,
    page: str | None,
) -> None:
    """Run clients under injected faults, and report every broken promise.

    Processes hand arrays to one another while a fault injector kills and stops them and the registry. Every few seconds all
    leases are released: nothing may then be left in /dev/shm, and no read, publication or ticket may have gone wrong. Exit
    code 0 if no promise was broken, 1 otherwise: a schedule is then written that --replay runs again.
    """
    try:
        options = Options(
            seed=secrets.randbits(32) if seed is None else seed,
            clients=clients,
            capacity_bytes=parse_bytes(capacity),
            seconds=None if operations is not None else parse_duration(duration),
            operations=operations,
            chaos=_faults(chaos),
            fault_every_s=parse_duration(every),
            rest_every_s=parse_duration(rest_every),
            is_private=_PRIVATE in os.environ,
            replay=None if replay is None else msgspec.json.decode(replay.read(), type=Schedule),
        )
        shrink_s = parse_duration(shrink_for)
    except (ValueError, msgspec.DecodeError) as error:
        raise click.UsageError(str(error)) from None
    if options.capacity_bytes < PAGE_BYTES:
        raise click.UsageError(f"--capacity {capacity}: no segment is smaller than a page of {PAGE_BYTES} bytes")
    if page is not None:
        check_output(page)
    if isolate and not options.is_private:
        _begin_again_in_private(options)
    missing = _without_private_shm(options)
    if missing:
        options = dataclasses.replace(options, chaos=tuple(k for k in options.chaos if k is not FaultKind.SHM_FULL))
    verdict = _watched(options)
    verdict = msgspec.structs.replace(verdict, coverage=[*verdict.coverage, *missing])
    if page is not None:
        write_output(page, as_page(verdict))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(verdict), indent=2).decode())
    else:
        click.echo(as_text(verdict))
    if not verdict.is_passed:
        _report_failure(verdict, options, shrink_s)
    sys.exit(0 if verdict.is_passed else 1)


def _faults(chaos: str) -> tuple[FaultKind, ...]:
    if chaos == "all":
        return FAULTS
    names = [name.strip() for name in chaos.split(",") if name.strip()]
    unknown = [name for name in names if name not in list(FAULTS)]
    if unknown:
        raise ValueError(f"--chaos {unknown[0]!r} is none of all, {', '.join(FAULTS)}")
    return tuple(FaultKind(name) for name in names)


def _begin_again_in_private(options: Options) -> None:
    """Run this command in namespaces of its own; return only where the system does not allow it.

    It is executed anew, because the first process in a user namespace can do more than an ordinary user.
    """
    try:
        enter_small_shm(_SHM_FACTOR * options.capacity_bytes + _SHM_SLACK_BYTES)
    except UnsupportedPlatformError as refusal:
        click.echo(f"shmlease: running in the system's own /dev/shm, for {refusal}", err=True)
        return
    arguments = sys.argv[sys.argv.index("stress") + 1 :]
    again = module_command("shmlease", "stress", *arguments, "--seed", str(options.seed))
    os.execve(again[0], again, {**os.environ, _PRIVATE: "1"})  # noqa: S606 - this program, again


def _without_private_shm(options: Options) -> list[str]:
    """What cannot be done to a /dev/shm that others use, in words."""
    if options.is_private:
        return []
    faults = options.replay.faults if options.replay else []
    if FaultKind.SHM_FULL in options.chaos or any(fault.kind is FaultKind.SHM_FULL for fault in faults):
        return ["shm-full: others use this /dev/shm too, and it must not be filled under them"]
    return []


def _watched(options: Options) -> Verdict:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        return run(options)
    with Live(Text("starting"), console=console, auto_refresh=False, transient=True) as live:
        return run(options, lambda progress: live.update(_line(progress, options), refresh=True))


def _line(progress: Progress, options: Options) -> Text:
    of = f" of {format_duration(options.seconds)}" if options.seconds is not None else ""
    rate = progress.operations / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
    return Text.assemble(
        (f"{format_duration(progress.elapsed_s)}{of}", "bold"),
        f"  {progress.operations:,} operations ({rate:,.0f}/s)  {progress.segments} segments, "
        f"{format_bytes(progress.segment_bytes)} of {format_bytes(options.capacity_bytes)}  {progress.faults} faults",
        f" ({progress.last_fault})" if progress.last_fault else "",
        "  ",
        (f"{progress.findings} broken promises", "bold red" if progress.findings else "green"),
    )


def _report_failure(verdict: Verdict, options: Options, shrink_s: float) -> None:
    """The seed, and a schedule as small as could be made in `shrink_s` seconds."""
    deadline_s = time.monotonic() + shrink_s

    def fails(schedule: Schedule) -> bool:
        return not run(dataclasses.replace(options, replay=schedule)).is_passed

    def is_time_up() -> bool:
        return time.monotonic() >= deadline_s

    schedule = verdict.schedule
    if shrink_s:
        click.echo(f"shmlease: shrinking the schedule, up to {format_duration(shrink_s)}", err=True)
        schedule = shrink(schedule, fails, is_time_up)
    path = f"shmlease-stress-{verdict.seed}.json"
    try:
        write_output(path, msgspec.json.encode(schedule))
    except LeaseError as error:
        click.echo(f"shmlease: {error}; write the schedule below there", err=True)
    click.echo(
        f"shmlease: seed {verdict.seed}; {verdict.schedule.operations:,} operations and {len(verdict.schedule.faults)} "
        f"faults failed, and so did the {schedule.operations:,} operations and {len(schedule.faults)} faults in {path}; "
        "run it "
        f"again with\n  shmlease stress --replay {path}\n{msgspec.json.encode(schedule).decode()}",
        err=True,
    )
