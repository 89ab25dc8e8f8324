"""What is said about figures is true of them, whichever way they come out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from shmlease.verification.bench.meaning import meaning_of, quicker_from
from shmlease.verification.bench.timing import Figure, Measurement


def measured(name: str, figures: Mapping[str, Mapping[float, float]], unit: str = "s", along: str = "bytes") -> Measurement:
    taken = [
        Figure(subject, at, value, value, 1.0, 1) for subject, points in figures.items() for at, value in points.items()
    ]
    return Measurement(name, "What it is.", unit, along, next(iter(figures)), taken, {})


PIPE = {4096: 1.0, 65536: 1.0, 1 << 20: 4.0}


@pytest.mark.parametrize(
    ("ours", "first", "words"),
    [
        (
            {4096: 2.0, 65536: 2.0, 1 << 20: 1.0},
            1 << 20,
            "Up to 64 KiB, use a pipe; from 1 MiB on shmlease is quicker",
        ),
        ({4096: 0.5, 65536: 2.0, 1 << 20: 1.0}, 1 << 20, "Up to 64 KiB, use a pipe"),
        (
            {4096: 0.5, 65536: 0.5, 1 << 20: 1.0},
            4096,
            "quicker than a pipe at every size measured here; at 1 MiB it takes",
        ),
        ({4096: 2.0, 65536: 0.5, 1 << 20: 4.0}, None, "Use a pipe: it is quicker at every size"),
    ],
)
def test_size_from_which_on_it_pays_is_that_of_the_figures(
    ours: dict[float, float], first: float | None, words: str
) -> None:
    measurement = measured("hand-over", {"shmlease": ours, "pickle through a Pipe": PIPE})
    assert quicker_from(measurement, "shmlease", "pickle through a Pipe") == first
    assert words in meaning_of(measurement)


def test_existing_code_is_compared_with_what_it_replaces() -> None:
    figures = {"Pool": {8: 2.0}, "Pool, carrying": {8: 0.5}, "loky": {8: 1.0}}
    assert meaning_of(measured("existing code: small", figures)) == "`Pool, carrying` takes 0.25 of the time of Pool."


def test_ingest_is_compared_with_all_that_was_measured_beside_it() -> None:
    figures = {"shmlease": {8: 25.0}, "the usual idiom": {8: 100.0}, "polars to parquet": {8: 50.0}}
    told = meaning_of(measured("ingest, gzip: peak memory", figures, unit="bytes"))
    assert told == (
        "`shmlease` takes 0.25 of the peak memory of the usual idiom, "
        "`shmlease` takes 0.50 of the peak memory of polars to parquet."
    )


@pytest.mark.parametrize(
    ("name", "figures", "words"),
    [
        (
            "round trip",
            {"lease, unnamed": {4096: 3e-5}, "lease, named": {4096: 3e-4}},
            "take 30 us without a name and 300 us",
        ),
        ("throughput", {"shmlease": {1: 100.0, 4: 2000.0, 8: 900.0}}, "up to 2,000 leases a second (with 4 of them)"),
        ("memory", {"registry process": {0: 1 << 20, 1024: 3 << 20}}, "takes 1 MiB of memory, and 2 KiB more for each"),
        ("attaching copy-on-write", {"shmlease, mode c": {1 << 20: 1e-4}}, "attaching 1 MiB takes 100 us, not a copy"),
        ("live leases", {"lease, unnamed": {10: 1.0, 1000: 1.5}}, "With 1,000 live leases, another takes 1.50 times"),
        ("fresh segments", {"fresh": {8: 2.0}, "recycled": {8: 0.5}}, "takes 0.25 of the time of fresh memory"),
    ],
)
def test_sentence_has_the_figures(name: str, figures: dict[str, dict[float, float]], words: str) -> None:
    assert words in meaning_of(measured(name, figures))
    assert meaning_of(measured(name, {"something else": {1.0: 1.0}})) == ""


def test_nothing_is_said_about_what_nobody_knows() -> None:
    assert meaning_of(measured("another", {"shmlease": {1: 1.0}})) == ""
