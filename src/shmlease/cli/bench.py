"""`shmlease bench`: what shmlease costs on this machine, against other libraries, in a minute."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import click
import msgspec

from shmlease.units import parse_bytes, parse_duration
from shmlease.verification.bench.handover import measure_handover
from shmlease.verification.bench.memory import measure_memory
from shmlease.verification.bench.report import as_text
from shmlease.verification.bench.roundtrip import measure_roundtrip, measure_throughput
from shmlease.verification.bench.timing import Measurement

__all__ = ["command"]

_CLIENTS: Final = (1, 2, 4)

# name -> what it measures, from sizes and seconds a figure
_BENCHMARKS: Final[dict[str, Callable[[list[int], float], Measurement]]] = {
    "handover": measure_handover,
    "roundtrip": lambda sizes, seconds: measure_roundtrip(seconds),  # noqa: ARG005
    "throughput": lambda sizes, seconds: measure_throughput(_CLIENTS, seconds),  # noqa: ARG005
    "memory": lambda sizes, seconds: measure_memory((0, 1_000)),  # noqa: ARG005
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(_BENCHMARKS)))
@click.option("--sizes", default="4KiB,1MiB,64MiB", show_default=True, help="Sizes of the arrays that are handed over.")
@click.option("--seconds", "duration", default="1s", show_default=True, help="How long to measure each figure.")
@click.option("--json", "as_json", is_flag=True, help="Write the measurements as JSON.")
def command(names: tuple[str, ...], sizes: str, duration: str, as_json: bool) -> None:
    """Measure shmlease against other libraries: all benchmarks, or those named.

    Methods take turns and figures are medians, because machines are shared and noisy; ratios say more than times.
    """
    try:
        sizes_bytes = [parse_bytes(size) for size in sizes.split(",")]
        seconds = parse_duration(duration)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if min(sizes_bytes) < 8:
        raise click.UsageError(f"--sizes {sizes}: an array of 8-byte numbers takes at least 8 bytes")
    if not seconds:
        raise click.UsageError(f"--seconds {duration}: a figure takes some time")
    os.environ["PYTHONSAFEPATH"] = "1"  # what multiprocessing spawns runs nothing that lies in the current directory
    measurements = []
    for name in names or _BENCHMARKS:
        measurement = _BENCHMARKS[name](sizes_bytes, seconds)
        measurements.append(measurement)
        if not as_json:
            click.echo(as_text(measurement))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(measurements), indent=2).decode())
