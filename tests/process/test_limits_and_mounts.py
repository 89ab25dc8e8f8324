"""Where a process meets a limit of its own, or /dev/shm is not what it should be, each call and command says so
in words.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ingesting import OPTIONS, make_table
from running import environment, run_here

import shmlease
from rig.actor import Actor
from rig.mount_namespace import mount_namespace
from rig.until import until
from shmlease.errors import CapacityError, RegistryUnavailableError

StartActor = Callable[..., Actor]

DEV = "mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9"
MOUNTS = {
    "missing": (DEV, RegistryUnavailableError, "there is no /dev/shm"),
    "on a disk": ("mount --bind {directory} /dev/shm", RegistryUnavailableError, "is no shared memory but a directory"),
    "read-only": (
        "mount -t tmpfs -o ro tmpfs /dev/shm",
        RegistryUnavailableError,
        "mounted read-only; `mount -o remount,rw",
    ),
    "full": (
        "mount -t tmpfs -o size=2m tmpfs /dev/shm && head -c 2M /dev/zero > /dev/shm/psm_big",
        CapacityError,
        "/dev/shm is full: 0 B of 2 MiB are free; most is in psm_big (2 MiB, uid 0)",
    ),
    "full of names": (
        "mount -t tmpfs -o size=2m,nr_inodes=20 tmpfs /dev/shm && for i in $(seq 18); do echo > /dev/shm/psm_$i; done",
        CapacityError,
        "/dev/shm",
    ),
}


def run_where(mount: str, directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `command` in a mount namespace in which `mount` was done."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount this")
    (directory / "disk").mkdir(exist_ok=True)
    script = f'{mount.format(directory=directory / "disk")} || exit 97; exec "$@"'
    done = run_here(mount_namespace(script, *command), directory)
    if done.returncode == 97:
        pytest.skip(f"this cannot be mounted here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("case", MOUNTS)
@pytest.mark.parametrize("call", ["shmlease.Registry()", "shmlease.Registry('1MiB')"])
def test_registry_that_cannot_begin_says_what_is_wrong(case: str, call: str, tmp_path: Path) -> None:
    mount, kind, words = MOUNTS[case]
    program = f"import shmlease\ntry: {call}\nexcept shmlease.LeaseError as error: print(type(error).__name__, error)"
    done = run_where(mount, tmp_path, sys.executable, "-c", program)
    assert done.stdout.startswith(kind.__name__), done.stderr
    assert words in done.stdout
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize("case", MOUNTS)
def test_connect_says_that_there_is_no_registry(case: str, tmp_path: Path) -> None:
    program = "import shmlease\ntry: shmlease.connect()\nexcept shmlease.RegistryUnavailableError as error: print(error)"
    done = run_where(MOUNTS[case][0], tmp_path, sys.executable, "-c", program)
    assert ("there is no /dev/shm" if case == "missing" else "start one with `shmlease serve`") in done.stdout, done.stderr


@pytest.mark.parametrize("case", MOUNTS)
@pytest.mark.parametrize(
    "command", [["serve"], ["ingest", "one.cov", "-o", "out.h5", "--workers", "1", *OPTIONS]], ids=lambda words: words[0]
)
def test_command_that_needs_a_registry_says_what_is_wrong(case: str, command: list[str], tmp_path: Path) -> None:
    make_table(tmp_path / "one.cov", 10)
    mount, _, words = MOUNTS[case]
    done = run_where(mount, tmp_path, sys.executable, "-m", "shmlease", *command)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("case", MOUNTS)
def test_audit_says_what_it_could_not_see(case: str, tmp_path: Path) -> None:
    done = run_where(MOUNTS[case][0], tmp_path, sys.executable, "-m", "shmlease", "audit", "-v")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 23), done.stderr
    if case == "missing":
        assert "not seen: /dev/shm" in done.stdout
    if case == "full":
        assert "psm_big" in done.stdout


@pytest.mark.parametrize("case", MOUNTS)
def test_run_runs_the_command_or_says_why_not(case: str, tmp_path: Path) -> None:
    done = run_where(MOUNTS[case][0], tmp_path, sys.executable, "-m", "shmlease", "run", "--", "echo", "hello")
    assert "Traceback" not in done.stderr
    if case == "missing":
        assert (done.returncode, done.stdout) == (2, "")
        assert "there is no /dev/shm" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_shared_memory_without_a_size_limit_has_room(tmp_path: Path) -> None:
    program = (
        "import shmlease\nwith shmlease.Registry() as r, r.lease(shape=10) as l: "
        "print(r.statistics().capacity_bytes > 1 << 20)"
    )
    done = run_where("mount -t tmpfs -o size=0,nr_inodes=0 tmpfs /dev/shm", tmp_path, sys.executable, "-c", program)
    assert done.stdout == "True\n", done.stderr


# --- limits of a client ---------------------------------------------------------------------------------------------------

LIMITED = """
    import os, resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as in an embedded interpreter: it ends the process
    def limit(number, value): resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
"""


@contextmanager
def limited_error(actor: Actor, call: str, kind: type[Exception]) -> Iterator[str]:
    """What the actor is told when it makes the call."""
    with pytest.raises(kind) as raised:
        actor(call)
    yield str(raised.value)


def run_limited(program: str) -> subprocess.CompletedProcess[str]:
    words = f"{textwrap.dedent(LIMITED)}\nimport shmlease\ntry:\n{textwrap.indent(program, '    ')}\n"
    words += "except shmlease.LeaseError as error: print(type(error).__name__, error)"
    return subprocess.run([sys.executable, "-c", words], env=environment(), capture_output=True, text=True, check=False)


def test_segment_beyond_the_file_size_limit_is_refused(registry: shmlease.Registry, actor: StartActor) -> None:
    limited = actor(before=textwrap.dedent(LIMITED) + "limit(resource.RLIMIT_FSIZE, 1 << 20)")
    with limited_error(limited, "registry.lease(shape=4 << 20, dtype='u1')", CapacityError) as words:
        assert "a segment of 4 MiB cannot be mapped" in words
        assert "this process may write files of 1 MiB at most (RLIMIT_FSIZE); raise `ulimit -f`" in words
    assert limited("with registry.lease(shape=1000) as lease: lease.array[:] = 1\nlease.nbytes") == 8000
    until(lambda: not registry.statistics().segments.get("filling"), what="the end of the segment that was not mapped")


def test_file_size_limit_below_a_notice_log_is_told_when_connecting(registry: shmlease.Registry) -> None:
    done = run_limited(f"limit(resource.RLIMIT_FSIZE, 4096)\nshmlease.connect({registry.id!r})")
    assert "may write files of 4 KiB at most (RLIMIT_FSIZE)" in done.stdout, done.stderr


@pytest.mark.parametrize("call", ["registry.lease(shape=64 << 20, dtype='u1')", "registry.attach('big')"])
def test_segment_that_does_not_fit_into_the_address_space_is_refused(call: str, actor: StartActor) -> None:
    with shmlease.Registry("256MiB") as registry, registry.lease("big", shape=64 << 20, dtype="u1") as big:
        big.publish()
        with Actor(registry.id, before=textwrap.dedent(LIMITED)) as limited:
            limited(
                "size = int(open('/proc/self/statm').read().split()[0]) * 4096\nlimit(resource.RLIMIT_AS, size + (32 << "
                "20))"
            )
            with limited_error(limited, call, CapacityError) as words:
                assert "a segment of 64 MiB cannot be mapped: this process gets no more memory: RLIMIT_AS is" in words
            until(lambda: sum(registry.statistics().leases.values()) == 1, what="the end of the lease that was not mapped")


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("registry.attach('a')", CapacityError),
        ("registry.lease(shape=1000)", CapacityError),
        ("registry.lease('b', shape=1000)", CapacityError),
        ("held.ticket()", CapacityError),
        ("shmlease.connect(other)", RegistryUnavailableError),
        ("shmlease.Registry('1MiB')", RegistryUnavailableError),
    ],
)
def test_process_without_descriptors_is_told_so(
    call: str, kind: type[Exception], registry: shmlease.Registry, actor: StartActor
) -> None:
    with registry.share([1, 2, 3], "a"), shmlease.Registry("1MiB") as other:
        limited = actor(before=textwrap.dedent(LIMITED))
        limited("held = registry.share([4], 'held')", other=other.id)
        limited("opened = []\ntry:\n    while True: opened.append(os.open('/dev/null', os.O_RDONLY))\nexcept OSError: pass")
        with limited_error(limited, call, kind) as words:
            assert "descriptors in use (RLIMIT_NOFILE)" in words
        limited("[os.close(fd) for fd in opened]; held.release()")
        assert limited("with registry.attach('a') as lease: total = int(lease.array.sum())\ntotal") == 6


# --- memory that runs out -------------------------------------------------------------------------------------------------

CALLS = {
    "audit": "shmlease.audit()",
    "begin_scope": "begin_scope('a')",
    "Registry": "shmlease.Registry('1MiB')",
    "connect": "shmlease.connect(registry.id)",
    "lease": "registry.lease('b', shape=100_000)",
    "share": "registry.share(array)",
    "attach": "registry.attach('held')",
    "redeem": "registry.redeem(ticket)",
    "ticket": "held.ticket()",
    "segment": "held.segment",
    "statistics": "registry.statistics()",
    "trim": "registry.trim()",
    "HDF5Sink": "shmlease.HDF5Sink('new.h5')",
    "append": "sink.append('a', array)",
    "write": "sink.write('a', array)",
    "declare": "[sink.declare(f'a{number}', array.dtype) for number in range(5_000)]",  # one may still find room
    "close": "sink.close()",
    "verify": "shmlease.verify('good.h5')",
    "infer": "infer('one.cov')",
    "ingest": "shmlease.ingest('one.cov', 'out.h5', layout='bismark-cov')",
}


def test_memory_that_runs_out_is_reported_with_its_limit_by_every_call(tmp_path: Path) -> None:
    """In a forked child, which has to connect anew, all memory that the limit leaves is taken; then the call is made."""
    make_table(tmp_path / "one.cov", 10)
    program = f"""
        import h5py, os, resource, sys, numpy as np, shmlease, shmlease.ingestion.ingest
        from shmlease.auditor.audit import begin_scope
        from shmlease.text.inference import infer
        array = np.ones(100_000)
        with shmlease.HDF5Sink("good.h5") as sink: sink.append("a", array)
        shmlease.verify("good.h5")
        def fill():
            with open("/proc/self/status") as file:
                used = next(int(line.split()[1]) for line in file if line.startswith("VmData")) * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (used, resource.getrlimit(resource.RLIMIT_DATA)[1]))
            taken, size = [], 1 << 22
            while size > 600:  # smaller ones come from what Python has set aside
                try:
                    while True: taken.append(bytes(size))
                except MemoryError: size = size * 15 // 16
            return taken
        call_of = {CALLS!r}
        def outcome(call):
            try: eval(call, globals())
            except BaseException as error: return error
        with shmlease.Registry("64MiB") as registry, registry.share(np.arange(1000), "held") as held:
            ticket = held.ticket()
            for name, call in [(name, compile(call, name, "eval")) for name, call in call_of.items()]:
                if os.fork() == 0:
                    sink = shmlease.HDF5Sink(f"{{name}}.h5", encoders=1) if "sink." in call_of[name] else None
                    taken = fill()
                    error = outcome(call)
                    taken = None
                    resource.setrlimit(resource.RLIMIT_DATA, (resource.getrlimit(resource.RLIMIT_DATA)[1],) * 2)
                    print(name, type(error).__mro__[:-1], error, flush=True)
                    os._exit(0)
                os.wait()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=environment(OPENBLAS_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert told.keys() == CALLS.keys(), done.stderr
    for name, words in told.items():
        assert "shmlease.errors.LeaseError" in words, name
        assert "this process gets no more memory: RLIMIT_DATA is" in words


def test_serve_takes_any_capacity_where_dev_shm_has_no_limit(tmp_path: Path) -> None:
    program = """if True:
        import subprocess, sys
        words = [sys.executable, "-m", "shmlease", "serve", "--id", "unlimited", "--capacity", "4MiB"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as serving:
            print(serving.stderr.readline())
            serving.terminate()
    """
    done = run_where("mount -t tmpfs -o size=0 tmpfs /dev/shm", tmp_path, sys.executable, "-c", program)
    assert "registry unlimited serves up to 4 MiB" in done.stdout, done.stderr
