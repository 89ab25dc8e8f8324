"""Servers that load an application before they fork, patch its modules, or are no Python: each worker is a client of its
own.

The registry is started by the application when it is imported, which is once with preloading, and else in each worker.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import environment

from rig.until import until
from shmlease.system.directory import RegistryDirectory
from shmlease.system.interpreter import import_path

APPLICATION = """
import os, sys, traceback
{before}
import numpy as np
import shmlease

registry = shmlease.Registry("32MiB")
kept = registry.share(np.arange(1000), f"kept {os.getpid()}")
name = kept.name

def application(environ, start_response):
    try:
        with registry.share(np.arange(10)) as lease:
            with shmlease.connect(registry.id).redeem(lease.ticket()) as again, registry.attach(name) as first:
                told = f"{os.getpid()} {registry.id} {again.array.sum()} {first.array.sum()} {registry.statistics().epoch}"
        status = "200 OK"
    except BaseException:
        told, status = traceback.format_exc(), "500 Internal Server Error"
    start_response(status, [("Content-Type", "text/plain")])
    return [told.encode()]
"""
GUNICORN = [
    (kind, preload, before)
    for kind in ("sync", "gthread", "gevent")
    for preload in (True, False)
    for before in ([""] if kind != "gevent" else ["", "import gevent.monkey; gevent.monkey.patch_all()"])
]


class Server:
    """A server of the application, over a socket in its directory."""

    def __init__(self, directory: Path, command: list[str], before: str) -> None:
        (directory / "app.py").write_text(APPLICATION.replace("{before}", before))
        self._socket = str(directory / "s")
        self._log = open(directory / "log", "w+")  # noqa: SIM115
        search = os.pathsep.join([str(directory), *import_path()])
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(PYTHONPATH=search),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def get(self) -> list[str]:
        """What a worker answers: its pid, the registry, two sums, and the epoch."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(60)
        try:
            connection.sock.connect(self._socket)
            connection.request("GET", "/")
            response = connection.getresponse()
            told = response.read().decode()
        finally:
            connection.close()
        assert response.status == 200, f"{told}\n{self.said()}"
        return told.split()

    def wait_until_it_serves(self) -> None:
        def serves() -> bool:
            assert self._process.poll() is None, self.said()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                return probe.connect_ex(self._socket) == 0

        until(serves, 60, what="the start of the server")

    def get_many(self, count: int) -> list[list[str]]:
        """As many answers, asked for side by side."""
        answers: list[list[str]] = []
        threads = [threading.Thread(target=lambda: answers.append(self.get())) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == count, self.said()
        return answers

    def said(self) -> str:
        self._log.flush()
        self._log.seek(0)
        return self._log.read()

    def end(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(60)

    def kill(self) -> None:
        """End it and its workers, whatever they do."""
        if self._process.poll() is None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self._process.kill()
            self._process.wait()
            for child in children:
                try:
                    os.kill(int(child), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._log.close()


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Server] = []

    def start(command: list[str], before: str = "") -> Server:
        server = Server(tmp_path, command, before)
        started.append(server)
        server.wait_until_it_serves()
        return server

    yield start
    for server in started:
        server.kill()


def use(server: Server, registries: int) -> None:
    """Requests in each worker, before and after the death of the registries."""
    answers = server.get_many(12)
    found = {answer[1] for answer in answers}
    assert 1 <= len(found) <= registries
    assert Counter(tuple(answer[2:]) for answer in answers) == {("45", "499500", "1"): 12}
    for id in found:
        os.kill(pid_of_registry(id), signal.SIGKILL)
    answers = server.get_many(12)
    assert {tuple(answer[2:4]) for answer in answers} == {("45", "499500")}
    assert {answer[4] for answer in answers if answer[1] in found} <= {"2"}


def pid_of_registry(id: str) -> int:
    row = RegistryDirectory(id).read_ledger().registry
    assert row is not None
    return row.identity.pid


@pytest.mark.parametrize(
    ("kind", "preload", "before"),
    GUNICORN,
    ids=[
        f"{kind}{'-preloaded' if preload else ''}{'-patched-first' if before else ''}" for kind, preload, before in GUNICORN
    ],
)
def test_gunicorn(serve: Serve, kind: str, preload: bool, before: str) -> None:
    for needed in ("gunicorn", *(["gevent"] if kind == "gevent" else [])):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: it is one of the development tools")
    words = ["-k", kind, "-w", "2", "--threads", "4", "-b", "unix:s", *(["--preload"] if preload else [])]
    server = serve([sys.executable, "-P", "-m", "gunicorn", *words, "app:application"], before)
    use(server, 1 if preload else 2)
    server.end()


def uwsgi() -> list[str]:
    """The command of a uWSGI that was built for this Python's version."""
    found = shutil.which("uwsgi")
    if found is None:
        pytest.skip("uwsgi is not in PATH: it has no wheels, and building it takes minutes")
    words = f"{found} --master --processes 2 --need-app --http-socket s --wsgi-file app.py --die-on-term".split()
    asked = [found, "--python-version"]
    version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    if not version.startswith(f"{sys.version_info.major}.{sys.version_info.minor}"):
        pytest.skip(f"uwsgi was built for Python {version.strip()}")
    return words


@pytest.mark.parametrize("lazy", [False, True], ids=["preloaded", "lazy-apps"])
@pytest.mark.parametrize("threads", [1, 4])
def test_uwsgi(serve: Serve, lazy: bool, threads: int) -> None:
    server = serve([*uwsgi(), *(["--lazy-apps"] if lazy else []), *(["--threads", str(threads)] if threads > 1 else [])])
    use(server, 2 if lazy else 1)
    # uWSGI loses a signal to a worker that is still starting, and then waits a minute for it
    until(lambda: len({answer[0] for answer in server.get_many(8)}) == 2, what="an answer of each worker")
    server.end()


EMBEDDING = """
#include <Python.h>
int main(int argc, char **argv) {
    /* as uWSGI: no signal handlers, and sys.executable is this program */
    wchar_t *name = Py_DecodeLocale(argv[0], NULL);
    Py_SetProgramName(name);
    Py_InitializeEx(0);
    int result = PyRun_SimpleString(argv[1]);
    if (Py_FinalizeEx() < 0) return 120;
    return result ? 1 : 0;
}
"""


def test_program_that_embeds_python(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    library = Path(sysconfig.get_config_var("LIBDIR") or "/") / f"libpython{sysconfig.get_config_var('LDVERSION')}"
    static = Path(sysconfig.get_config_var("LIBPL") or "/") / f"libpython{sysconfig.get_config_var('LDVERSION')}.a"
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "host.c").write_text(EMBEDDING)
    linked = (
        [str(static)]
        if static.exists()
        else [f"-L{library.parent}", f"-Wl,-rpath,{library.parent}", f"-l{library.name[3:]}"]
    )
    words = [
        compiler,
        "-o",
        "host",
        "host.c",
        f"-I{sysconfig.get_path('include')}",
        "-w",
        "-rdynamic",
        *linked,
        "-lpthread",
        "-ldl",
        "-lutil",
        "-lm",
        *(sysconfig.get_config_var("LIBS") or "").split(),
    ]
    built = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"a program that embeds Python cannot be built here: {built.stderr[-200:]}")
    program = (
        "import sys; assert sys.executable.endswith('host'), sys.executable\n"
        "import numpy as np, shmlease, os, signal\n"
        "from shmlease.system.directory import RegistryDirectory\n"
        "with shmlease.Registry('16MiB') as registry, registry.share(np.arange(10), 'a') as lease:\n"
        "    os.kill(RegistryDirectory(registry.id).read_ledger().registry.identity.pid, signal.SIGKILL)\n"
        "    with registry.attach('a') as again: print(again.array.sum(), registry.statistics().epoch)\n"
    )
    home = sys.base_prefix
    done = subprocess.run(
        [str(tmp_path / "host"), program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=environment(PYTHONPATH=os.pathsep.join(import_path()), PYTHONHOME=home),
    )
    assert done.stdout == "45 2\n", done.stderr
