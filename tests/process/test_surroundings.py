"""Whoever starts a registry or its successor, the process has limits, umask, directory and signals of its own choosing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from running import environment

import shmlease
from rig.actor import Actor
from rig.site import Site
from shmlease.core.model import EventKind
from shmlease.system.interpreter import import_path

StartActor = Callable[..., Actor]

# Without the capabilities that would let the registry, which it executes, take back what was taken from it: for root loses
# them at exec if they are not in the bounding set. PR_CAPBSET_DROP; CAP_SYS_NICE, CAP_SYS_RESOURCE
POWERLESS = "import ctypes; [ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) for capability in (23, 24)]\n"
# What is done to a process before it starts a registry or its successor, all of which the registry may undo itself.
UNDONE = {
    "umask": "os.umask(0o777)",
    "directory": "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
    "signals ignored": (
        "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)]"
    ),
    "signals blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "soft limits": (
        "[resource.setrlimit(n, (at_most, resource.getrlimit(n)[1])) for n, at_most in ((resource.RLIMIT_NOFILE, 64), "
        "(resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_CPU, 600), (resource.RLIMIT_STACK, 1 << 20))]"
    ),
    "processors": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "environment": "os.environ.update(PYTHONHOME='/no/such', PYTHONPATH='/no/such', TOKEN='secret', LC_ALL='C')",
    "memory's last resort": "open('/proc/self/oom_score_adj', 'w').write('700')",
}
HARD = {
    "files of 1 MiB": (resource.RLIMIT_FSIZE, 1 << 20),
    "40 descriptors": (resource.RLIMIT_NOFILE, 40),
    "4 GiB of address space": (resource.RLIMIT_AS, 4 << 30),
    "2 GiB of data": (resource.RLIMIT_DATA, 2 << 30),
    "1 MiB of stack": (resource.RLIMIT_STACK, 1 << 20),
    "600 s of processor time": (resource.RLIMIT_CPU, 600),
    "2000 processes": (resource.RLIMIT_NPROC, 2000),
}


def state_of(pid: int) -> dict[str, Any]:
    """What a process has of what it might have inherited."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    with open(f"/proc/{pid}/limits") as file:
        limits = {line[:26].strip(): line[26:].split()[:2] for line in file}
    with open(f"/proc/{pid}/environ") as file:
        names = sorted(variable.partition("=")[0] for variable in file.read().split("\0"))
    with open(f"/proc/{pid}/oom_score_adj") as file:
        oom = file.read()
    return {
        "umask": status["Umask"],
        "directory": os.readlink(f"/proc/{pid}/cwd"),
        "blocked": status["SigBlk"],
        "ignored": status["SigIgn"],
        "caught": status["SigCgt"],
        "processors": os.sched_getaffinity(pid),
        "niceness": os.getpriority(os.PRIO_PROCESS, pid),
        "oom_score_adj": oom,
        "limits": limits,
        "environment": [name for name in names if not name.startswith(("SHMLEASE_", "LC_", "LANG"))],
    }


@pytest.mark.parametrize("case", UNDONE)
def test_registry_starts_as_usual_whatever_its_starter_has_done_to_itself(
    case: str, registry: shmlease.Registry, site: Site
) -> None:
    usual = state_of(site.pid)
    assert usual["umask"] == "0077"
    assert usual["directory"] == "/"
    assert int(usual["blocked"], 16) == 0
    assert all(soft == hard for soft, hard in usual["limits"].values() if hard.isdigit())
    with Actor(before=f"import os, signal, resource\n{UNDONE[case]}") as starter:
        id = starter("other = shmlease.Registry('16MiB'); other.id")
        state = state_of(Site(id).pid)
        starter("other.close()")
    first_of_all = {"processors", "oom_score_adj", "environment"}  # these are the first one's to choose
    assert {k: v for k, v in state.items() if k not in first_of_all} == {
        k: v for k, v in usual.items() if k not in first_of_all
    }
    assert "TOKEN" not in state["environment"]


@pytest.mark.parametrize("case", UNDONE)
def test_successor_is_as_the_first_whatever_its_elector_has_done_to_itself(
    case: str, registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    first = state_of(site.pid)
    with registry.share(np.arange(1000), "a"):
        elector = actor(before=f"import os, signal, resource\n{UNDONE[case]}")
        site.kill()
        assert elector("with registry.attach('a') as lease: total = int(lease.array.sum())\ntotal") == 499_500
        assert site.epoch == 2
        assert state_of(site.pid) == first
        with registry.share(np.arange(300_000), "b"), registry.attach("b") as lease:
            assert lease.array.sum() == 44_999_850_000


@pytest.mark.parametrize("case", HARD)
def test_successor_with_low_hard_limits_hands_over_to_the_next_client_with_higher_ones(
    case: str, registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    number, value = HARD[case]
    if 0 <= resource.getrlimit(number)[1] <= value:
        pytest.skip("the limit is as low for everybody here")
    first = state_of(site.pid)
    written = registry.share(np.arange(1000), "a")
    ticket = written.ticket()
    weak = actor(before=f"{POWERLESS}import resource; resource.setrlimit({number}, ({value}, {value}))")
    site.kill()
    assert weak("with registry.attach('a') as lease: total = int(lease.array.sum())\ntotal") == 499_500
    assert site.epoch == 2
    assert state_of(site.pid)["limits"] != first["limits"]

    with registry.redeem(ticket) as lease:
        assert lease.array.sum() == 499_500
    assert registry.statistics().epoch == 3
    assert state_of(site.pid) == first
    (event,) = [event for event in site.ledger().events if event.kind is EventKind.HANDED_OVER]
    assert f"to pid {os.getpid()}, for this process had RLIMIT_" in event.detail
    with registry.lease(shape=4 << 20, dtype="u1") as lease:
        lease.array[:] = 1

    # the weak one goes on as a client of it, and its epoch stays
    assert weak("with registry.attach('a') as lease: total = int(lease.array.sum())\ntotal") == 499_500
    assert registry.statistics().epoch == 3
    written.release()


def test_successor_of_a_nice_client_hands_over_to_one_that_is_less_so(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) >= 19:
        pytest.skip("nobody can be nicer than this process")
    first = state_of(site.pid)
    weak = actor(before=f"{POWERLESS}os.nice(5)")
    site.kill()
    weak("registry.statistics()")
    assert state_of(site.pid)["niceness"] > first["niceness"]
    assert registry.statistics().epoch == 3
    assert state_of(site.pid) == first


def test_calls_that_wait_survive_a_handing_over(registry: shmlease.Registry, site: Site, actor: StartActor) -> None:
    weak = actor(before=f"{POWERLESS}import resource; resource.setrlimit(resource.RLIMIT_CPU, (600, 600))")
    waiting = actor(before=f"{POWERLESS}import resource; resource.setrlimit(resource.RLIMIT_CPU, (600, 600))")
    site.kill()
    weak("registry.statistics()")
    waiting.begin("with registry.attach('late', timeout=60) as lease: total = int(lease.array.sum())\ntotal")
    with registry.share(np.arange(10), "late"):
        assert waiting.result() == 45
    assert registry.statistics().epoch == 3


def run(program: str, **popen: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", POWERLESS + textwrap.dedent(program)],
        env=environment(PYTHONPATH=os.pathsep.join(import_path())),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        **popen,
    )


def test_only_client_succeeds_at_once_and_is_reported_which_limit_it_meets() -> None:
    done = run("""
        import os, resource, signal, time, shmlease
        from shmlease.system.ledger import read_ledger
        with shmlease.Registry("64MiB") as registry:
            registry.statistics()
            pid = read_ledger(f"/dev/shm/shmlease-{registry.id}/ledger").registry.identity.pid
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            os.kill(pid, signal.SIGKILL)
            with registry.lease(shape=1000): print(registry.statistics().epoch)
            try: registry.lease(shape=4 << 20, timeout=0)
            except shmlease.CapacityError as error: print(error)
    """)
    epoch, error = done.stdout.splitlines()
    assert epoch == "2", done.stderr
    assert "the registry process may write files of 1 MiB at most (RLIMIT_FSIZE)" in error


def test_client_that_cannot_start_a_successor_names_its_limit_and_others_start_one(
    registry: shmlease.Registry, site: Site
) -> None:
    program = f"""
        import os, resource, signal, shmlease
        import shmlease.client.channel as channel
        channel.RECOVER_WITHIN_S = 2.0
        registry = shmlease.connect({registry.id!r})
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 20, 1 << 20))
        os.kill({site.pid}, signal.SIGKILL)
        try: registry.statistics()
        # a CapacityError if not even the call itself gets what it needs: what is free on the heap decides
        except (shmlease.RegistryUnavailableError, shmlease.CapacityError) as error: print(error)
    """
    done = run(program)
    assert "RLIMIT_DATA is 1 MiB" in done.stdout, done.stderr
    assert registry.statistics().epoch >= 2


def test_successor_that_may_not_have_a_descriptor_for_each_client_is_left_to_others() -> None:
    """It would serve some, and could not even hear the client that may have more."""
    done = run("""
        import os, resource, signal, shmlease
        import shmlease.client.channel as channel
        from shmlease.system.directory import RegistryDirectory
        with shmlease.Registry("16MiB") as registry:
            pid = RegistryDirectory(registry.id).read_ledger().registry.identity.pid
            ready_r, ready_w = os.pipe()
            stay_r, stay_w = os.pipe()
            for _ in range(16):
                if os.fork() == 0:
                    os.close(stay_w)
                    shmlease.connect().statistics()
                    os.write(ready_w, b"x")
                    os.read(stay_r, 1)
                    os._exit(0)
            for _ in range(16): os.read(ready_r, 1)
            if os.fork() == 0:
                resource.setrlimit(resource.RLIMIT_NOFILE, (56, 56))
                channel.RECOVER_WITHIN_S = 1.0
                os.kill(pid, signal.SIGKILL)
                try: registry.statistics()
                except shmlease.RegistryUnavailableError as error: print(error, flush=True)
                os._exit(0)
            os.wait()
            with registry.lease(shape=10): print(registry.statistics().clients, flush=True)
            os.close(stay_w)
            for _ in range(16): os.wait()
    """)
    error, clients = done.stdout.splitlines()
    assert "one is missing for each of 17 clients" in error, done.stderr
    assert "56 (RLIMIT_NOFILE)" in error
    assert clients == "17"


def test_registry_with_processor_time_left_only_for_seconds_is_handed_over_before_it_is_killed(
    registry: shmlease.Registry, site: Site, actor: StartActor
) -> None:
    """What it would be without handing over: killed after three seconds of work, and its clients' calls with it."""
    weak = actor(before=f"{POWERLESS}import resource; resource.setrlimit(resource.RLIMIT_CPU, (30, 30))")
    site.kill()
    weak("registry.statistics()")
    with registry.share(np.arange(10)):
        epoch = registry.statistics().epoch
        assert state_of(site.pid)["limits"]["Max cpu time"] == ["unlimited", "unlimited"]
    assert epoch == 3


def test_serve_is_not_handed_over_to_a_client_that_may_use_more() -> None:
    """It runs where its user put it; ended in favour of another, it would be missed there."""
    words = ["serve", "--id", "limited", "--capacity", "1MiB"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))"
    for epoch, limited in ((1, ""), (2, limit)):  # the second takes over from the first, which is killed
        served = subprocess.Popen(
            [sys.executable, "-c", f"{POWERLESS}{limited}\nfrom shmlease.cli import main; main({words})"],
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert served.stderr is not None
        assert b"serves" in served.stderr.readline()
        assert shmlease.connect("limited").statistics().epoch == epoch
        served.send_signal(signal.SIGKILL if epoch == 1 else signal.SIGTERM)
        served.wait()
        served.stderr.close()
