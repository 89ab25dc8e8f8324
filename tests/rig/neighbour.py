"""What a neighbour makes in /dev/shm under the names of shmlease: each kind once, to be done as that user."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable

from msgspec.structs import replace

from shmlease.core.model import (
    NUMBER_BITS,
    ClientRow,
    ClientState,
    EventKind,
    EventRow,
    LeaseMode,
    LeaseRow,
    LeaseState,
    RegistryRow,
    SegmentRow,
    SegmentState,
    TicketRow,
)
from shmlease.system.identity import own_identity
from shmlease.system.ledger import Ledger

__all__ = ["INSIDE", "SECRET", "UNDER_A_NAME"]

SHM = "/dev/shm"
# Root's, and for nobody else: what must be neither told nor changed.
SECRET = f"{SHM}/secret-of-root"
ENTRIES = ("ledger", "lock", "socket", "j1", "s1", "t5", "ledger.new", "socket.new")
HUGE_BYTES = 1 << 40
FAR = 2**63 - 1
F_SETSIG = 10  # linux/fcntl.h; the fcntl module does not name it
ESCAPE = "\x1b]0;owned\x07\x1b[31m\nred"

Plant = Callable[[str], None]


def file(path: str) -> None:
    open(path, "x").close()


def directory(path: str) -> None:
    os.mkdir(path, 0o700)


def open_directory(path: str) -> None:
    os.mkdir(path)
    os.chmod(path, 0o777)


def link_to_secret(path: str) -> None:
    os.symlink(SECRET, path)


def link_to_directory(path: str) -> None:
    os.symlink("/etc", path)


def link_to_device(path: str) -> None:
    os.symlink("/dev/zero", path)


def dangling_link(path: str) -> None:
    os.symlink(f"{SHM}/made-by-following", path)


def fifo(path: str) -> None:
    os.mkfifo(path)


def listening_socket(path: str) -> None:
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(path)


def huge_file(path: str) -> None:
    file(path)
    os.truncate(path, HUGE_BYTES)


def garbage(path: str) -> None:
    with open(path, "xb") as made:
        made.write(os.urandom(1 << 20))


def file_under_a_lease(path: str) -> None:
    """Whoever opens it waits for 45 s, unless it said that it will not. Held until the neighbour is killed."""
    file(path)
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.fcntl(descriptor, F_SETSIG, signal.SIGURG)  # and not SIGIO, which would end the neighbour
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)


# In the place of a name that somebody is about to use.
UNDER_A_NAME: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        file,
        directory,
        open_directory,
        link_to_secret,
        link_to_directory,
        link_to_device,
        dangling_link,
        fifo,
        listening_socket,
        huge_file,
        garbage,
    )
}


def _every_entry(plant: Plant) -> Plant:
    def make(path: str) -> None:
        os.mkdir(path, 0o755)
        for entry in ENTRIES:
            plant(f"{path}/{entry}")

    return make


def deep_directories(path: str) -> None:
    os.mkdir(path)
    here = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below


def lies_of_one_that_runs(path: str) -> None:
    ledger_of_lies(path)
    fcntl.flock(os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_EX)


def ledger_of_lies(path: str) -> None:
    """A lease table with whole records, of which nothing is true and much cannot be."""
    os.mkdir(path, 0o755)
    me = replace(own_identity(), command="python")  # what is written does not depend on who tests
    who = [
        me,
        replace(me, command=ESCAPE),
        replace(me, pid=1, start_ticks=1),
        replace(me, pid=2**31 - 1, start_ticks=FAR, uid=2**32 - 1),
        replace(me, pid=2**31 - 1, start_ticks=FAR, pid_namespace=FAR, boot_id=ESCAPE),
        replace(me, pid=0, boot_id="x" * 65536),
    ]
    numbers = (0, 1, 2, 3, FAR - 1, FAR)
    times = itertools.cycle((0, 1, FAR, -FAR, time.monotonic_ns()))
    states = itertools.cycle(SegmentState)
    rows = [
        RegistryRow(ESCAPE, who[1], -FAR, FAR, -FAR, FAR, FAR, who[3], name_key=b"x" * 1000),
        *(ClientRow(number, one, b"", ClientState.CONNECTED, -FAR) for number, one in enumerate(who)),
        *(
            SegmentRow(
                number,
                FAR,
                size,
                next(states),
                ESCAPE,
                FAR,
                b"\xff" * 99,
                77,
                next(times),
                next(times),
                ESCAPE,
                -7,
                next(times),
                exposed=True,
                alias="../../etc/passwd",
            )
            for number, size in zip(numbers, (0, 1, 4096, HUGE_BYTES, 0, FAR), strict=True)
        ),
        *(
            LeaseRow((client << NUMBER_BITS) + count, segment, mode, state, next(times), -1, ESCAPE, next(times))
            for count, (client, segment, mode, state) in enumerate(
                itertools.product((*range(len(who)), 99, -1), (*numbers, 77), LeaseMode, LeaseState)
            )
        ),
        *(TicketRow(number, number, -1, next(times), ESCAPE) for number in (*numbers, 77)),
        *(EventRow(number, next(times), kind, -1, -1, -1, ESCAPE) for number, kind in enumerate(EventKind)),
    ]
    Ledger(f"{path}/ledger", rows).close()
    os.chmod(f"{path}/ledger", 0o644)


def ledger_of_impossible_rows(path: str) -> None:
    """Numbers that no process and no segment has."""
    os.mkdir(path, 0o755)
    identity = replace(own_identity(), pid=FAR)
    Ledger(f"{path}/ledger", [ClientRow(1, identity, b"", ClientState.CONNECTED, 0)]).close()


def ledger_as_long_as_it_may_be(path: str) -> None:
    """It takes many times its size in memory."""
    os.mkdir(path, 0o755)
    rows = [LeaseRow(number, number, LeaseMode.READ, LeaseState.HELD, 0, 0) for number in range(800_000)]
    Ledger(f"{path}/ledger", rows).close()


# Directories that look like a registry's, of the neighbour's own: by the id of the registry.
INSIDE: dict[str, Plant] = {
    **{f"all{name.replace('_', '')}": _every_entry(plant) for name, plant in UNDER_A_NAME.items()},
    "allunderalease": _every_entry(file_under_a_lease),
    **{
        plant.__name__.replace("_", ""): plant
        for plant in (
            deep_directories,
            ledger_of_lies,
            ledger_of_impossible_rows,
            lies_of_one_that_runs,
            ledger_as_long_as_it_may_be,
        )
    },
}
