"""A /dev/shm of 64 MB, as Docker gives: what does not fit waits or is refused with the figures; nothing is ever
a SIGBUS.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from rig.mount_namespace import mount_namespace

HEAD = """
import os, signal, sys, threading
import numpy as np
import shmlease
from shmlease.system.ledger import read_ledger

MB = 1_000_000

def fill():
    "Somebody else takes all that is left."
    fd = os.open("/dev/shm/filler", os.O_RDWR | os.O_CREAT)
    for size in (1 << 20, 4096):
        try:
            while True:
                os.write(fd, bytes(size))
        except OSError:
            pass
    os.close(fd)
"""


MOUNT = 'mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm || exit 97; exec "$@"'


def run_in_64_mb(code: str) -> str:
    """What `code` prints in a mount namespace of its own."""
    command = mount_namespace(MOUNT, sys.executable, "-c", HEAD + code)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == 97:
        pytest.skip(f"no private /dev/shm here: {done.stderr.strip()}")
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout


def test_more_than_the_mount_is_refused_with_the_figures() -> None:
    out = run_in_64_mb("""
with shmlease.Registry("1GiB") as registry:
    try:
        registry.lease(shape=100 * MB, dtype="u1", timeout=0.2)
    except shmlease.CapacityError as error:
        print(isinstance(error, MemoryError), error.requested_bytes >= 100 * MB, error.shm_free_bytes < 67_108_864)
print(sorted(os.listdir("/dev/shm")))
""")
    assert out == "True True True\n[]\n"


def test_forty_mb_twice_is_refused_or_waits_and_is_never_a_bus_error() -> None:
    out = run_in_64_mb("""
with shmlease.Registry("1GiB") as registry:
    first = registry.lease(shape=40 * MB, dtype="u1")
    first.array[:] = 1
    try:
        registry.lease(shape=40 * MB, dtype="u1", timeout=0.2)
    except shmlease.CapacityError:
        print("refused")
    threading.Timer(0.2, first.release).start()
    with registry.lease(shape=40 * MB, dtype="u1", timeout=60) as second:
        second.array[:] = 2
        print(int(second.array[-1]))
""")
    assert out == "refused\n2\n"


def test_two_who_together_ask_for_too_much_never_fault() -> None:
    out = run_in_64_mb("""
with shmlease.Registry("1GiB") as registry:
    def work(number):
        for _ in range(6):
            with registry.lease(shape=35 * MB, dtype="u1", timeout=60) as lease:
                lease.array[:] = number
                assert lease.array[0] == lease.array[-1] == number
    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print("done", registry.statistics().leases.get("write", 0))
""")
    assert out == "done 0\n"


def test_others_filling_the_mount_do_not_touch_what_is_leased() -> None:
    out = run_in_64_mb("""
with shmlease.Registry("32MiB") as registry:
    lease = registry.lease(shape=20 * MB, dtype="u1")
    fill()
    lease.array[:] = 7
    lease.publish()
    print(int(lease.array.sum()) == 140 * MB)
    try:
        registry.lease("more", shape=8 * MB, dtype="u1", timeout=0.2)
    except shmlease.CapacityError as error:
        print("refused", "/dev/shm" in str(error))
    lease.release()
    os.unlink("/dev/shm/filler")
    with registry.lease("more", shape=8 * MB, dtype="u1", timeout=60) as more:
        more.array[:] = 1
        print(registry.statistics().epoch)
""")
    assert out == "True\nrefused True\n1\n"


def test_hand_over_in_a_full_mount_works_or_is_refused_and_the_registry_lives() -> None:
    out = run_in_64_mb("""
with shmlease.Registry("8MiB") as registry:
    array = np.arange(512)
    def hand_over():
        with registry.share(array, timeout=0) as lease, registry.redeem(lease.ticket()) as reader:
            assert reader.array[-1] == 511
    for _ in range(20):
        hand_over()
    fill()
    refused = 0
    for _ in range(2000):
        try:
            hand_over()
        except shmlease.CapacityError:
            refused += 1
    os.unlink("/dev/shm/filler")
    hand_over()
    print(registry.statistics().epoch, registry.statistics().tickets, registry.statistics().leases.get("write", 0))
    opened = len(os.listdir("/proc/self/fd"))
    print(opened < 40)
""")
    assert out == "1 0 0\nTrue\n"


def test_registry_killed_in_a_full_mount_is_succeeded_when_there_is_room() -> None:
    out = run_in_64_mb("""
import shmlease.client.channel as channel
channel.RECOVER_WITHIN_S = 0.5
with shmlease.Registry("8MiB") as registry, registry.share(np.arange(10), "kept") as lease:
    fill()
    os.kill(read_ledger(f"/dev/shm/shmlease-{registry.id}/ledger").registry.identity.pid, signal.SIGKILL)
    try:
        registry.attach("kept")
        print("served")
    except shmlease.LeaseError:
        print("no room yet")
    print(int(lease.array.sum()))
    os.unlink("/dev/shm/filler")
    channel.RECOVER_WITHIN_S = 10.0
    with registry.attach("kept") as reader:
        print(int(reader.array.sum()))
""")
    assert out.splitlines()[1:] == ["45", "45"]


def test_exposed_segments_do_not_stay_in_memory_after_their_release() -> None:
    out = run_in_64_mb("""
with shmlease.Registry("60MiB") as registry:
    for _ in range(8):
        with registry.lease(shape=20 * MB, dtype="u1", timeout=60) as lease:
            lease.segment
            lease.array[:] = 1
    print("done")
""")
    assert out == "done\n"


def test_registry_without_room_to_start_says_so_and_leaves_nothing() -> None:
    out = run_in_64_mb("""
fill()
try:
    shmlease.Registry("1MiB")
except shmlease.CapacityError as error:
    print("/dev/shm is full" in str(error), "filler (64 MiB" in str(error), "`shmlease audit`" in str(error))
print(sorted(os.listdir("/dev/shm")))
""")
    assert out == "True True True\n['filler']\n"
