"""What other users make in /dev/shm under our names stops, hangs, grows and misleads nobody, root included."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rig import visitor
from rig.neighbour import INSIDE, SECRET, UNDER_A_NAME
from rig.other_users import NEIGHBOUR, OWNER, among_other_users, as_user, run_as, start_as
from rig.until import until

SHM = "/dev/shm"
# What reading takes beyond the program itself: the rows of a foreign ledger of 16 MiB are some 150 MiB.
MOST_GROWTH_MIB = 400
MOST_OUTPUT = 1_000_000  # some 400 lies are told, each with its evidence
SECRET_WORDS = "nobody else may know"
VIEWERS = {"user": OWNER, "root": 0}


# Root meets each kind in the suite, another user a few, which are opened or entered in different ways.
FEW = ("directory", "fifo", "hard_link")
TAKEN = [
    pytest.param(kind, viewer, marks=() if viewer == "root" or kind in FEW else pytest.mark.stress)
    for kind in (*UNDER_A_NAME, "hard_link")
    for viewer in VIEWERS
]


@pytest.mark.parametrize(("kind", "viewer"), TAKEN)
@among_other_users
def test_default_registry_is_served_and_found_though_its_name_is_taken(kind: str, viewer: str) -> None:
    name = f"{SHM}/shmlease-u{VIEWERS[viewer]}"

    def plant() -> None:
        if kind != "hard_link":
            UNDER_A_NAME[kind](name)

    with planted(plant):
        if kind == "hard_link":
            os.link(SECRET, name)  # as anybody may where fs.protected_hardlinks is 0
        outcomes = visit(VIEWERS[viewer], "connect", "status")
        os.stat(name, follow_symlinks=False)
        if kind == "hard_link":
            os.unlink(name)
    assert f"registry u{VIEWERS[viewer]}x" in outcomes["status"]["output"]


@pytest.mark.parametrize("viewer", VIEWERS)
@among_other_users
def test_everything_works_beside_registries_of_a_neighbours_making(viewer: str) -> None:
    """All kinds at once: one bad item does not stop the rest."""

    def plant() -> None:
        for id, make in INSIDE.items():
            make(f"{SHM}/shmlease-{id}")

    with planted(plant):
        os.mkdir(f"{SHM}/shmlease-allhardlinks")
        for entry in ("ledger", "lock", "socket", "j1", "s1"):
            os.link(SECRET, f"{SHM}/shmlease-allhardlinks/{entry}")
        os.chown(f"{SHM}/shmlease-allhardlinks", NEIGHBOUR, NEIGHBOUR)
        outcomes = visit(VIEWERS[viewer], *visitor.VISITS)
        for entry in ("ledger", "lock", "socket", "j1", "s1"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{SHM}/shmlease-allhardlinks/{entry}")
    assert f"registry u{VIEWERS[viewer]}  " in outcomes["status"]["output"]
    told = outcomes["audit"]["output"]
    for id in INSIDE:
        assert viewer == "user" or id in ("allfile", "alldirectory") or id in told, f"{id} is not told of"


@pytest.mark.parametrize("end", ["in order", "killed"])
@pytest.mark.parametrize("kind", ["file", "directory", "link_to_secret", "fifo"])
@among_other_users
def test_what_has_the_name_of_a_segment_keeps_its_registry_from_nothing(kind: str, end: str) -> None:
    program = (
        "import sys, signal, os, numpy as np, shmlease\n"
        "with shmlease.Registry('16MiB') as registry:\n"
        "    print(registry.id, flush=True); input()\n"
        "    with registry.share(np.arange(1000)) as lease:\n"
        "        print(lease.segment, flush=True); input()\n"
    )
    with start_as(OWNER, [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        id = said(owner)
        assert id, "it did not start"
        as_user(NEIGHBOUR, lambda: UNDER_A_NAME[kind](f"{SHM}/shmlease-{id}-1"))
        tell(owner)
        name = said(owner)
        assert name != f"shmlease-{id}-1"
        assert os.stat(f"{SHM}/{name}").st_uid == OWNER
        if end == "killed":
            pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_registry(pid, id)]
            for pid in (*map(int, pids), owner.pid):
                os.kill(pid, signal.SIGKILL)
            owner.wait()
            until(lambda: not any(is_registry(pid, id) for pid in pids), what="the end of the registry")
        else:
            tell(owner)
            assert owner.wait(60) == 0
    outcomes = visit(OWNER, "registry")
    assert os.listdir(SHM) == [f"shmlease-{id}-1"], outcomes


@among_other_users
def test_root_reaps_what_a_neighbour_swaps_and_touches_nothing_else() -> None:
    """A dead registry's directory, which its owner swaps for a link to a directory of root's as fast as he can."""
    canary = tempfile.mkdtemp()
    for name in ("lock", "ledger", "socket", "s1", "t1", "j1"):
        open(f"{canary}/{name}", "x").close()
    path, aside = f"{SHM}/shmlease-0badcafe", f"{SHM}/aside"

    def make() -> None:
        os.mkdir(path, 0o700)
        for name in ("lock", "s1", "t1", "j1"):
            open(f"{path}/{name}", "x").close()

    def swap_for_ever(neighbour: int) -> None:
        while os.getppid() == neighbour:
            with contextlib.suppress(OSError):
                make()
            for _ in range(100):
                with contextlib.suppress(OSError):
                    os.rename(path, aside)
                    os.symlink(canary, path)
                    os.unlink(path)
                with contextlib.suppress(OSError):
                    os.rename(aside, path)

    def plant() -> None:
        make()
        neighbour = os.getpid()
        if os.fork() == 0:
            try:
                swap_for_ever(neighbour)
            finally:
                os._exit(0)

    with planted(plant):
        program = (
            "import shmlease.auditor.reap as module\n"
            "class NoWait:\n"
            "    def wait_s(self, seconds): pass\n"
            "for _ in range(8): print(module.reap(yes=True, clock=NoWait()))\n"
        )
        done = run_as(0, sys.executable, "-c", program)
        assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(canary)) == ["j1", "ledger", "lock", "s1", "socket", "t1"]
    shutil.rmtree(canary)


def visit(uid: int, *visits: str) -> dict[str, dict[str, Any]]:
    """Let user `uid` run a default registry and use shmlease; how each visit went, by its name."""
    before = entries()
    with serving(uid):
        done = run_as(uid, sys.executable, visitor.__file__, *visits, timeout_s=280)
    outcomes = {outcome["visit"]: outcome for outcome in map(json.loads, done.stdout.splitlines())}
    assert list(outcomes) == list(visits), done.stderr
    for name, outcome in outcomes.items():
        assert not outcome["error"], (name, outcome["error"], outcome["output"][-2000:])
        assert outcome["grown_mib"] < MOST_GROWTH_MIB, name
        assert len(outcome["output"]) < MOST_OUTPUT, name
        assert "\x1b" not in outcome["output"], f"{name}: what a neighbour wrote controls the terminal"
        assert SECRET_WORDS not in outcome["output"], name
    assert entries() <= before, "left behind"
    return outcomes


@contextlib.contextmanager
def serving(uid: int) -> Iterator[None]:
    """The default registry of user `uid`, and that it ends in order."""
    command = [sys.executable, "-P", "-m", "shmlease", "serve", "--capacity", "4MiB"]
    with start_as(uid, command, stderr=subprocess.PIPE) as registry:
        try:
            assert registry.stderr is not None
            words = registry.stderr.readline()
            assert "serves up to 4 MiB" in words, words + registry.stderr.read()
            yield
            registry.terminate()
            assert registry.wait(60) == 0, registry.stderr.read()
        finally:
            registry.kill()


@contextlib.contextmanager
def planted(plant: Callable[[], None]) -> Iterator[None]:
    """What a neighbour has made, while he lives; and that nothing of root's has changed since."""
    secret = open(SECRET, "w")  # noqa: SIM115 - open to the end: else it would be nobody's, and reaped
    secret.write(SECRET_WORDS)
    secret.flush()
    os.chmod(SECRET, 0o600)
    before, etc_before = os.stat(SECRET), sorted(os.listdir("/etc"))
    reading, writing = os.pipe()
    neighbour = os.fork()
    if neighbour == 0:
        words = b"planted"
        try:
            os.setgroups([])
            os.setgid(NEIGHBOUR)
            os.setuid(NEIGHBOUR)
            os.umask(0)
            plant()
        except BaseException as error:
            words = repr(error).encode()
        os.write(writing, words)
        signal.pause()
    try:
        os.close(writing)
        assert os.read(reading, 4096) == b"planted"
        yield
    finally:
        os.close(reading)
        os.kill(neighbour, signal.SIGKILL)
        os.waitpid(neighbour, 0)
    after = os.stat(SECRET)
    secret.close()
    assert (after.st_mode, after.st_uid, after.st_nlink, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_nlink,
        before.st_mtime_ns,
    )
    assert sorted(os.listdir("/etc")) == etc_before
    assert not os.path.exists(f"{SHM}/made-by-following")
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)


def entries() -> set[str]:
    """What is in /dev/shm, the neighbour's deep directories left out."""
    return {
        f"{path}/{name}"
        for path, directories, files in os.walk(SHM)
        for name in (*directories, *files)
        if path.count("/") < 5 or directories.clear()
    }


def is_registry(pid: str, id: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
        with open(f"/proc/{pid}/stat") as file:
            return id.encode() in command and file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@among_other_users
def test_nobody_talks_to_a_socket_of_another_user() -> None:
    """In a /dev/shm that is not sticky, a neighbour may put his directory in the place of ours between two calls."""
    program = (
        "import contextlib, sys, shmlease.client.connection as module\n"
        "try: module.SocketConnection(sys.argv[1], contextlib.nullcontext).open()\n"
        "except PermissionError as refused: print(refused)\n"
    )
    path = f"{SHM}/socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def listen() -> None:
        listener.bind(path)
        listener.listen()

    with listener, planted(listen):
        done = run_as(0, sys.executable, "-c", program, path)
    assert f"belongs to uid {NEIGHBOUR}; this process runs as uid 0" in done.stdout, done.stderr
