"""`shmlease serve`, and the registry as `status` and `top` show it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import environment

import shmlease
from rig.actor import Actor
from rig.until import until
from shmlease.client.link_cache import link_to
from shmlease.system import launch

ID = f"served{os.getpid()}"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "shmlease", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment(COLUMNS="200"))


@contextlib.contextmanager
def serving(**variables: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "shmlease", "serve", "--id", ID, "--capacity", "4MiB"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment(**variables)) as process:
        assert process.stderr is not None
        assert f"registry {ID} serves up to 4 MiB" in process.stderr.readline()
        try:
            yield process
        except BaseException:
            process.kill()  # what failed does not wait for it
            raise
        process.terminate()


@pytest.fixture
def served() -> Iterator[subprocess.Popen[str]]:
    with serving() as process:
        yield process


def test_service_manager_is_told_when_clients_can_join(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with serving(NOTIFY_SOCKET=str(tmp_path / "notify")):
            assert manager.recv(1000).startswith(f"READY=1\nSTATUS=registry {ID} serves".encode())
            with shmlease.connect(ID).share(np.arange(3)) as lease:
                assert lease.array.sum() == 3


def test_process_that_stays_joins_the_registry_that_was_started_anew() -> None:
    for _ in range(2):
        with serving() as served, shmlease.connect(ID).share(np.arange(3), "calls") as lease:
            assert lease.array.sum() == 3
            served.terminate()
            served.wait()
    with pytest.raises(shmlease.RegistryUnavailableError, match="does not exist or has ended"):
        shmlease.connect(ID)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_registry_serves_until_it_is_reported_to_end_and_leaves_nothing(
    served: subprocess.Popen[str], end: signal.Signals
) -> None:
    with shmlease.connect(ID).share(np.arange(3), "calls") as lease:
        assert lease.array.sum() == 3
    served.send_signal(end)
    assert served.wait() == 0
    assert not os.path.exists(f"/dev/shm/shmlease-{ID}")


def test_registry_is_seen_by_id_and_a_second_is_refused(served: subprocess.Popen[str]) -> None:
    with shmlease.connect(ID).share(np.arange(3), "calls"):
        shown, watched = command("status", "--id", ID), command("top", "--id", ID)
        (told,) = json.loads(command("status", "--id", ID, "--json").stdout)
        statistics = shmlease.connect(ID).statistics()
    assert (told["descriptors"], told["descriptors_limit"]) == (statistics.descriptors, statistics.descriptors_limit)
    assert f"{statistics.descriptors} of {statistics.descriptors_limit} descriptors in use" in shown.stdout
    for text in (shown.stdout, watched.stdout):
        assert f"registry {ID}  pid {served.pid}" in text
        assert "calls" in text
    assert (told["pid"], told["segments"][0]["name"]) == (served.pid, "calls")
    again = command("serve", "--id", ID)
    assert (again.returncode, f"registry {ID} is running already" in again.stderr) == (2, True)


def test_metrics_of_a_served_registry_follow_what_is_done(served: subprocess.Popen[str]) -> None:
    def metrics() -> dict[str, str]:
        written = command("status", "--id", ID, "--prometheus").stdout
        return dict(line.rsplit(" ", 1) for line in written.splitlines() if not line.startswith("#"))

    before = metrics()
    with shmlease.connect(ID).share(np.arange(3), "calls"):
        meanwhile = metrics()
    assert before[f'shmlease_up{{registry="{ID}"}}'] == "1"
    published = f'shmlease_segments{{registry="{ID}",state="published"}}'
    assert (before[published], meanwhile[published]) == ("0", "1")
    made = f'shmlease_segments_created_total{{registry="{ID}"}}'
    assert (before[made], meanwhile[made]) == ("0", "1")
    assert int(meanwhile[f'shmlease_open_descriptors{{registry="{ID}"}}']) > 0
    both = command("status", "--json", "--prometheus")
    assert (both.returncode, "give one of them" in both.stderr) == (2, True)


def test_script_of_a_slurm_job_gives_its_steps_a_registry_and_ends_it(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n#SBATCH.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "step.py").write_text(
        "import shmlease\nregistry = shmlease.connect()\nprint(registry.id, registry.share([1, 2]).array.sum())\n"
    )
    for name, words in (("shmlease", f"{sys.executable} -m shmlease"), ("python", sys.executable), ("srun", "")):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)
    finished = subprocess.run(
        ["bash", "-c", script.replace("8GiB", "8MiB")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(SLURM_JOB_ID=str(os.getpid()), PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"),
        check=False,
    )
    assert finished.stdout == f"job{os.getpid()} 3\n", finished.stderr
    assert not os.path.exists(f"/dev/shm/shmlease-job{os.getpid()}")


def test_registry_that_is_not_there_is_not_there_whoever_else_is(served: subprocess.Popen[str]) -> None:
    for word in ("status", "top"):
        shown = command(word, "--id", "nobody")
        assert "no registry nobody of this user is running" in shown.stdout
    assert command("status", "--id", "nobody").returncode == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--id", "../up", "'../up' cannot be the id of a registry"),
        ("--id", "my-run", "'my-run' cannot be the id of a registry"),
        ("--id", "x" * 33, "cannot be the id of a registry"),
        ("--id", "", "'' cannot be the id of a registry"),
        ("--capacity", "99999PiB", "larger than any memory"),
        ("--capacity", "1KiB", "holds no segment"),
        ("--capacity", "0%", "no part of /dev/shm"),
        ("--capacity", "half%", "no part of /dev/shm"),
        ("--capacity", "90TiB", "is more than /dev/shm can hold"),
        ("--warm-idle", "soon", "is not a duration"),
    ],
)
def test_registry_that_cannot_be_is_refused_in_words_and_leaves_nothing(option: str, value: str, words: str) -> None:
    before = set(os.listdir("/dev/shm"))
    refused = command("serve", option, value)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert set(os.listdir("/dev/shm")) <= before


def test_top_refuses_an_interval_that_is_none_also_where_it_looks_once() -> None:
    refused = command("top", "--every", "often")
    assert (refused.returncode, "'often' is not a duration" in refused.stderr) == (2, True)


def test_registry_whose_directory_is_removed_ends_with_words_and_leaves_its_namesake_alone() -> None:
    """RemoveIPC of systemd-logind, a cleaner, an entry script."""
    with serving() as first, shmlease.connect(ID).share(np.arange(3), "calls") as held:
        name = held.segment
        shutil.rmtree(f"/dev/shm/shmlease-{ID}")
        with serving() as second:
            assert first.wait(60) == 2
            assert first.stderr is not None
            assert f"/dev/shm/shmlease-{ID} was removed under registry {ID}" in first.stderr.read()
            assert not os.path.exists(f"/dev/shm/{name}"), "what it has given out goes with it"
            assert held.array.sum() == 3, "what is mapped stays"
            with shmlease.connect(ID).share(np.arange(4), "calls") as lease:
                assert lease.array.sum() == 6
            second.terminate()
            assert second.wait(60) == 0
    assert not os.path.exists(f"/dev/shm/shmlease-{ID}")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_registry_that_is_reported_to_end_after_its_directory_was_removed_leaves_its_namesake_alone(
    end: signal.Signals,
) -> None:
    """It is stopped meanwhile, so that it cannot have noticed."""
    with serving() as first:
        first.send_signal(signal.SIGSTOP)
        shutil.rmtree(f"/dev/shm/shmlease-{ID}")
        with serving() as second:
            first.send_signal(end)
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == 2
            with shmlease.connect(ID).share(np.arange(4), "calls") as lease:
                assert lease.array.sum() == 6
            second.terminate()
            assert second.wait(60) == 0


def test_registry_whose_files_were_removed_one_by_one_removes_the_rest(served: subprocess.Popen[str]) -> None:
    for name in ("lock", "socket"):
        os.unlink(f"/dev/shm/shmlease-{ID}/{name}")
    assert served.wait(60) == 2
    assert not os.path.exists(f"/dev/shm/shmlease-{ID}")


def killed(served: subprocess.Popen[str]) -> None:
    served.kill()
    served.wait(60)


def test_registry_that_is_served_again_goes_on_with_what_its_clients_have(served: subprocess.Popen[str]) -> None:
    registry = shmlease.connect(ID)
    with registry.share(np.arange(3), "calls") as lease:
        killed(served)
        assert registry.statistics().epoch == 2, "a registry that this process has started"
        with serving() as again, registry.attach("calls") as reader:
            (told,) = json.loads(command("status", "--id", ID, "--json").stdout)
            assert (told["pid"], told["epoch"]) == (again.pid, 3)
            assert reader.array.sum() == lease.array.sum() == 3
            assert "is running already" in command("serve", "--id", ID).stderr


def test_registry_that_makes_way_leaves_it_to_the_command_though_clients_are_busy(served: subprocess.Popen[str]) -> None:
    code = (
        "import shmlease, sys\n"
        "registry = shmlease.connect(sys.argv[1])\n"
        "print('here', flush=True)\n"
        "while True: registry.statistics()\n"
    )
    with contextlib.ExitStack() as stack:
        busy = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", code, ID], stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        for process in busy:
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
        killed(served)
        assert shmlease.connect(ID).statistics().epoch >= 2
        with serving() as again:
            (told,) = json.loads(command("status", "--id", ID, "--json").stdout)
            assert told["pid"] == again.pid


def test_successor_of_a_killed_command_ends_when_nobody_needs_it(
    served: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = "import shmlease.core.shutdown; shmlease.core.shutdown.IDLE_NS = 20_000_000; from shmlease.registry"
    monkeypatch.setattr(launch, "_BOOT", launch._BOOT.replace("from shmlease.registry", soon))
    with Actor(ID) as actor, shmlease.connect(ID).share(np.arange(3)) as lease:
        ticket = lease.ticket(ttl=600)
        killed(served)
        assert shmlease.connect(ID).statistics().epoch == 2
        assert actor("registry.statistics().epoch") == 2
    with shmlease.connect(ID).redeem(ticket) as reader:
        assert reader.array.sum() == 3
    link_to(ID).close()  # as when this process ends
    until(lambda: not os.path.exists(f"/dev/shm/shmlease-{ID}"), what="the end of the registry")


def test_command_that_is_misspelled_is_answered_with_the_one_that_is_meant() -> None:
    refused = command("ingets")
    assert (refused.returncode, "Did you mean 'ingest'?" in refused.stderr) == (2, True)
    assert "Did you mean" not in command("zzz").stderr
