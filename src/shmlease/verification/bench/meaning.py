"""What a measurement means for a user, in one sentence; taken from its figures, so that it is true of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shmlease.units import format_bytes, format_duration
from shmlease.verification.bench.timing import Measurement

__all__ = ["meaning_of", "quicker_from"]


def meaning_of(measurement: Measurement) -> str:
    """The sentence; empty if nothing is known about such a measurement, or if figures it needs were not taken."""
    for name, say in _MEANINGS.items():
        if measurement.name.startswith(name):
            try:
                return say(measurement)
            except (LookupError, ValueError):  # a subject or a point is not there: ValueError is that of unpacking
                return ""
    return ""


def quicker_from(measurement: Measurement, subject: str, other: str) -> float | None:
    """The first point from which on `subject` takes less time than `other`; None if it does not at the last.

    Raises
    ------
    LookupError
        There is no point at which both were measured.
    """
    first = None
    for at in _common_points(measurement, subject, other):
        if _p50(measurement, subject, at) >= _p50(measurement, other, at):
            first = None
        elif first is None:
            first = at
    return first


def _beside(ours: str, theirs: str, words: str) -> Callable[[Measurement], str]:
    """From which size on ours is the quicker one, and by how much at the largest; `words` is their name in the sentence."""

    def say(measurement: Measurement) -> str:
        points = _common_points(measurement, ours, theirs)
        first = quicker_from(measurement, ours, theirs)
        ratio = _p50(measurement, ours, points[-1]) / _p50(measurement, theirs, points[-1])
        most = f"at {_bytes(points[-1])} it takes {ratio:.2f} of the time"
        if first is None:
            return f"Use {words}: it is quicker at every size measured here."
        if first == points[0]:
            return f"shmlease is quicker than {words} at every size measured here; {most}."
        before = points[points.index(first) - 1]
        return f"Up to {_bytes(before)}, use {words}; from {_bytes(first)} on shmlease is quicker: {most}."

    return say


def _round_trip(measurement: Measurement) -> str:
    (at,) = measurement.points()
    unnamed, named = (format_duration(_p50(measurement, f"lease, {how}", at)) for how in ("unnamed", "named"))
    return (
        f"A lease and its release take {unnamed} without a name and {named} with one: name what others must find by name, "
        "and send tickets for the rest."
    )


def _throughput(measurement: Measurement) -> str:
    rate, at = max((_p50(measurement, "shmlease", at), at) for at in measurement.points())
    return (
        f"All processes together take up to {rate:,.0f} leases a second (with {at:,.0f} of them): put more into a lease "
        "where that is not enough."
    )


def _memory(measurement: Measurement) -> str:
    registry = [figure for figure in measurement.figures if figure.subject == "registry process"]
    first, last = registry[0], registry[-1]
    each = (last.p50 - first.p50) / max(last.at - first.at, 1)
    return f"A registry takes {_bytes(first.p50)} of memory, and {_bytes(each)} more for each live lease."


def _attaching(measurement: Measurement) -> str:
    (at,) = measurement.points()
    took = format_duration(_p50(measurement, "shmlease, mode c", at))
    return f'Code that writes to its input can be given `mode="c"`: attaching {_bytes(at)} takes {took}, not a copy.'


def _live_leases(measurement: Measurement) -> str:
    first, *_, last = measurement.points()
    ratio = _p50(measurement, "lease, unnamed", last) / _p50(measurement, "lease, unnamed", first)
    return f"With {last:,.0f} live leases, another takes {ratio:.2f} times as long as with {first:,.0f}."


def _fresh(measurement: Measurement) -> str:
    (at,) = measurement.points()
    fresh, recycled = (_p50(measurement, subject, at) for subject in ("fresh", "recycled"))
    return (
        f"Memory that is used again (`warm=`) takes {recycled / fresh:.2f} of the time of fresh memory: keep it warm in a "
        "pipeline."
    )


def _beside_what_they_stand_on(measurement: Measurement) -> str:
    """For measurements of one point: what each of ours takes of that in whose place it is put."""
    (at,) = measurement.points()
    subjects = set(measurement.subjects())
    pairs = [(ours, theirs) for ours, theirs in _IN_PLACE_OF if {ours, theirs} <= subjects]
    what = measurement.name.rpartition(": ")[2] if measurement.name.startswith("ingest") else "time"
    shares = [
        f"`{ours}` takes {_p50(measurement, ours, at) / _p50(measurement, theirs, at):.2f} of the {what} of {theirs}"
        for ours, theirs in pairs
    ]
    if not shares:
        raise LookupError(measurement.name)
    return ", ".join(shares) + "."


_IN_PLACE_OF: Final = (
    ("Executor", "ProcessPoolExecutor"),
    ("Pool, carrying", "Pool"),
    ("Executor.put", "loky"),
    ("joblib, shmlease", "loky"),
    ("shmlease", "the usual idiom"),
    ("shmlease", "polars to parquet"),
    ("shmlease", "h5py gzip-4"),
)
# by how the names of measurements begin
_MEANINGS: Final[dict[str, Callable[[Measurement], str]]] = {
    "hand-over": _beside("shmlease", "pickle through a Pipe", "a pipe"),
    "objects": _beside("shmlease", "pickle, Pipe", "a pipe"),
    "attaching copy-on-write": _attaching,
    "SharedMemory classes": _beside("shmlease", "standard", "the standard library's class"),
    "round trip": _round_trip,
    "throughput": _throughput,
    "memory": _memory,
    "live leases": _live_leases,
    "fresh segments": _fresh,
    "existing code": _beside_what_they_stand_on,
    "ingest": _beside_what_they_stand_on,
}


def _common_points(measurement: Measurement, subject: str, other: str) -> list[float]:
    common = [at for at in measurement.points() if measurement.find(subject, at) and measurement.find(other, at)]
    if not common:
        raise LookupError(f"{subject} and {other} were not measured at the same point")
    return common


def _p50(measurement: Measurement, subject: str, at: float) -> float:
    figure = measurement.find(subject, at)
    if figure is None:
        raise LookupError(f"{subject} was not measured")
    return figure.p50


def _bytes(size: float) -> str:
    return format_bytes(round(size))
