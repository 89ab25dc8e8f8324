from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmlease
import shmlease.testing
from shmlease.auditor.judge.suppression import Suppression
from shmlease.testing import LeakError, assert_no_leaks
from shmlease.testing.leak_watch import LeakWatch


@pytest.fixture
def name() -> Iterator[str]:
    """A name in /dev/shm that is free, and free again afterwards."""
    name = f"test-leaks-{secrets.token_hex(4)}"
    yield name
    Path(f"/dev/shm/{name}").unlink(missing_ok=True)


def write(name: str) -> None:
    Path(f"/dev/shm/{name}").write_bytes(b"x" * 5000)


def hold_unlinked(name: str) -> int:
    """A descriptor of a file that has memory and no name."""
    held = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_RDWR)
    os.write(held, b"x" * 5000)
    os.unlink(f"/dev/shm/{name}")
    return held


def write_in_a_child(name: str) -> None:
    pid = os.fork()
    if pid == 0:
        write(name)
        os._exit(0)
    os.waitpid(pid, 0)


def test_block_that_leaves_a_file_fails_and_names_the_line(name: str) -> None:
    with pytest.raises(LeakError) as caught, assert_no_leaks():
        write(name)
    (finding,) = caught.value.report.leaks
    assert (finding.rule, finding.name) == ("LH001", name)
    assert finding.creator is not None
    assert finding.creator.place is not None
    assert finding.creator.place.function == "write"
    assert finding.creator.test.startswith("tests/unit/testing/test_leaks.py::test_block_that_leaves_a_file")
    assert f"orphan  {name}" in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_block_that_cleans_up_passes(name: str) -> None:
    with assert_no_leaks():
        write(name)
        os.unlink(f"/dev/shm/{name}")


def test_what_was_there_before_is_not_the_block_s(name: str) -> None:
    write(name)
    with assert_no_leaks():
        pass


def test_function_can_be_decorated(name: str) -> None:
    @assert_no_leaks("the function")
    def leaks() -> None:
        write(name)

    with pytest.raises(LeakError):
        leaks()
    os.unlink(f"/dev/shm/{name}")
    with pytest.raises(LeakError):  # each call is a scope of its own
        leaks()


def test_failure_of_the_block_comes_first(name: str) -> None:
    @assert_no_leaks()
    def leaks_and_fails() -> None:
        write(name)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leaks_and_fails()


def test_mapping_of_an_unlinked_file_is_a_leak(name: str) -> None:
    with pytest.raises(LeakError) as caught, assert_no_leaks():
        held = hold_unlinked(name)
    os.close(held)
    assert [finding.rule for finding in caught.value.report.leaks] == ["LH003"]


def test_lease_that_is_not_released_is_a_leak() -> None:
    with shmlease.Registry(capacity="16MiB") as registry:
        with pytest.raises(LeakError) as caught, assert_no_leaks():
            lease = registry.share(np.arange(10), "numbers")
        lease.release()
    (finding,) = caught.value.report.leaks
    assert (finding.rule, finding.label) == ("LH009", "numbers")


def test_lease_that_is_released_is_none() -> None:
    with shmlease.Registry(capacity="16MiB") as registry, assert_no_leaks():
        for _ in range(3):
            with registry.share(np.arange(10), "numbers") as lease:
                assert lease.array.sum() == 45


def test_registry_that_is_closed_leaves_nothing() -> None:
    with assert_no_leaks(), shmlease.Registry(capacity="16MiB") as registry, registry.share(np.arange(10)):
        pass


def test_cycle_that_waits_for_the_collector_is_no_leak(name: str) -> None:
    class Holder:
        def __init__(self) -> None:
            self.descriptor = hold_unlinked(name)
            self.itself = self

        def __del__(self) -> None:
            os.close(self.descriptor)

    with assert_no_leaks():
        Holder()


def test_what_a_child_process_leaves_is_a_leak(name: str) -> None:
    with pytest.raises(LeakError), assert_no_leaks():
        write_in_a_child(name)


def test_what_another_program_makes_does_not_count_unless_this_one_is_alone(name: str) -> None:
    program = f"echo > /dev/shm/{name}"
    with assert_no_leaks():
        subprocess.run(["sh", "-c", program], check=True)
    os.unlink(f"/dev/shm/{name}")
    with pytest.raises(LeakError) as caught, assert_no_leaks(alone=True):
        subprocess.run(["sh", "-c", program], check=True)
    assert name in [finding.name for finding in caught.value.report.leaks]


def test_leak_can_be_allowed_with_a_reason(name: str) -> None:
    with assert_no_leaks(allow=[Suppression("kept for the next run", name="test-leaks-*")]):
        write(name)


def test_rules_can_be_ignored(name: str) -> None:
    with assert_no_leaks(ignore=["orphan"]):
        write(name)
    os.unlink(f"/dev/shm/{name}")
    with assert_no_leaks(rules=["sysv"]):
        write(name)


def test_blocks_nest(name: str) -> None:
    @assert_no_leaks("outer")
    def outer() -> None:
        write(name)
        with assert_no_leaks("inner"):
            pass

    with pytest.raises(LeakError, match=name):
        outer()


def test_blocks_one_after_another_use_the_same_audit_hook(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be removed, and is called for all that the program does from then on."""
    with assert_no_leaks():
        pass
    monkeypatch.setattr(sys, "addaudithook", pytest.fail)
    for _ in range(3):
        with pytest.raises(LeakError, match=r"\sin\s+write\s+in\s"), assert_no_leaks():
            write_in_a_child(name)
        os.unlink(f"/dev/shm/{name}")


def test_environment_is_as_it_was_after_children_were_recorded() -> None:
    before = dict(os.environ)
    with LeakWatch(children=True):
        assert "inject" in os.environ["PYTHONPATH"]
        assert os.environ["SHMLEASE_RECORDS"]
    assert dict(os.environ) == before


def test_spawned_python_is_recorded_when_children_are(name: str) -> None:
    program = f"open('/dev/shm/{name}', 'wb').write(b'x' * 5000)"
    with LeakWatch(children=True) as watch:
        subprocess.run([sys.executable, "-c", program], check=True)
        report = watch.check("the block")
    assert report is not None
    (finding,) = report.leaks
    assert finding.creator is not None
    assert str(finding.creator.place) == "<string>:1 in <module>"


def test_each_check_begins_a_new_scope(name: str) -> None:
    with LeakWatch() as watch:
        write(name)
        first = watch.check("first")
        second = watch.check("second", always=True)
    assert first is not None
    assert second is not None
    assert name in [finding.name for finding in first.leaks]
    assert name not in [finding.name for finding in second.findings]


def test_what_an_owner_makes_counts_once_it_has_ended(name: str) -> None:
    with LeakWatch() as watch:
        before = watch.look()
        write(name)
        watch.own("the fixture", before)
        during = watch.check("a test", always=True)
        watch.end("the fixture")
        after = watch.check("the last test")
    assert during is not None
    assert name not in [finding.name for finding in during.findings]
    assert after is not None
    (finding,) = [finding for finding in after.leaks if finding.name == name]
    assert "the fixture made it, and has ended" in finding.evidence[-1].text


def test_what_an_owner_has_cleaned_up_does_not_count(name: str) -> None:
    with LeakWatch() as watch:
        before = watch.look()
        write(name)
        watch.own("the fixture", before)
        os.unlink(f"/dev/shm/{name}")
        watch.end("the fixture")
        report = watch.check("the last test", always=True)
    assert report is not None
    assert report.leaks == ()


def test_beside_other_workers_only_what_was_made_here_is_looked_into(name: str) -> None:
    with LeakWatch(beside_workers=True) as watch:
        subprocess.run(["sh", "-c", f"echo > /dev/shm/{name}"], check=True)
        of_another = watch.check("a test", always=True)
        os.unlink(f"/dev/shm/{name}")
        write(name)
        of_this = watch.check("a test")
    assert of_another is not None
    assert of_another.findings == ()
    assert of_this is not None
    assert [finding.name for finding in of_this.leaks] == [name]


def test_report_of_a_scope_has_its_beginning_and_end(name: str) -> None:
    with LeakWatch() as watch:
        write(name)
        report = watch.check("the block")
    assert report is not None
    told = {(event.kind, event.segment) for event in report.events}
    assert told == {("begin", ""), ("create", name), ("end", ""), ("end", name)}


def test_importing_shmlease_testing_needs_no_pytest() -> None:
    program = "import sys, shmlease.testing; shmlease.testing.assert_no_leaks; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_detached_array_that_is_alive_is_a_leak_with_the_line_where_its_lease_was_taken() -> None:
    kept = []
    with shmlease.Registry("4MiB") as registry:
        with assert_no_leaks():
            box = [registry.share(np.arange(9)).detach()]
            box.append(box)
            del box
        with pytest.raises(LeakError) as caught, assert_no_leaks():
            kept.append(registry.share(np.arange(9)).detach())
        (finding,) = caught.value.report.leaks
        assert finding.rule == "LH009"
        assert "a detached array" in finding.message
        assert finding.creator is not None
        assert os.path.basename(__file__) in str(finding.creator.place)
        kept.clear()
