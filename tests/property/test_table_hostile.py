"""The lease table against clients that say anything at any time, with ids of their own, of others, and of nothing.

Whatever they say, the table answers or refuses; it never trips, never points at what is not there, and never forgets a
segment that nobody has a right to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

from rig.repeated import for_each
from rig.shell import PAGE, SECRET, Shell, identity
from shmlease.core import messages as m
from shmlease.core.model import ClientState, LeaseState, SegmentState, client_of
from shmlease.core.refusals import Refusal

SEEDS = range(120)
STEPS = 150


class Mob:
    """Clients without manners; everything they do follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.shell = Shell(20, 8, warm_idle_s=1e-6)
        self.clients: list[int] = []
        self.said: list[str] = []

    def some_id(self, client: int, *others: dict[int, Any]) -> int:
        """An id in use by anybody, one of the client's own, or nonsense."""
        rng = self.rng
        pool = [identifier for ids in others for identifier in ids]
        if pool and rng.random() < 0.6:
            return rng.choice(pool)
        return rng.choice(
            [client << 40 | rng.randrange(1, 30), client << 40 | 1 << 39 | rng.randrange(4), rng.randrange(2**63)]
        )

    def message(self, client: int, seq: int) -> Any:
        rng, rows = self.rng, self.shell.table.rows
        lease = self.some_id(client, rows.leases, rows.tickets)
        other = self.some_id(client, rows.leases, rows.tickets)
        ticket = self.some_id(client, rows.tickets, rows.leases)
        name = rng.choice([None, None, "a", "b"])
        size = rng.choice([0, 1, PAGE, 3 * PAGE, 20 * PAGE, 2**63 - 1])
        wait = rng.choice([0, 10, 1000, 2**63 - 1])
        soon = min(self.shell.now + wait, 2**63 - 1)
        mode, flag = rng.choice(list(m.AttachMode)), rng.random() < 0.5
        number = rng.choice([*rows.segments, 0, 2**63 - 1])
        generation = rng.choice([0, 1, 2, rows.segments[number].generation if number in rows.segments else 0])
        kinds: list[Callable[[], Any]] = [
            lambda: m.Lease(seq, lease, name, size, size, b"", "", 0, wait, flag),
            lambda: m.Attach(seq, lease, name or "a", "", 0, wait, mode, flag),
            lambda: m.AttachSegment(seq, lease, number, generation, "", 0, mode),
            lambda: m.Withdraw(seq, name or "a", soon),
            lambda: m.Inherit(seq, lease, other, ""),
            lambda: m.Redeem(seq, ticket),
            lambda: m.Decline(seq, lease, wait),
            lambda: m.Expose(seq, lease),
            lambda: m.Link(seq, lease, ((ticket, rng.choice([None, identity(rng.randrange(1, 99))])), (other, None))),
            lambda: m.Unlink(seq, rng.randrange(9), rng.randrange(3)),
            lambda: m.Withdraw(seq, name, self.shell.now, rng.randrange(9), rng.randrange(3)),
            lambda: m.Statistics(seq),
            lambda: m.Trim(seq),
            lambda: m.Ping(seq),
            lambda: m.Claim(seq, lease, size, b"", "", 0, flag),
            lambda: m.Publish(seq, lease, rng.choice([0, 0, 2, 1_000_000]), soon),
            lambda: m.Mint(seq, lease, ticket, soon, "", identity(1) if flag else None),
            lambda: m.Redeemed(seq, lease, ticket, "", 0, mode),
            lambda: m.Revoked(seq, ticket),
            lambda: m.Detach(seq, lease),
            lambda: m.Linger(seq, lease),
            lambda: m.Release(seq, lease),
            lambda: m.Release(seq, lease, rng.random() < 0.5),
            lambda: m.Share(seq, lease),
            lambda: m.Bye(seq),
        ]
        return rng.choice(kinds)() if rng.random() > 0.01 else m.Close(seq)

    def act(self) -> None:
        rng, shell = self.rng, self.shell
        shell.now += rng.choice([0, 1, 50, 5000])
        act, client = rng.random(), rng.choice(self.clients or [0])
        if act < 0.06 or not self.clients:
            self.said.append("hello")
            self.clients.append(
                shell.table.hello(m.Hello(1, m.PROTOCOL, SECRET, 0), identity(len(self.clients)), shell.now)
            )
        elif act < 0.09:
            self.said.append(f"{client} dies")
            shell.table.holder_died(client, shell.now)
        elif act < 0.12:
            self.said.append(f"{client} detached")
            shell.table.detached(client, shell.now)
        elif act < 0.14:
            self.said.append("takeover")
            shell.take_over()
        elif act < 0.2:
            self.said.append("tick")
            shell.table.tick(shell.now)
        elif act < 0.21 and shell.watched:
            ticket = rng.choice(sorted(shell.watched))
            self.said.append(f"the receiver of {ticket:#x} dies")
            shell.end_receiver(ticket)
        elif act < 0.23 and shell.table.rows.segments:
            number = rng.choice(list(shell.table.rows.segments))
            self.said.append(f"segment {number} missing")
            shell.table.segment_missing(number, shell.now)
        elif not shell.table.clients.has_ended(client):
            shell.seq[client] += rng.choice([0, 1, 1, 1])
            message = self.message(client, shell.seq[client])
            self.said.append(f"{client}: {message}")
            shell.claimed = set(rng.sample(sorted(shell.files), min(len(shell.files), rng.choice([0, 1]))))
            shell.table.apply(client, message, shell.now)
        if rng.random() < 0.8:  # else the next message comes before the effects are carried out, as in one packet
            shell.settle()


def check(shell: Shell) -> None:
    rows = shell.table.rows
    assert not rows.registry.closing or not rows.leases
    for lease in rows.leases.values():
        segment = rows.segments[lease.segment]
        assert segment.state is not SegmentState.RETIRING, "a live lease on what is being unlinked"
        assert lease.id in rows.leases_on[lease.segment]
        assert rows.clients[client_of(lease.id)].state is not ClientState.ENDED, "a lease of nobody"
        assert (lease.state is LeaseState.RESERVED) == (segment.state is SegmentState.RESERVED)
    for number in rows.leases_on:
        assert all(rows.leases[lease].segment == number for lease in rows.leases_on[number])
    for number in rows.tickets_on:
        assert all(rows.tickets[ticket].segment == number for ticket in rows.tickets_on[number])
    for number, segment in rows.segments.items():
        wanted = number in rows.leases_on or number in rows.tickets_on or bool(segment.readers_expected)
        assert wanted == (segment.state not in (SegmentState.WARM, SegmentState.RETIRING)), (
            "held by nobody, or warm and held"
        )
        assert number in shell.files
    assert set(shell.files) == set(rows.segments)
    assert rows.used_bytes == sum(segment.size_bytes for segment in rows.segments.values()) <= rows.registry.capacity_bytes
    assert {name: number for number, s in rows.segments.items() if (name := s.name) is not None} == rows.by_name
    assert len(rows.events) <= 1024


def test_mob_knows_every_message() -> None:
    mob = Mob(0)
    mob.clients.append(mob.shell.table.hello(m.Hello(1, m.PROTOCOL, SECRET, 0), identity(0), 0))
    said = {type(mob.message(mob.clients[0], 2)) for _ in range(5000)}
    assert {m.Hello, *said} == {*get_args(m.Request), *m.NOTICES}


@for_each("seed", SEEDS)
def test_nothing_that_clients_say_can_confuse_the_table(seed: int) -> None:
    mob = Mob(seed)
    try:
        for _ in range(STEPS):
            try:
                mob.act()
            except Refusal:
                mob.said.append("  refused")
            if not mob.shell.table.effects:
                check(mob.shell)
        for client in mob.clients:
            mob.shell.die(client)
        mob.shell.now = 2**63
        for _ in range(3):
            mob.shell.table.tick(mob.shell.now)
            mob.shell.settle()
        assert not mob.shell.files, "everybody is dead and all time has passed"
    except BaseException as error:
        error.add_note("\n".join(mob.said[-12:]))
        raise


@for_each("seed", SEEDS)
def test_refused_command_leaves_the_table_as_it_was(seed: int) -> None:
    mob = Mob(seed)
    refused = 0
    for _ in range(STEPS):
        shell = mob.shell
        shell.settle()
        before, heard = shell.snapshot(), {client: len(shell.heard(client)) for client in mob.clients}
        changed_by_itself = len(mob.said)
        try:
            mob.act()
        except Refusal:
            continue
        shell.settle()
        spoke = mob.said[changed_by_itself:]
        answers = [(client, said) for client in mob.clients for said in shell.heard(client)[heard.get(client, 0) :]]
        if len(spoke) != 1 or "Decline" in spoke[0]:  # what was declined is given back, whatever comes of the request
            continue
        is_only_refused = len(answers) == 1 and isinstance(answers[0][1], m.Refused)
        # not by the way, because it had waited long enough
        if is_only_refused and spoke[0].startswith(f"{answers[0][0]}: ") and f"seq={answers[0][1].seq}," in spoke[0]:
            # its own number counts as applied, and the event log may say so; nothing else
            after = shell.snapshot()
            refused += 1
            assert (after.segments, after.leases, after.tickets, after.marks, after.registry) == (
                before.segments,
                before.leases,
                before.tickets,
                before.marks,
                before.registry,
            ), spoke
            assert after.clients == before.clients
    assert refused
