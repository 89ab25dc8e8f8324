"""The pytest plugin in sessions of its own, found by its entry point as it is for users."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest
from running import FEW_PLUGINS

import shmlease

pytest_plugins = "pytester"

PRELUDE = """
    import os, sys, pytest
    from multiprocessing.shared_memory import SharedMemory

    def make(size=5000):
        segment = SharedMemory(create=True, size=size)
        segment.buf[0] = 1
        return segment

    kept = []
"""
LEAK = """
    def test_leak():
        make().close()

    def test_clean():
        segment = make()
        segment.close()
        segment.unlink()
"""


@pytest.fixture(autouse=True)
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions see shmlease installed, and nothing of the one they run in."""
    search = [str(Path(shmlease.__file__).parent.parent)]
    if not any(point.value == "shmlease.integrations.pytest" for point in entry_points(group="pytest11")):
        info = pytester.mkdir("site") / "shmlease-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shmlease\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[pytest11]\nshmlease = shmlease.integrations.pytest\n")
        search.append(str(info.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(search))
    monkeypatch.setenv("COLUMNS", "200")
    for name in list(os.environ):
        if name.startswith(("GITHUB_", "PYTEST_", "SHMLEASE_RECORDS", "SHMLEASE_ISOLATED", "SHMLEASE_REGISTRY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_ADDOPTS", FEW_PLUGINS)


def write(pytester: pytest.Pytester, *parts: str) -> None:
    pytester.makepyfile(test_it="".join((PRELUDE, *parts)))


def unwrapped(result: pytest.RunResult) -> str:
    """What the session said, whatever the width of its lines."""
    return " ".join(result.stdout.str().split())


def test_off_unless_asked_for(pytester: pytest.Pytester) -> None:
    module = "shmlease.integrations.pytest.session_audit"
    write(pytester, LEAK, f"    def test_is_not_loaded():\n        assert {module!r} not in sys.modules\n")
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_leak_is_an_error_at_the_teardown_that_names_the_line(pytester: pytest.Pytester) -> None:
    write(pytester, LEAK)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leak*",
            "LH001 orphan  psm_*",
            "*shared memory leaks*",
            "test_it.py::test_leak: orphan psm_*, made at test_it.py:5 in make",
        ]
    )
    assert "at test_it.py:5 in make in test test_it.py::test_leak" in unwrapped(result)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_one_line_of_configuration_is_enough(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshmlease_audit = fail\n")
    write(pytester, LEAK)
    pytester.runpytest_subprocess().assert_outcomes(passed=2, errors=1)
    pytester.runpytest_subprocess("--shmlease-audit=off").assert_outcomes(passed=2)


def test_mode_warn_tells_and_passes(pytester: pytest.Pytester) -> None:
    write(pytester, LEAK)
    result = pytester.runpytest_subprocess("--shmlease-audit=warn", "-W", "error")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*shared memory leaks*", "test_it.py::test_leak:", "LH001 orphan  psm_*"])
    assert result.ret == pytest.ExitCode.OK


def test_failed_test_that_leaks_is_reported_of_both(pytester: pytest.Pytester) -> None:
    write(pytester, "    def test_it():\n        make().close()\n        assert 0, 'its own failure'\n")
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*LH001 orphan*", "*its own failure*", "*shared memory leaks*"])


def test_failed_teardown_keeps_its_error_and_has_the_leak_in_a_section(pytester: pytest.Pytester) -> None:
    fixture = """
    @pytest.fixture
    def fails():
        yield
        make().close()
        raise ValueError("its own failure")

    def test_it(fails):
        pass
    """
    write(pytester, fixture)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E * ValueError: its own failure", "*Captured shmlease teardown*", "LH001 orphan*"])


def test_what_only_the_traceback_of_a_failure_holds_is_no_leak(pytester: pytest.Pytester) -> None:
    write(
        pytester, "    def test_it():\n        segment = make()\n        segment.unlink()\n        assert segment is None\n"
    )
    pytester.runpytest_subprocess("--shmlease-audit=fail", "--showlocals").assert_outcomes(failed=1)


def test_what_a_test_goes_on_holding_is_its_leak_and_not_the_next_one_s(pytester: pytest.Pytester) -> None:
    tests = """
    def test_first():
        kept.append(make())

    def test_second():
        pass
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["LH009 outlives-its-scope  psm_* is still held by * after test_it.py::test_first"])


FIXTURE = """
    @pytest.fixture(scope="{scope}")
    def segment():
        segment = make()
        yield segment
        segment.close()
        segment.unlink()

    class TestIt:
        def test_first(self, segment):
            assert segment.buf[0] == 1

        def test_second(self, segment):
            assert segment.buf[0] == 1
"""
VALUE_THAT_GOES = """
    @pytest.fixture(scope="{scope}")
    def segment():
        segment = make()
        yield segment
        segment.unlink()

    def test_last_to_use_it(segment):
        pass
"""
# What is no leak: tests of which all pass.
CLEAN = {
    **{f"{scope}_fixture_cleans_up": FIXTURE.format(scope=scope) for scope in ("function", "class", "module", "session")},
    **{f"{scope}_fixture_value_goes": VALUE_THAT_GOES.format(scope=scope) for scope in ("function", "module")},
    "setup_module": """
    def setup_module():
        kept.append(make())

    def teardown_module():
        kept[0].close()
        kept[0].unlink()

    def test_first():
        pass

    def test_second():
        pass
    """,
    "registry_fixture_is_closed_after_the_test": """
    import numpy

    def test_it(shmlease_registry):
        with shmlease_registry.share(numpy.arange(10), "numbers") as lease:
            assert lease.array.sum() == 45

    def test_is_another(shmlease_registry):
        assert shmlease_registry.statistics() is not None
    """,
}


def test_what_is_cleaned_up_in_time_is_no_leak(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{f"test_{name}": PRELUDE + tests for name, tests in CLEAN.items()})
    pytester.runpytest_subprocess("--shmlease-audit=fail").assert_outcomes(
        passed=sum(tests.count("def test_") for tests in CLEAN.values())
    )


def test_fixture_of_a_wider_scope_that_leaks_is_named_at_its_end(pytester: pytest.Pytester) -> None:
    tests = """
    @pytest.fixture(scope="module")
    def segment():
        segment = make()
        yield segment
        segment.close()

    def test_first(segment):
        pass

    def test_last():
        pass
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_last*", "*module-scoped fixture 'segment' of test_it.py made it*"]
    )


def test_what_an_import_makes_is_reported_at_the_end_of_the_session(pytester: pytest.Pytester) -> None:
    write(pytester, "    at_import = make()\n\n    def test_it():\n        pass\n")
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the session:", "LH009 outlives-its-scope*", "*the import of the tests made it*"])


def test_leak_of_a_spawned_child_names_its_line(pytester: pytest.Pytester) -> None:
    tests = """
    import multiprocessing

    def child():
        from multiprocessing import resource_tracker
        segment = make()
        resource_tracker.unregister(segment._name, "shared_memory")
        print("child", os.getpid())

    def test_it(capfd):
        process = multiprocessing.get_context("spawn").Process(target=child)
        process.start()
        process.join()
        with capfd.disabled():
            print(capfd.readouterr().out)
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=1, errors=1)
    text = unwrapped(result)
    (orphan,) = {word.rstrip(",") for word in text.split() if word.startswith("psm_")}
    os.unlink(f"/dev/shm/{orphan}")
    pid = text.partition("child ")[2].partition(" ")[0]
    assert f"by pid {pid} " in text
    assert "at test_it.py:5 in make in test test_it.py::test_it" in text


def test_leak_can_be_allowed_with_a_reason(pytester: pytest.Pytester) -> None:
    tests = """
    @pytest.mark.allow_shm_leaks("the next run reads it", name="psm_*")
    def test_allowed():
        make().close()

    @pytest.mark.allow_shm_leaks(reason="another name", name="other-*")
    def test_not_allowed():
        make().close()

    @pytest.mark.allow_shm_leaks(reason="by rule", rule="orphan")
    def test_allowed_by_rule():
        make().close()
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail", "--strict-markers")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_not_allowed*"])


def test_marker_without_a_reason_is_refused_before_any_test_runs(pytester: pytest.Pytester) -> None:
    write(pytester, "    @pytest.mark.allow_shm_leaks(name='psm_*')\n    def test_it():\n        pass\n")
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it.py::test_it: allow_shm_leaks takes a reason*"])


def test_suppressions_of_the_project_apply(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[[tool.shmlease.audit.suppress]]\nreason = "kept on purpose"\nname = "psm_*"\n')
    write(pytester, LEAK)
    pytester.runpytest_subprocess("--shmlease-audit=fail").assert_outcomes(passed=2)


def test_registry_fixture_takes_scope_and_capacity_from_the_settings(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshmlease_registry_scope = session\nshmlease_registry_capacity = 1MiB\n")
    tests = """
    import shmlease

    def test_first(shmlease_registry):
        kept.append(shmlease_registry.id)
        with pytest.raises(shmlease.CapacityError):
            shmlease_registry.lease(shape=2_000_000, dtype="u1", timeout=0)

    def test_second(shmlease_registry):
        assert kept == [shmlease_registry.id]
    """
    write(pytester, tests)
    pytester.runpytest_subprocess("--shmlease-audit=fail").assert_outcomes(passed=2)


def test_lease_that_a_test_forgets_is_its_leak(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshmlease_registry_scope = session\n")
    tests = """
    import numpy

    def test_forgets(shmlease_registry):
        kept.append(shmlease_registry.share(numpy.arange(10), "numbers"))

    def test_releases(shmlease_registry):
        with shmlease_registry.share(numpy.arange(10), "other"):
            pass
        kept.pop().release()
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_forgets*", "LH009 outlives-its-scope  segment 'numbers'*"])


def test_fixture_asserts_whatever_the_option_says(pytester: pytest.Pytester) -> None:
    tests = """
    def test_leaks(assert_no_shm_leaks):
        make().close()

    def test_leaks_in_a_part(assert_no_shm_leaks):
        with pytest.raises(AssertionError, match="orphan"):
            with assert_no_shm_leaks("the part"):
                segment = make()
                segment.close()
        segment.unlink()

    def test_clean(assert_no_shm_leaks):
        segment = make()
        segment.close()
        segment.unlink()
    """
    write(pytester, tests)
    pytester.runpytest_subprocess().assert_outcomes(passed=3, errors=1)


@pytest.mark.parametrize("option", ["off", "fail"])
def test_leak_is_one_failure_whoever_finds_it_and_its_first_line_says_what(pytester: pytest.Pytester, option: str) -> None:
    tests = """
    def test_fixture(assert_no_shm_leaks):
        make().close()

    def test_block(assert_no_shm_leaks):
        with assert_no_shm_leaks("the part"):
            make().close()
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess(f"--shmlease-audit={option}")
    result.assert_outcomes(passed=1, errors=1, failed=1)
    text = result.stdout.str()
    told = text[: text.index("short test summary info")].partition("shared memory leaks")[0]
    assert told.count("orphan psm_") == 2, text
    assert "another exception" not in text
    assert "Captured shmlease" not in text
    assert "leak_watch" not in text, "no traceback of the checker"
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_fixture*", "orphan psm_*, made at test_it.py:5 in make"])
    result.stdout.fnmatch_lines(["*>*with assert_no_shm_leaks*", "E *LeakError: orphan psm_*made at test_it.py:5 in make"])
    if option == "fail":
        result.stdout.fnmatch_lines(["*1 failed, 1 passed, 1 error, 2 leaked in*"])


def test_junit_has_the_finding_and_its_line(pytester: pytest.Pytester) -> None:
    write(pytester, LEAK)
    pytester.runpytest_subprocess("--shmlease-audit=fail", "--junitxml=junit.xml")
    suite = ElementTree.parse(pytester.path / "junit.xml").getroot()
    case = next(case for case in suite.iter("testcase") if case.get("name") == "test_leak")
    error, one = case.find("error"), case.find("properties/property")
    assert error is not None
    assert "test_it.py:5 in make" in (error.text or "")
    assert one is not None
    assert one.get("name") == "shmlease"
    assert (one.get("value") or "").startswith("LH001 psm_")


def test_in_github_actions_the_line_is_annotated(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    write(pytester, LEAK)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.stdout.fnmatch_lines(["::error file=test_it.py,line=5,title=LH001 orphan::psm_*"])
    assert "orphan" in (pytester.path / "summary.md").read_text()


def test_without_github_nothing_is_annotated(pytester: pytest.Pytester) -> None:
    write(pytester, LEAK)
    pytester.runpytest_subprocess("--shmlease-audit=fail").stdout.no_fnmatch_line("::error*")


def test_workers_of_xdist_report_their_own_leaks(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    tests = """
    at_import = make()

    @pytest.mark.parametrize("number", range(10))
    def test_clean(number):
        segment = make()
        segment.close()
        segment.unlink()

    def test_leak():
        make().close()
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit=fail", "-n", "2", "--junitxml=junit.xml")
    result.assert_outcomes(passed=11, errors=1)
    result.stdout.fnmatch_lines(["test_it.py::test_leak: orphan psm_*, made at test_it.py:5 in make"])
    assert sum("the import of the tests made it" in line for line in result.outlines) == 2
    assert "LH001 psm_" in (pytester.path / "junit.xml").read_text()


MANY = """
    @pytest.mark.parametrize("number", range(6))
    def test_leak(number):
        make().close()

    @pytest.mark.allow_shm_leaks("the next run reads it")
    @pytest.mark.parametrize("number", range(3))
    def test_allowed(number):
        make().close()

    @pytest.mark.allow_shm_leaks("held for the next test")
    def test_allowed_to_hold():
        kept.append(make())

    @pytest.mark.parametrize("number", range(3))
    def test_clean(number):
        segment = make()
        segment.close()
        segment.unlink()
"""


@pytest.mark.parametrize(
    "distribution", ["load", "each", *(pytest.param(mode, marks=pytest.mark.stress) for mode in ("worksteal", "loadscope"))]
)
def test_workers_report_and_the_controller_sums(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, distribution: str
) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    write(pytester, MANY)
    workers = 2 if distribution == "each" else 1  # that run each test
    result = pytester.runpytest_subprocess(
        "--shmlease-audit", "-n", "2", "--dist", distribution, "--junitxml=junit.xml", "--shmlease-report=report.sarif"
    )
    result.assert_outcomes(passed=13 * workers, errors=6 * workers)
    summary = [line for line in result.outlines if line.startswith("test_it.py::test_leak[") and ": orphan psm_" in line]
    assert len(summary) == 6 * workers
    assert {line.partition(":: ")[0].partition(": orphan")[0] for line in summary} == {
        f"test_it.py::test_leak[{number}]" for number in range(6)
    }
    result.stdout.no_fnmatch_line("the session:*")
    assert sum(line.startswith("::error ") for line in result.outlines) == min(6 * workers, 10)
    step = (pytester.path / "summary.md").read_text()
    assert step.count("###") == 1
    assert f"{6 * workers} leaks" in step
    sarif = json.loads((pytester.path / "report.sarif").read_text())["runs"][0]["results"]
    assert sum(not one.get("suppressions") for one in sarif) == 6 * workers
    suite = ElementTree.parse(pytester.path / "junit.xml").getroot()
    assert sum(case.find("error") is not None for case in suite.iter("testcase")) == 6 * workers


def test_allowed_leaks_do_not_fail_a_session_with_workers(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    write(pytester, MANY)
    result = pytester.runpytest_subprocess("--shmlease-audit", "-n", "2", "-k", "allowed or clean")
    result.assert_outcomes(passed=7)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*shared memory leaks*")


CRASHES = """
    import signal

    def crash(name):
        with open(f"/dev/shm/{name}", "wb") as file:  # which no resource tracker knows
            file.write(b"x" * 5000)
        os.kill(os.getpid(), signal.SIGKILL)

    def test_before():
        pass

    def test_crashes():
        crash("NAME-leak")

    @pytest.mark.allow_shm_leaks("on purpose", name="NAME-*")
    def test_crashes_as_it_may():
        crash("NAME-allowed")
"""


@pytest.fixture
def crashes() -> Iterator[str]:
    """Tests that leave a file and die, one of which may."""
    name = f"plugin-crash-{os.getpid()}"
    yield CRASHES.replace("NAME", name)
    for file in Path("/dev/shm").glob(f"{name}-*"):
        file.unlink()


def test_leak_of_a_worker_that_died_is_an_error_of_the_test_it_died_in(pytester: pytest.Pytester, crashes: str) -> None:
    pytest.importorskip("xdist")
    write(pytester, crashes)
    result = pytester.runpytest_subprocess("--shmlease-audit", "-n", "2", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_crashes _*", "LH001 orphan  plugin-crash-*-leak*"])
    result.stdout.no_fnmatch_line("*-allowed *")
    suite = ElementTree.parse(pytester.path / "junit.xml").getroot()
    errors = [
        (case.get("name"), error.get("message") or "") for case in suite.iter("testcase") for error in case.iter("error")
    ]
    assert [name for name, message in errors if "LH001" in message] == ["test_crashes"], errors


FORKS = """
    import os, pickle, signal
    from _pytest import runner

    def pytest_runtest_protocol(item, nextitem):
        # as pytest-forked does it: the test runs in a child, which sends the reports
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        convert = item.config.hook
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            reports = runner.runtestprotocol(item, log=False)
            sent = [convert.pytest_report_to_serializable(config=item.config, report=one) for one in reports]
            with open(writer, "wb") as file:
                file.write(pickle.dumps(sent))
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            sent = file.read()
        os.waitpid(pid, 0)
        for data in pickle.loads(sent) if sent else ():
            report = convert.pytest_report_from_serializable(config=item.config, data=data)
            item.ihook.pytest_runtest_logreport(report=report)
        return True
"""


def test_tests_in_forked_children_have_their_own_leaks(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(FORKS)
    write(pytester, MANY)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=13, errors=6)
    result.stdout.no_fnmatch_line("the session:*")


def test_leak_of_a_forked_child_whose_maker_was_not_recorded_is_not_the_next_child_s(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshmlease_audit_alone = true\n")
    pytester.makeconftest(FORKS)
    name = f"plugin-forked-{os.getpid()}"
    tests = f"""
    import subprocess

    def test_leak():
        subprocess.run(["sh", "-c", "echo > /dev/shm/{name}"], check=True)

    def test_next():
        pass
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    Path(f"/dev/shm/{name}").unlink()
    errors = [line for line in result.outlines if line.startswith("ERROR test_it.py")]
    assert [line.partition(" - ")[0] for line in errors if name in line] == ["ERROR test_it.py::test_leak"]
    result.stdout.no_fnmatch_line("ERROR test_it.py::test_next*" + name + "*")


def test_leak_of_a_forked_child_that_died_is_an_error_of_its_test(pytester: pytest.Pytester, crashes: str) -> None:
    pytester.makeconftest(FORKS)
    write(pytester, crashes)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_crashes _*"])


def test_what_a_process_of_a_wider_fixture_makes_is_of_the_test_in_which_it_was_asked(pytester: pytest.Pytester) -> None:
    name = f"plugin-asked-{os.getpid()}"
    tests = f"""
    import multiprocessing

    @pytest.fixture(scope="module")
    def pool():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            yield pool

    def leak():
        with open("/dev/shm/{name}", "wb") as file:
            file.write(b"x" * 5000)

    def test_starts_it(pool):
        pool.apply(abs, (1,))

    def test_asks(pool):
        pool.apply(leak)

    def test_last(pool):
        pass
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    Path(f"/dev/shm/{name}").unlink()
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_asks *"])


def test_what_a_fixture_makes_only_later_is_its_own_until_it_ends(pytester: pytest.Pytester) -> None:
    tests = """
    @pytest.fixture(scope="module")
    def cache():
        segments = {}
        yield segments
        for segment in segments.values():
            segment.unlink()
            segment.close()

    @pytest.fixture(scope="module")
    def forgetful_cache():
        return {}

    def test_fills(cache):
        cache["a"] = make()

    def test_forgets(forgetful_cache):
        forgetful_cache["a"] = make()
        kept.append(forgetful_cache["a"])

    def test_last():
        pass
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_forgets *", "*fixture 'forgetful_cache' of test_it.py kept it*"]
    )


@pytest.mark.parametrize("scope", ["module", "session"])
def test_what_processes_of_a_wider_fixture_hold_is_its_own_until_it_ends(pytester: pytest.Pytester, scope: str) -> None:
    tests = f"""
    import multiprocessing
    from multiprocessing.managers import SharedMemoryManager

    @pytest.fixture(scope="{scope}")
    def pool():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            yield pool

    @pytest.fixture(scope="{scope}")
    def manager():
        with SharedMemoryManager() as manager:
            yield manager

    held = []

    def hold(name):
        held.append(SharedMemory(name=name))

    def hold_and_disown(name):
        from multiprocessing import resource_tracker
        resource_tracker.unregister("/" + name, "shared_memory")
        hold(name)

    def test_pool_holds_it(pool):
        segment = make()
        pool.apply(hold, (segment.name,))
        segment.close()
        segment.unlink()

    def test_pool_holds_what_nobody_removes(pool):
        segment = make()
        pool.apply(hold_and_disown, (segment.name,))
        segment.close()

    def test_manager_removes_it(manager):
        segment = manager.SharedMemory(5000)
        segment.buf[0] = 1
        segment.close()

    def test_last():
        pass
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_pool_holds_what_nobody_removes *"])


def test_what_a_process_left_running_holds_counts_at_the_end_of_the_session(pytester: pytest.Pytester) -> None:
    tests = """
    import subprocess, sys

    HOLD = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); print(1, flush=True); "
        "sys.stdin.read()"
    )

    def hold():
        segment = make()
        program = [sys.executable, "-c", HOLD, "/dev/shm/" + segment.name]
        kept.append(subprocess.Popen(program, stdin=-1, stdout=-1))
        kept[-1].stdout.readline()
        segment.close()
        segment.unlink()

    def test_leaves_it_running():
        hold()

    def test_leaves_it_to_the_next():
        hold()

    def test_ends_it():
        kept[-1].communicate()
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaves_it_running *", "LH003 unlinked-but-held *"])


def test_what_a_thread_left_running_holds_counts_at_the_end_of_the_session(pytester: pytest.Pytester) -> None:
    tests = """
    import threading

    class Holder:
        def __init__(self):
            self.segment = make()

    def run(holder, end):
        end.wait()
        holder.segment.close()
        holder.segment.unlink()

    def start():
        end = threading.Event()
        thread = threading.Thread(target=run, args=(Holder(), end), daemon=True)
        thread.start()
        return thread, end

    def test_leaves_it_running():
        start()

    def test_leaves_it_to_the_next():
        kept.extend(start())

    def test_ends_it():
        thread, end = kept
        end.set()
        thread.join()
    """
    write(pytester, tests)
    result = pytester.runpytest_subprocess("--shmlease-audit")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaves_it_running *", "LH009 outlives-its-scope *"])


LOKY = """
    import multiprocessing

    _executor = None

    class Executor:
        def __init__(self):
            self.memory = SharedMemory(create=True, size=5000)

    def get_reusable_executor():
        global _executor
        if _executor is None:
            _executor = Executor()
        return _executor
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_library_keeps_for_reuse_is_set_aside_with_the_reason(pytester: pytest.Pytester, workers: int) -> None:
    pytester.mkpydir("loky")
    (pytester.path / "loky" / "reusable_executor.py").write_text(textwrap.dedent(PRELUDE + LOKY))
    tests = """
    from loky.reusable_executor import Executor, get_reusable_executor

    def test_uses_the_library():
        get_reusable_executor()

    def test_uses_it_again():
        get_reusable_executor()

    def test_leaks_one_of_its_own():
        kept.append(Executor())
    """
    write(pytester, tests)
    options = ["-n", str(workers), "--dist", "loadfile"] if workers else []
    result = pytester.runpytest_subprocess("--shmlease-audit", "--shmlease-report=report.json", *options)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_leaks_one_of_its_own *", "shmlease: suppressed 1: loky keeps *"]
    )
    (aside,) = [
        one
        for one in json.loads((pytester.path / "report.json").read_text())["suppressed"]
        if one["finding"]["name"].startswith("psm_")
    ]
    assert aside["reason"].startswith("loky keeps its executor")
    assert aside["finding"]["creator"]["test"] == "test_it.py::test_uses_the_library"


def test_session_without_the_plugin_runs(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshmlease_audit = fail\n")
    write(pytester, LEAK)
    result = pytester.runpytest_subprocess("-p", "no:shmlease")
    result.assert_outcomes(passed=2, warnings=1)  # pytest's own, about the setting
    result.stdout.fnmatch_lines(["*Unknown config option: shmlease_audit"])


def test_report_of_the_session_is_written(pytester: pytest.Pytester) -> None:
    write(pytester, LEAK, "    def test_other_leak():\n        make().close()\n")
    names = ["report.html", "report.json"]
    for name in names:
        pytester.runpytest_subprocess("--shmlease-audit=warn", f"--shmlease-report={name}")
    assert "<!doctype html>" in (pytester.path / "report.html").read_text()
    report = json.loads((pytester.path / "report.json").read_text())
    assert [one["creator"]["test"] for one in report["findings"]] == [
        "test_it.py::test_leak",
        "test_it.py::test_other_leak",
    ]
    assert [one["kind"] for one in report["events"]].count("begin") == 1


def test_report_of_a_clean_session_says_so(pytester: pytest.Pytester) -> None:
    write(pytester, "    def test_it():\n        pass\n")
    pytester.runpytest_subprocess("--shmlease-audit=fail", "--shmlease-report=report.json").assert_outcomes(passed=1)
    report = json.loads((pytester.path / "report.json").read_text())
    assert report["findings"] == []
    assert report["environment"]["kernel"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--shmlease-audit=maybe", "'maybe' is not one of fail, warn, off"),
        ("--shmlease-report=report.pdf", "must end in"),
    ],
)
def test_bad_option_is_refused(pytester: pytest.Pytester, option: str, words: str) -> None:
    write(pytester, LEAK)
    result = pytester.runpytest_subprocess("--shmlease-audit", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()


def test_path_taken_for_the_mode_is_explained(pytester: pytest.Pytester) -> None:
    write(pytester, LEAK)
    result = pytester.runpytest_subprocess("--shmlease-audit", "test_it.py")
    assert "write --shmlease-audit=fail test_it.py" in result.stderr.str()


@pytest.mark.parametrize("line", ["shmlease_audit = sometimes", "shmlease_registry_scope = galaxy"])
def test_bad_setting_is_refused(pytester: pytest.Pytester, line: str) -> None:
    pytester.makeini(f"[pytest]\n{line}\n")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert line.partition(" = ")[0] in result.stderr.str()


def test_what_others_make_meanwhile_does_not_fail_a_test(pytester: pytest.Pytester) -> None:
    name = f"plugin-test-{os.getpid()}"
    write(
        pytester,
        f"    import subprocess\n    def test_it():\n        subprocess.run(['sh', '-c', 'echo > /dev/shm/{name}'])\n",
    )
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["shmlease: not known whose: 1 segment that appeared meanwhile, such as *"])
    os.unlink(f"/dev/shm/{name}")
    pytester.makeini("[pytest]\nshmlease_audit_alone = true\n")
    result = pytester.runpytest_subprocess("--shmlease-audit=fail")
    assert f"{name}" in result.stdout.str()
    result.assert_outcomes(passed=1, errors=1)
    os.unlink(f"/dev/shm/{name}")


def test_environment_of_the_tests_is_left_alone_on_request(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshmlease_audit_children = false\n")
    write(pytester, "    def test_it():\n        assert 'SHMLEASE_RECORDS' not in os.environ\n")
    pytester.runpytest_subprocess("--shmlease-audit=fail").assert_outcomes(passed=1)
