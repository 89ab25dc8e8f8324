"""Segments that have their own names in /dev/shm, through `Lease.link`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shmlease
from rig.actor import Actor
from rig.site import Site
from rig.until import until

StartActor = Callable[..., Actor]


def test_linked_name_leads_any_program_to_the_segment_and_keeps_it(registry: shmlease.Registry, site: Site) -> None:
    with registry.lease("frames", shape=10, dtype="u1", mutable=True) as lease:
        assert lease.link(while_alive=[os.getpid()]) == lease.segment == "frames"
        lease.array[:] = 7
    with open("/dev/shm/frames", "rb") as file:
        assert file.read() == bytes([7] * 10)
    with registry.attach("frames", mode="r+") as again:
        again.link()  # and now the registry keeps it, too
    registry.withdraw("frames")
    assert not os.path.exists("/dev/shm/frames")
    until(lambda: not site.files())


def test_linked_name_ends_with_the_last_process_that_it_was_linked_for(
    registry: shmlease.Registry, actor: StartActor
) -> None:
    one, other = actor(), actor()
    with registry.share(np.arange(3), "frames") as lease:
        lease.link(while_alive=[one.pid, other.pid])
        one.kill()
        assert registry.attach("frames").detach().sum() == 3
        other.kill()
        until(lambda: not os.path.exists("/dev/shm/frames"))
        with pytest.raises(shmlease.SegmentNotFoundError):
            registry.attach("frames", timeout=0)
        assert lease.array.sum() == 3


def test_what_cannot_be_linked_says_why(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(3)) as unnamed, pytest.raises(ValueError, match="it needs a name"):
        unnamed.link()
    with registry.share(np.arange(3), "a/b") as lease, pytest.raises(ValueError, match="without '/'"):
        lease.link()
    with registry.lease("open", shape=3) as lease, pytest.raises(shmlease.LeaseClosedError, match="published"):
        lease.link()
    with registry.share(np.arange(3), "taken") as lease:
        with pytest.raises(ValueError, match="names 0 processes"):
            lease.link(while_alive=[])
        with pytest.raises(shmlease.TicketError, match="no such process"):
            lease.link(while_alive=[2**22 + 1])
        with open("/dev/shm/taken", "x"):
            pass
        with pytest.raises(shmlease.SegmentExistsError, match="another file called 'taken'"):
            lease.link()
        os.unlink("/dev/shm/taken")
        assert lease.link() == "taken"


def test_name_that_has_gone_to_another_segment_is_not_withdrawn_by_address(registry: shmlease.Registry) -> None:
    with registry.share(np.arange(3), "a") as old:
        where = old.address()
        registry.withdraw(where)
        with registry.share(np.arange(4), "a"):
            with pytest.raises(shmlease.SegmentNotFoundError, match="has no name any more"):
                registry.withdraw(where)
            assert registry.get("a").sum() == 6


def test_views_carry_a_released_lease_on_where_that_was_asked_for(registry: shmlease.Registry) -> None:
    handle = shmlease.connect(registry.id, on_lingering="detach")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with handle.share(np.arange(3)) as lease:
            view = lease.array
        assert registry.statistics().leases["detached"] == 1
        assert view.sum() == 3
        del view
    until(lambda: registry.statistics().leases["detached"] == 0)


def test_registry_that_the_environment_names_is_joined_rather_than_another_started(registry: shmlease.Registry) -> None:
    assert shmlease.connect(start=True).id == registry.id


def test_registry_of_any_id_is_started_where_it_does_not_run_and_ends_with_its_last_user(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, shmlease
        registry = shmlease.connect("mine", start=True, capacity="8MiB")
        assert registry.id == shmlease.connect("mine", start=True, capacity="1MiB").id == "mine"
        print(registry.statistics().capacity_bytes)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert int(done.stdout) == 8 << 20
    until(lambda: not os.path.exists("/dev/shm/shmlease-mine"))


def test_registry_that_cannot_be_started_says_why() -> None:
    with pytest.raises(ValueError, match="cannot be the id of a registry"):
        shmlease.connect("no/such", start=True)
    with pytest.raises(ValueError, match="lots"):
        shmlease.connect("mine", start=True, capacity="lots")
    with pytest.raises(shmlease.RegistryUnavailableError):
        shmlease.connect("nosuch")
