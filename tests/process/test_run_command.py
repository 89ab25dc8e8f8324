"""`shmlease run` as a wrapper: the command's input, output, signals, exit code and environment are its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from running import environment, run_command, run_program

from rig.until import until
from shmlease.auditor.judge.findings import Report

LEAK = "open('/dev/shm/test-run-leak', 'wb').write(bytes(5000))\n"
PRIVATE = ("--isolate",)


@pytest.mark.parametrize("code", [1, 2, 42, 255])
def test_exit_code_of_the_command_comes_first(tmp_path: Path, code: int) -> None:
    finished = run_program(tmp_path, f"{LEAK}raise SystemExit({code})", *PRIVATE)
    assert finished.code == code
    assert finished.rules == ["LH001"]


def test_command_that_is_not_there_is_127(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "no-such-command-here")
    assert finished.code == 127
    assert finished.stderr == "shmlease: cannot run no-such-command-here: No such file or directory\n"


def test_command_that_is_not_executable_is_126(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    finished = run_command(tmp_path, "./text")
    assert (finished.code, finished.stderr) == (126, "shmlease: cannot run ./text: Permission denied\n")


def test_input_and_output_are_the_command_s(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "cat", input="through\n")
    assert (finished.code, finished.stdout) == (0, "through\n")
    assert finished.stderr.startswith("no leaks")


def test_quiet_says_nothing_unless_something_leaks(tmp_path: Path) -> None:
    assert run_command(tmp_path, "true", options=("--quiet",)).stderr == ""
    assert "LH001" in run_program(tmp_path, LEAK, *PRIVATE, "--quiet").stderr


def test_options_after_the_command_are_the_command_s(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "shmlease", "run", "-q", "echo", "--strict", "-x"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True)
    assert done.stdout == "--strict -x\n"


HANDLER = """
    import signal, sys
    def handle(number, frame):
        print(signal.Signals(number).name, flush=True)
        sys.exit(7)
    for number in {numbers}:
        signal.signal(number, handle)
    print("ready", flush=True)
    while True:
        signal.pause()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_signal_sent_to_the_wrapper_reaches_the_command(tmp_path: Path, name: str) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(HANDLER.format(numbers=[int(signal.Signals[name])])))
    words = [sys.executable, "-m", "shmlease", "run", "-q", sys.executable, "program.py"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.Signals[name])
        assert process.stdout.readline() == f"{name}\n"
        assert process.wait() == 7


def test_command_that_a_signal_ends_is_128_and_the_signal(tmp_path: Path) -> None:
    assert run_program(tmp_path, "import os\nos.kill(os.getpid(), 15)").code == 128 + 15


def test_interrupt_from_the_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    """The terminal sends it to the whole group, so it must not be passed on as well."""
    program = """
        import os, signal
        count = 0
        def handle(number, frame):
            global count
            count += 1
        signal.signal(signal.SIGINT, handle)
        print("ready", flush=True)
        while count == 0:
            signal.sigtimedwait([signal.SIGUSR1], 0.02)
        signal.sigtimedwait([signal.SIGUSR1], 0.3)  # a second one would come within that
        print("count", count, flush=True)
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        words = [sys.executable, "-m", "shmlease", "run", "-q", sys.executable, "program.py"]
        os.execve(sys.executable, words, environment())
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"count" not in shown or not shown.endswith(b"\n"):
        shown += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"count 1" in shown


def test_interrupt_while_waiting_for_a_daemon_ends_the_waiting(tmp_path: Path) -> None:
    program = """
        import os, signal
        daemon = os.fork()
        if daemon == 0:
            os.setsid()
            signal.alarm(60)
            signal.pause()
        print(daemon, flush=True)
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    command = [sys.executable, "-m", "shmlease", "run", "--settle", "60s", "-o", "report.json", sys.executable]
    with subprocess.Popen(
        [*command, "program.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as process:
        assert process.stdout is not None
        daemon = process.stdout.readline().strip()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text().split() == [daemon])  # the wrapper has adopted it, and buried the command
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait() == 0
        finally:
            os.kill(int(daemon), signal.SIGKILL)
    report = Report.from_json((tmp_path / "report.json").read_bytes())
    assert any(f"pid {daemon}" in gap.what for gap in report.coverage.gaps)


def test_what_is_still_running_is_blindness_when_strict(tmp_path: Path) -> None:
    program = """
        import os, signal
        if daemon := os.fork():
            print(daemon)
        else:
            os.closerange(0, 3)  # the test waits for all who have its pipes
            signal.alarm(60)
            signal.pause()
    """
    for options, code in (["--strict"], 125), ([], 0):
        finished = run_program(tmp_path, program, "--settle", "100ms", *options)
        os.kill(int(finished.stdout), signal.SIGKILL)
        assert finished.code == code


def test_command_has_a_directory_of_its_own(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "sh", "-c", "ls -A /dev/shm; df --output=size /dev/shm | tail -1", options=PRIVATE)
    size = os.statvfs("/dev/shm")
    assert finished.stdout.split() == [str(size.f_blocks * size.f_frsize // 1024)]


def test_system_v_segments_are_the_command_s_alone(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "sh", "-c", "ipcmk -M 5000 > /dev/null; ipcs -m | grep -c 0x", options=PRIVATE)
    assert finished.stdout == "1\n"
    assert (finished.code, finished.rules) == (23, ["LH014"])


def test_registry_that_runs_outside_can_be_used(tmp_path: Path) -> None:
    program = """
        import shmlease
        with shmlease.connect().attach("numbers") as lease:
            print(int(lease.array.sum()))
    """
    import numpy

    import shmlease

    with shmlease.Registry(capacity="16MiB") as registry, registry.share(numpy.arange(100), "numbers"):
        finished = run_program(tmp_path, program, "--verbose", env={"SHMLEASE_REGISTRY": registry.id})
    assert (finished.code, finished.stdout) == (0, "4950\n")
    assert f"names registry {registry.id}, which runs outside" in finished.stderr


def test_sitecustomize_of_the_program_is_run_as_well(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('own sitecustomize')")
    program = "import sys, sitecustomize\nprint(sitecustomize.__file__)\nprint([p for p in sys.path if 'inject' in p])"
    search = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    finished = run_program(tmp_path, program, env={"PYTHONPATH": search, "PYTHONUNBUFFERED": "1"})
    own = "own sitecustomize\n"  # once in shmlease itself, which is Python too, and once in the program
    assert finished.stdout == f"{own}{own}{tmp_path}/sitecustomize.py\n[]\n"


def test_sitecustomize_that_fails_is_reported_as_python_reports_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise ValueError('own failure')")
    search = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    words = [sys.executable, "-m", "shmlease", "run", sys.executable, "-c", "print('runs')"]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd="/", env=environment(**search, PYTHONSAFEPATH="1"), check=False
    )
    assert done.stdout == "runs\n"
    assert done.stderr.count("ValueError: own failure") == 2  # in shmlease itself, and in the program


def test_python_that_ignores_its_environment_is_left_alone(tmp_path: Path) -> None:
    finished = run_command(
        tmp_path, sys.executable, "-I", "-c", "import sys; print('inject' in ''.join(sys.path))", options=PRIVATE
    )
    assert (finished.code, finished.stdout) == (0, "False\n")


def test_hook_leaves_nothing_open_and_nothing_in_the_modules(tmp_path: Path) -> None:
    program = """
        import os, sys
        from multiprocessing.shared_memory import SharedMemory
        before = len(os.listdir("/proc/self/fd"))
        open("/dev/shm/test-run-fd", "wb").close()
        os.unlink("/dev/shm/test-run-fd")
        print(len(os.listdir("/proc/self/fd")) - before, [name for name in sys.modules if "shmlease" in name])
    """
    assert run_program(tmp_path, program, *PRIVATE).stdout == "0 []\n"


def test_hook_can_be_switched_off(tmp_path: Path) -> None:
    program = "import os\nprint(os.environ.get('SHMLEASE_RECORDS'))"
    assert run_program(tmp_path, program, "--no-hook").stdout == "None\n"
    assert run_program(tmp_path, program, "--hook").stdout != "None\n"


def test_reports_are_written_in_the_format_of_their_name(tmp_path: Path) -> None:
    names = ["report.html", "report.sarif", "report.xml", "report.trace.json", "report.txt"]
    options = [word for name in names for word in ("-o", name)]
    finished = run_program(tmp_path, LEAK, *PRIVATE, *options)
    assert finished.code == 23
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "report.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "LH001"
    assert "<testsuites" in (tmp_path / "report.xml").read_text()
    assert json.loads((tmp_path / "report.trace.json").read_text())["traceEvents"]
    assert "program.py:1" in (tmp_path / "report.txt").read_text()


def test_report_that_cannot_be_written_is_refused_before_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / "taken.html").mkdir()
    whys = {"no/such/x.html": "there is no directory no/such", "taken.html": "it is a directory; give the name of a file"}
    for path, why in whys.items():
        finished = run_command(tmp_path, "touch", "ran", options=("-o", path))
        assert (finished.code, finished.stderr) == (2, f"shmlease: cannot write {path}: {why}\n")
    refused = run_command(tmp_path, "touch", "ran", options=("--write-baseline", "no/such/known.json"))
    assert (refused.code, refused.report.environment.command) == (2, "")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("isolation", ["--isolate", "--no-isolate"])
def test_temporary_directory_in_shared_memory_is_no_leak_of_the_command(tmp_path: Path, isolation: str) -> None:
    finished = run_command(tmp_path, "true", options=(isolation,), env={"TMPDIR": "/dev/shm"})
    assert (finished.code, finished.report.findings) == (0, ())


def test_mistyped_rule_is_reported_what_may_be_meant(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "true", options=("--ignore", "tracker-reapd"))
    assert finished.code == 2
    assert "did you mean tracker-reaped (LH015)?" in finished.stderr


def test_report_of_no_known_form_is_refused_before_the_command_runs(tmp_path: Path) -> None:
    finished = run_command(tmp_path, "touch", "ran", options=("-o", "report.pdf"))
    assert finished.code == 2
    assert "must end in" in finished.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--settle", "soon", "is not a duration"),
        ("--overdue-after", "x", "is not a duration"),
        ("--rule", "LH999", "no rule"),
    ],
)
def test_bad_option_is_refused(tmp_path: Path, option: str, value: str, words: str) -> None:
    finished = run_command(tmp_path, "touch", "ran", options=(option, value))
    assert finished.code == 2
    assert words in finished.stderr
    assert not (tmp_path / "ran").exists()


def test_configuration_of_the_project_is_heeded(tmp_path: Path) -> None:
    (tmp_path / "shmlease.toml").write_text('[[audit.suppress]]\nreason = "kept on purpose"\nname = "test-run-*"\n')
    finished = run_program(tmp_path, LEAK, *PRIVATE)
    assert finished.code == 0
    assert [one.reason for one in finished.report.suppressed] == ["kept on purpose"]


def test_bad_configuration_is_refused_before_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / "shmlease.toml").write_text("[audit]\nnonsense = 1\n")
    finished = run_command(tmp_path, "touch", "ran")
    assert finished.code == 2
    assert "nonsense" in finished.stderr
    assert not (tmp_path / "ran").exists()


def test_what_a_baseline_knows_does_not_fail_the_run(tmp_path: Path) -> None:
    first = run_program(tmp_path, LEAK + "raise SystemExit(3)", *PRIVATE, "--write-baseline", "known.json")
    assert (first.code, first.stderr) == (3, "recorded 1 leak in known.json\n")
    assert run_program(tmp_path, LEAK, *PRIVATE, "--baseline", "known.json").code == 0


def test_baseline_that_is_to_be_written_need_not_be_there_before(tmp_path: Path) -> None:
    (tmp_path / "shmlease.toml").write_text("[audit]\nbaseline = 'known.json'\n")
    assert run_program(tmp_path, LEAK, *PRIVATE).code == 2
    assert run_program(tmp_path, LEAK, *PRIVATE, "--write-baseline", "known.json").code == 0
    assert run_program(tmp_path, LEAK, *PRIVATE).code == 0


def test_rules_can_be_chosen_and_ignored(tmp_path: Path) -> None:
    assert run_program(tmp_path, LEAK, *PRIVATE, "--ignore", "orphan").code == 0
    assert run_program(tmp_path, LEAK, *PRIVATE, "--rule", "tracker-reaped").code == 0
    assert run_program(tmp_path, LEAK, *PRIVATE, "--rule", "orphan").code == 23


def test_in_github_actions_the_line_is_annotated_and_the_summary_written(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    finished = run_program(tmp_path, LEAK, *PRIVATE, env={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    assert "::error file=program.py,line=1,title=LH001 orphan::test-run-leak" in finished.stderr
    assert finished.stdout == ""
    assert "test-run-leak" in summary.read_text()


def test_timeline_of_a_run_has_births_ends_and_the_command(tmp_path: Path) -> None:
    program = """
        from multiprocessing.shared_memory import SharedMemory
        segment = SharedMemory(name="test-run-timeline", create=True, size=100)
        segment.close()
        segment.unlink()
    """
    finished = run_program(tmp_path, program, *PRIVATE)
    kinds = [event.kind for event in finished.report.events if event.segment == "test-run-timeline"]
    assert kinds == ["create", "unlink"]
    begin, end = [event for event in finished.report.events if event.kind in {"begin", "end"}]
    assert (begin.kind, end.kind) == ("begin", "end")
    assert begin.pid == end.pid
