"""The lease table as values for machines: what `status --json` writes."""

from __future__ import annotations

from typing import Any

from shmlease.cli.tables import Look, descriptors_seen, pid_of

__all__ = ["as_json"]


def as_json(looks: list[Look]) -> list[dict[str, Any]]:
    """Everything, in plain values."""
    return [_registry_as_json(each) for each in looks]


def _registry_as_json(look: Look) -> dict[str, Any]:
    directory, served, snapshot = look.directory, look.is_served, look.snapshot
    now_ns = look.at_ns
    if snapshot is None or snapshot.registry is None:
        return {"id": directory.id, "path": directory.path, "state": "unreadable"}
    row = snapshot.registry
    descriptors = descriptors_seen(look)
    return {
        "id": directory.id,
        "path": directory.path,
        "state": "serving" if served else "dead",
        "pid": row.identity.pid,
        "epoch": row.epoch,
        "uptime_s": (now_ns - row.started_ns) / 1e9,
        "descriptors": None if descriptors is None else descriptors.in_use,
        "descriptors_limit": None if descriptors is None else descriptors.limit,
        "capacity_bytes": row.capacity_bytes,
        "used_bytes": sum(segment.size_bytes for segment in snapshot.segments.values()),
        "clients": [
            {"id": c.id, "pid": c.identity.pid, "state": str(c.state), "command": c.identity.command}
            for c in snapshot.clients.values()
        ],
        "segments": [
            {
                "number": s.number,
                "name": s.name,
                "state": str(s.state),
                "size_bytes": s.size_bytes,
                "nbytes": s.nbytes,
                "generation": s.generation,
                "age_s": (now_ns - s.created_ns) / 1e9,
                "site": s.site,
                "tainted": s.tainted,
                "exposed": s.exposed,
                "alias": s.alias or None,
                "leases": [
                    {
                        "id": lease.id,
                        "pid": pid_of(snapshot, lease.id),
                        "mode": str(lease.mode),
                        "state": str(lease.state),
                        "held_s": (now_ns - lease.granted_ns) / 1e9,
                        "site": lease.site,
                    }
                    for lease in snapshot.leases.values()
                    if lease.segment == s.number
                ],
                "tickets": [
                    {"id": t.id, "expires_in_s": (t.deadline_ns - now_ns) / 1e9, "site": t.site}
                    for t in snapshot.tickets.values()
                    if t.segment == s.number
                ],
            }
            for s in snapshot.segments.values()
        ],
        "events": [
            {
                "number": e.number,
                "age_s": (now_ns - e.at_ns) / 1e9,
                "kind": str(e.kind),
                "segment": e.segment,
                "lease": e.lease,
                "client": e.client,
                "detail": e.detail,
            }
            for e in snapshot.events
        ],
    }
