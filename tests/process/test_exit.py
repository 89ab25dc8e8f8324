"""How programs end: in order, by an exception, with leases unreleased, with views alive; each says what it must and no
more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until

StartActor = Callable[..., Actor]


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = "import gc, os, sys, warnings\nimport numpy as np\nimport shmlease\n" + code
    return subprocess.run([sys.executable, *options, "-c", program], check=False, capture_output=True, text=True)


def test_program_in_order_says_nothing() -> None:
    done = run("""
with shmlease.Registry('4MiB') as r, r.share(np.arange(9)) as lease, r.redeem(lease.ticket()) as reader:
    print(reader.array.sum())
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "36\n", "")


def test_program_in_order_says_nothing_where_warnings_are_errors() -> None:
    code = "with shmlease.Registry('4MiB') as r:\n with r.share(np.arange(9), 'a') as l: print(l.array.sum())"
    done = run(code, "-W", "error", "-X", "dev")
    assert (done.returncode, done.stdout, done.stderr) == (0, "36\n", "")


def test_registry_never_closed_is_closed_at_exit_and_says_so() -> None:
    done = run("r = shmlease.Registry('4MiB'); print(r.id)", "-W", "always")
    assert done.returncode == 0
    assert not os.path.exists(f"/dev/shm/shmlease-{done.stdout.strip()}")


def test_lease_held_until_exit_is_named_with_its_place() -> None:
    done = run("r = shmlease.Registry('4MiB')\nlease = r.lease('kept', shape=3)\nprint(r.id)", "-W", "always")
    assert "UnreleasedLeaseWarning" in done.stderr
    assert "'kept'" in done.stderr
    assert "<string>:5 in <module>" in done.stderr
    assert not os.path.exists(f"/dev/shm/shmlease-{done.stdout.strip()}")


def test_what_was_left_open_is_closed_at_exit_though_warnings_are_errors() -> None:
    done = run(
        """
import atexit
from shmlease.client import owned_registry
atexit.unregister(owned_registry._leave)
atexit.register(lambda: print(os.path.exists('/dev/shm/shmlease-' + id)))
atexit.register(owned_registry._leave)
r = shmlease.Registry('4MiB')
lease = r.lease('kept', shape=3)
id = r.id
""",
        "-W",
        "error",
    )
    assert done.stdout == "False\n"
    assert "holds 'kept' (lease taken at <string>:11 in <module>)" in done.stderr


def test_array_used_after_everything_ended_is_valid() -> None:
    """Also in the last destructors of the interpreter."""
    code = """
class Last:
    def __del__(self, write=os.write):
        write(1, str(int(self.array[9]) + 36).encode())
last = Last()
with shmlease.Registry('4MiB', on_lingering='ignore') as r:
    with r.share(np.arange(10)) as lease:
        last.array = lease.array

"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "45"), done.stderr


def test_lease_collected_unreleased_is_released_and_warned_of(registry: shmlease.Registry) -> None:
    lease = registry.lease("a", shape=3)
    site = lease.site
    with pytest.warns(shmlease.UnreleasedLeaseWarning) as warned:
        del lease
    assert site in str(warned[0].message)
    until(lambda: registry.statistics().leases.get("write", 0) == 0)


def test_lease_in_a_cycle_is_released_by_the_collector(actor: StartActor, registry: shmlease.Registry) -> None:
    client = actor(before="import gc, warnings; warnings.simplefilter('ignore')")
    client("cycle = [registry.lease('a', shape=3)]; cycle.append(cycle); del cycle; gc.collect()")
    until(lambda: registry.statistics().leases.get("write", 0) == 0)


def test_collector_may_run_in_the_middle_of_any_call(actor: StartActor, registry: shmlease.Registry) -> None:
    """A collection at every allocation: finalizers run while the link holds its lock, and nothing waits for itself."""
    client = actor(before="import gc, warnings; warnings.simplefilter('ignore'); gc.set_threshold(1, 1, 1)")
    client("""
for i in range(60):
    cycle = [registry.share(np.arange(10)), registry.lease(f"n{i}", shape=3)]
    cycle.append(cycle)
    view = cycle[0].array[2:]
    del cycle
gc.set_threshold(0); del view; gc.collect()
""")
    until(lambda: registry.statistics().leases.get("write", 0) == 0)


def test_view_that_outlives_its_lease_keeps_the_segment_and_says_so(registry: shmlease.Registry, site: Site) -> None:
    lease = registry.share(np.arange(1000), "a")
    view = lease.array[10:20]
    with pytest.warns(shmlease.LingeringViewWarning) as warned:
        lease.release()
    assert "test_exit.py" in str(warned[0].message)
    assert registry.statistics().leases["lingering"] == 1
    assert view.sum() == 145
    assert len(site.files()) == 1
    del view
    until(lambda: not site.files(), what="the end of the segment: never recycled")


def test_view_error_is_raised_on_request_and_the_view_stays_valid(registry: shmlease.Registry) -> None:
    strict = shmlease.connect(registry.id, on_lingering="error")
    lease = strict.share(np.arange(10), "a")
    view = lease.array
    with pytest.raises(shmlease.LingeringViewError) as raised:
        lease.release()
    assert isinstance(raised.value, BufferError)
    assert view.sum() == 45
    assert not lease.held
    with pytest.raises(shmlease.LeaseClosedError):
        _ = lease.array
    del raised, view


def test_view_alive_at_a_kill_ends_with_its_process(actor: StartActor, registry: shmlease.Registry, site: Site) -> None:
    client = actor(before="import warnings; warnings.simplefilter('ignore')")
    client("lease = registry.share(np.arange(10), 'a'); view = lease.array; lease.release()")
    assert registry.statistics().leases["lingering"] == 1
    client.kill()
    until(lambda: not site.files())


def test_registry_closed_under_its_holders_names_them_and_their_arrays_stay_valid() -> None:
    with shmlease.Registry("4MiB") as registry:
        holder = Actor(registry.id)
        holder("lease = registry.share(np.arange(1000), 'held'); array = lease.array")
        with pytest.warns(shmlease.LeaseWarning, match="'held'"):
            registry.close()
    with holder:
        assert Site(registry.id).is_gone()
        assert holder("int(array.sum())") == 499_500
        with pytest.raises(shmlease.RegistryUnavailableError):
            holder("registry.lease(shape=3)")
        assert holder("lease.release()") is None
        assert holder.leave() == 0
        assert holder.said() == ""


def test_output_of_a_program_ends_with_the_program_though_its_registry_lives_on() -> None:
    """A pipeline would hang if the registry held the program's stdout or stderr."""
    with Actor() as owner:
        id = owner("registry = shmlease.Registry('4MiB'); lease = registry.share(np.arange(10), 'a'); registry.id")
        with Actor(id) as survivor:
            survivor("lease = registry.attach('a')")
            owner.kill()
            assert owner._process.stdout is not None
            assert owner._process.stdout.read() == b"", "end of file: nobody else holds it"
            survivor("lease.release()")
