"""Two hundred SIGKILLs at random moments, under load, and nothing lost, wrong, hung or left behind.

Quantified: violations of five promises (target: none), the longest time that a client's call took, and the kills of each
kind. Method: one registry; 8 client processes, each of which in a loop shares an array with a checksum in it, hands it to its
neighbour by a ticket, takes in what was handed to it, and now and then keeps one for a while. In each round, after a random
pause, one process is SIGKILLed: a producer in the middle of its work, a consumer that has just been handed something, or the
registry. A killed client is replaced. Everything follows from the seed but the moments at which the kernel lets things happen.

Checked: content (every array read has the checksum that it was written with); no live lease lost (arrays that are kept are
read again, by name, by others, after each kill); no call longer than 5 s; clients that fail otherwise; nothing in /dev/shm at
the end.

    python benchmarks/chaos.py [--rounds 200] [--clients 8] [--seed 1]

Exits with 1 on any violation.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import secrets
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from typing import Any

import numpy as np

import shmlease
from shmlease.system.directory import SHM_ROOT, RegistryDirectory
from shmlease.system.ledger import read_ledger

LONGEST_CALL_S = 5.0
ROLES = ("producer", "consumer", "registry")


def sealed(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """An array whose first element is the checksum of the rest."""
    array = rng.integers(0, 255, int(rng.choice([500, 20_000, 300_000])), dtype=np.int64)
    array[0] = zlib.crc32(array[1:])
    return array


def is_whole(array: np.ndarray[Any, Any]) -> bool:
    """Whether the content is what was written."""
    return int(array[0]) == zlib.crc32(np.ascontiguousarray(array[1:]))


class Mailbox:
    """A directory that tickets are put into: whole or not at all, whoever is killed in the middle."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path, exist_ok=True)

    def put(self, ticket: str) -> None:
        name = f"{self.path}/{secrets.token_hex(8)}"
        with open(f"{name}.new", "w") as file:
            file.write(ticket)
        os.rename(f"{name}.new", name)

    def take(self) -> Iterator[str]:
        for name in os.listdir(self.path):
            if not name.endswith(".new"):
                with open(f"{self.path}/{name}") as file:
                    ticket = file.read()
                os.unlink(f"{self.path}/{name}")
                yield ticket


class Client:
    """One client process: works until it is killed or told to stop."""

    def __init__(self, registry: str, seed: int, mail: str, neighbour: str, report: Any) -> None:
        self.registry = shmlease.connect(registry, on_lingering="error")
        self.rng = np.random.default_rng(seed)
        self.mail, self.neighbour, self.report = Mailbox(mail), Mailbox(neighbour), report
        self.longest = 0.0
        self.cycles = 0

    def timed(self, call: Any, *arguments: Any, **options: Any) -> Any:
        begun = time.monotonic()
        try:
            return call(*arguments, **options)
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)

    def produce(self) -> None:
        array = sealed(self.rng)
        with self.timed(self.registry.share, array) as lease:
            self.neighbour.put(str(self.timed(lease.ticket, ttl=5)))
            if not is_whole(lease.array):
                self.report.put(("violation", "a writer's own array is wrong"))

    def consume(self) -> None:
        for ticket in self.mail.take():
            try:
                lease = self.timed(self.registry.redeem, ticket)
            except shmlease.TicketError:
                continue  # it waited too long for a client that was just being replaced
            with lease:
                if not is_whole(lease.array):
                    self.report.put(("violation", f"an array redeemed has wrong content: {lease!r}"))

    def work(self, stop: Any) -> None:
        while not stop.is_set():
            self.produce()
            self.consume()
            self.cycles += 1
        self.report.put(("done", (self.longest, self.cycles)))


def client(registry: str, seed: int, mail: str, neighbour: str, report: Any, stop: Any) -> None:
    """What a client process runs."""
    try:
        Client(registry, seed, mail, neighbour, report).work(stop)
    except BaseException as error:
        report.put(("violation", f"a client failed: {type(error).__name__}: {error}"))


class Chaos:
    """The registry, its clients, and what has been seen of them."""

    def __init__(self, clients: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.context = get_context("spawn")
        self.registry = shmlease.Registry("256MiB")
        self.report: Queue[Any] = self.context.Queue()
        self.stop = self.context.Event()
        self.post = tempfile.TemporaryDirectory()
        self.boxes = [f"{self.post.name}/{number}" for number in range(clients)]
        self.clients: list[SpawnProcess] = [self.start(number) for number in range(clients)]
        self.kept = {f"kept {number}": sealed(np.random.default_rng(seed + number)) for number in range(8)}
        self.leases = [self.registry.share(array, name) for name, array in self.kept.items()]
        self.killed: Counter[str] = Counter()
        self.violations: list[str] = []
        self.longest = 0.0
        self.cycles = 0

    def start(self, number: int) -> SpawnProcess:
        mail, neighbour = self.boxes[number], self.boxes[(number + 1) % len(self.boxes)]
        seed = self.rng.randrange(2**32)
        process = self.context.Process(
            target=client, args=(self.registry.id, seed, mail, neighbour, self.report, self.stop), daemon=True
        )
        process.start()
        return process

    def round(self) -> None:
        """Kill somebody, see that nothing was lost, and replace him."""
        time.sleep(self.rng.uniform(0.005, 0.08))
        role = self.rng.choice(ROLES)
        self.killed[role] += 1
        number = self.rng.randrange(len(self.clients))
        if role == "registry":
            row = read_ledger(RegistryDirectory(self.registry.id).ledger_path).registry
            assert row is not None
            os.kill(row.identity.pid, signal.SIGKILL)
        else:
            if role == "consumer":  # something is on its way to it
                with self.registry.share(sealed(np.random.default_rng(number))) as lease:
                    Mailbox(self.boxes[number]).put(str(lease.ticket(ttl=5)))
            self.clients[number].kill()
        self.look()
        if role != "registry":
            self.clients[number].join()
            self.clients[number] = self.start(number)

    def wait_for_load(self) -> None:
        """Until every client has taken part at least once: interpreters start slowly."""
        deadline = time.monotonic() + 60
        while self.registry.statistics().clients <= len(self.clients) and time.monotonic() < deadline:
            time.sleep(0.01)

    def look(self) -> None:
        """Read one kept array by its name, as anybody would, and take in what the clients report."""
        name = self.rng.choice(list(self.kept))
        begun = time.monotonic()
        try:
            with self.registry.attach(name, timeout=0) as lease:
                if not is_whole(lease.array) or lease.array.size != self.kept[name].size:
                    self.violations.append(f"{name} has wrong content")
        except shmlease.LeaseError as error:
            self.violations.append(f"{name}, a live lease, was lost: {error}")
        self.longest = max(self.longest, time.monotonic() - begun)
        self.take_in()

    def take_in(self) -> None:
        while True:
            try:
                kind, what = self.report.get_nowait()
            except queue.Empty:
                return
            if kind == "violation":
                self.violations.append(what)
            else:
                self.longest = max(self.longest, what[0])
                self.cycles += what[1]

    def end(self) -> None:
        """Let everybody finish, close the registry, and see that nothing is left."""
        self.stop.set()
        deadline = time.monotonic() + 20
        while any(process.is_alive() for process in self.clients) and time.monotonic() < deadline:
            self.take_in()
            time.sleep(0.01)
        for process in self.clients:
            if process.is_alive():
                self.violations.append(f"client pid {process.pid} hung")
                process.kill()
            process.join()
        self.take_in()
        for lease in self.leases:
            if not is_whole(lease.array):
                self.violations.append(f"{lease!r} has wrong content at the end")
            lease.release()
        self.registry.close()
        left = [name for name in os.listdir(SHM_ROOT) if name.startswith(f"shmlease-{self.registry.id}")]
        if left:
            self.violations.append(f"left in {SHM_ROOT}: {', '.join(left)}")
        if self.longest > LONGEST_CALL_S:
            self.violations.append(f"a call took {self.longest:.1f} s")
        self.report.close()
        self.post.cleanup()


def main() -> int:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chaos = Chaos(options.clients, options.seed)
    chaos.wait_for_load()
    begun = time.monotonic()
    for _ in range(options.rounds):
        chaos.round()
    epoch = chaos.registry.statistics().epoch
    chaos.end()
    took = time.monotonic() - begun
    rows = [(f"killed: {role}", f"{chaos.killed[role]}") for role in ROLES]
    rows += [("registries in all", f"{epoch}"), ("longest call", f"{chaos.longest:.2f} s"), ("time", f"{took:.1f} s")]
    rows += [("cycles of the survivors", f"{chaos.cycles}"), ("violations", f"{len(chaos.violations)}")]
    for name, value in rows:
        print(f"{name:26} {value:>10}")
    for violation, times in Counter(chaos.violations).most_common(20):
        print(f"  {times} x {violation}", file=sys.stderr)
    return 1 if chaos.violations else 0


if __name__ == "__main__":
    sys.exit(main())
