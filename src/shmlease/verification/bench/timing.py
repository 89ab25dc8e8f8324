"""Timing on machines that are shared and noisy: methods take turns, and how far their turns differ is part of
the result.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import numpy as np
import psutil

from shmlease.units import format_bytes

__all__ = ["Figure", "Measurement", "interleaved", "machine"]

_WARM_UP: Final = 3


class Figure(msgspec.Struct, frozen=True):
    """What one method took at one point.

    `noise` is the largest median of a round over the smallest: what is not well above it is no difference.
    """

    subject: str
    at: float
    p50: float
    p99: float
    noise: float
    count: int


class Measurement(msgspec.Struct, frozen=True):
    """One benchmark's figures, and what they mean.

    `quantifies` says in prose what is measured; `unit` is that of the figures, `along` that of `Figure.at`; `reference` is
    the subject that ratios are taken to.
    """

    name: str
    quantifies: str
    unit: str
    along: str
    reference: str
    figures: list[Figure]
    machine: dict[str, str] = {}

    def subjects(self) -> list[str]:
        """Every subject, in order of appearance."""
        return list(dict.fromkeys(figure.subject for figure in self.figures))

    def points(self) -> list[float]:
        """Every point, ascending."""
        return sorted({figure.at for figure in self.figures})

    def find(self, subject: str, at: float) -> Figure | None:
        """The figure of `subject` there, if it was measured."""
        return next((figure for figure in self.figures if (figure.subject, figure.at) == (subject, at)), None)


def interleaved(cycles: Mapping[str, Callable[[], object]], at: float, seconds: float, rounds: int = 5) -> list[Figure]:
    """Seconds of a call of each of `cycles`, which take turns in `rounds` blocks.

    Parameters
    ----------
    cycles : mapping of str to callable
        What is measured, by subject.
    at : float
        The point that the figures are for.
    seconds : float
        For each subject, in all.
    """
    samples: dict[str, list[list[float]]] = {subject: [] for subject in cycles}
    for cycle in cycles.values():
        for _ in range(_WARM_UP):
            cycle()
    for _ in range(rounds):
        for subject, cycle in cycles.items():
            block = []
            end = time.perf_counter() + seconds / rounds
            while (begin := time.perf_counter()) < end:
                cycle()
                block.append(time.perf_counter() - begin)
            samples[subject].append(block)
    return [figure_of(subject, at, [block for block in blocks if block]) for subject, blocks in samples.items()]


def figure_of(subject: str, at: float, blocks: list[list[float]]) -> Figure:
    """The figure that blocks of samples amount to."""
    medians = [float(np.median(block)) for block in blocks]
    p50, p99 = np.percentile(np.concatenate(blocks), (50, 99))
    return Figure(subject, at, float(p50), float(p99), max(medians) / min(medians), sum(map(len, blocks)))


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "processors": str(os.cpu_count()),
        "memory": format_bytes(psutil.virtual_memory().total),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load": f"{os.getloadavg()[0]:.1f}",
    }
