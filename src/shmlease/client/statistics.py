"""The figures of a registry at one moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from shmlease.core.messages import Figures
from shmlease.notebook import html_table
from shmlease.units import format_bytes, format_duration

__all__ = ["Statistics", "statistics_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """One frozen snapshot.

    Attributes
    ----------
    registry : str
        Its id.
    capacity_bytes, used_bytes, warm_bytes : int
        What may be used, what segments take (warm ones included), and what is kept free for reuse.
    shm_free_bytes : int
        Bytes that /dev/shm had left when a segment was last made; 0 before the first.
    epoch : int
        How many registry processes have served this table; more than 1 after a takeover.
    uptime_s : float
        Seconds since this one started.
    clients, tickets, waiting : int
        Connected or detached clients, live tickets, requests that wait.
    segments, segment_bytes : mapping of str to int
        Number and bytes of segments by state: reserved, filling, published, warm, retiring.
    leases : mapping of str to int
        Number of leases by mode (write, read, spare), of lingering ones, and of those that arrays carry on (detached).
    counters : mapping of str to int
        Since this process started: leases, created, recycled, published, tickets, reclaimed, retired, refusals...
    peaks : mapping of str to int
        The most there was of bytes, warm bytes, segments, leases and waiting requests.
    descriptors, descriptors_limit : int
        Descriptors that the registry process has open (three for each client), and may have open; short of the limit it
        refuses newcomers.
    """

    registry: str
    capacity_bytes: int
    used_bytes: int
    warm_bytes: int
    shm_free_bytes: int
    epoch: int
    uptime_s: float
    clients: int
    tickets: int
    waiting: int
    segments: Mapping[str, int]
    segment_bytes: Mapping[str, int]
    leases: Mapping[str, int]
    counters: Mapping[str, int]
    peaks: Mapping[str, int]
    descriptors: int
    descriptors_limit: int

    def _repr_html_(self) -> str:
        def listed(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{what} {count:,}" for what, count in counts.items() if count) or "none"

        sizes = ", ".join(f"{state} {format_bytes(size)}" for state, size in self.segment_bytes.items() if size)
        rows = (
            ("capacity", format_bytes(self.capacity_bytes)),
            ("used", f"{format_bytes(self.used_bytes)}, {format_bytes(self.warm_bytes)} of it warm"),
            ("segments", listed(self.segments)),
            ("bytes", sizes or "none"),
            ("leases", listed(self.leases)),
            ("clients", f"{self.clients:,}"),
            ("tickets", f"{self.tickets:,}"),
            ("waiting requests", f"{self.waiting:,}"),
            ("up", format_duration(self.uptime_s)),
            ("takeovers", f"{self.epoch - 1:,}"),
            ("since its start", listed(self.counters)),
        )
        return html_table(f"registry {self.registry}", rows)


def statistics_of(figures: Figures, registry: str) -> Statistics:
    """The registry's answer as a snapshot."""
    return Statistics(
        registry=registry,
        capacity_bytes=figures.capacity_bytes,
        used_bytes=sum(figures.segment_bytes.values()),
        warm_bytes=figures.segment_bytes.get("warm", 0),
        shm_free_bytes=figures.shm_free_bytes,
        epoch=figures.epoch,
        uptime_s=figures.uptime_ns / 1e9,
        clients=figures.clients,
        tickets=figures.tickets,
        waiting=figures.waiting,
        segments=figures.segments,
        segment_bytes=figures.segment_bytes,
        leases=figures.leases,
        counters=figures.counters,
        peaks=figures.peaks,
        descriptors=figures.descriptors,
        descriptors_limit=figures.descriptors_limit,
    )
