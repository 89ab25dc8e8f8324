"""What a rule of the state machine may be applied to: selections from its model, as strategies and as preconditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shmlease import Address
from shmlease.client.handle import Mode
from shmlease.testing.model import Content, Holding, IssuedTicket
from shmlease.testing.worker_pool import WorkerProcess

if TYPE_CHECKING:
    from shmlease.testing.stateful import RegistryMachine


__all__ = ["Select", "held", "issued", "listening", "rule_for"]

Select = Callable[["RegistryMachine"], Sequence[Any]]


def rule_for(
    *conditions: Callable[[RegistryMachine], Any], **arguments: Select | st.SearchStrategy[Any]
) -> Callable[[Any], Any]:
    """A rule of a `RegistryMachine`.

    Parameters
    ----------
    *conditions : callable
        What must be true of the machine for the rule to be run.
    **arguments : callable or strategy
        What the rule is called with. Of a selection, such as `held` or `listening`, one is drawn, and the rule is run only
        when there is one.
    """
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    selections: list[Select] = []
    for name, value in arguments.items():
        if isinstance(value, st.SearchStrategy):
            drawn[name] = value
        else:
            drawn[name] = _one_of(value)
            selections.append(value)
    is_possible = precondition(lambda machine: all(true_of(machine) for true_of in (*conditions, *selections)))
    return lambda function: is_possible(rule(**drawn)(function))  # type: ignore[call-overload]


def _one_of(select: Select) -> st.SearchStrategy[Any]:
    return st.runner().flatmap(lambda machine: st.sampled_from(select(machine)))


# --- workers ---------------------------------------------------------------------------------------------------------


def listening(machine: RegistryMachine) -> list[WorkerProcess]:
    """Workers that are not stopped."""
    return [worker for worker in machine.model.workers if not worker.is_stopped]


def stopped(machine: RegistryMachine) -> list[WorkerProcess]:
    """Workers that are stopped."""
    return [worker for worker in machine.model.workers if worker.is_stopped]


def holders(machine: RegistryMachine) -> list[WorkerProcess]:
    """Workers whose end makes a difference."""
    return [worker for worker in machine.model.workers if any(one.worker is worker for one in machine.model.holdings)]


def listening_holders(machine: RegistryMachine) -> list[WorkerProcess]:
    """Those of them that are not stopped."""
    return [worker for worker in holders(machine) if not worker.is_stopped]


def has_room_for_a_worker(machine: RegistryMachine) -> bool:
    """Whether another may be started."""
    return len(machine.model.workers) < machine.most_workers


# --- leases ----------------------------------------------------------------------------------------------------------


def held(machine: RegistryMachine) -> list[Holding]:
    """Leases of workers that listen."""
    return list(machine.model.leases())


def written(machine: RegistryMachine) -> list[Holding]:
    """Leases of writers."""
    return [holding for holding in machine.model.leases() if holding.is_writer]


def filling(machine: RegistryMachine) -> list[Holding]:
    """Leases of writers that have not published yet."""
    return [holding for holding in written(machine) if not holding.content.is_published]


def awaited(machine: RegistryMachine) -> list[Holding]:
    """Those of them that others may wait for."""
    return [holding for holding in filling(machine) if holding.content.name is not None]


def publishable(machine: RegistryMachine) -> list[Holding]:
    """Leases on what is published, or may be."""
    return [holding for holding in machine.model.leases() if holding.is_writer or holding.content.is_published]


def read(machine: RegistryMachine) -> list[Holding]:
    """Leases of readers who only read, on at least a byte."""
    return [holding for holding in _readers(machine, "r") if holding.content.nbytes]


def copied(machine: RegistryMachine) -> list[Holding]:
    """Leases of readers who write copy-on-write."""
    return _readers(machine, "c")


def mutable(machine: RegistryMachine) -> list[Holding]:
    """Leases of all who may write what stays mutable."""
    return [holding for holding in machine.model.leases() if holding.content.is_mutable and holding.may_write]


def put(machine: RegistryMachine) -> list[Holding]:
    """Leases on objects."""
    return [holding for holding in machine.model.leases() if holding.content.is_object]


def _readers(machine: RegistryMachine, mode: Mode) -> list[Holding]:
    return [holding for holding in machine.model.leases() if not holding.is_writer and holding.mode == mode]


def without_view(machine: RegistryMachine) -> list[Holding]:
    """Leases that no view will outlive."""
    return [holding for holding in machine.model.leases() if not holding.has_view]


def detachable(machine: RegistryMachine) -> list[Holding]:
    """Those of them on what is published."""
    return [holding for holding in without_view(machine) if holding.content.is_published]


def sole(machine: RegistryMachine) -> list[Holding]:
    """Leases whose release gives room."""
    return [
        holding
        for holding in without_view(machine)
        if len(machine.model.holders_of(holding.content)) == 1
        and not holding.content.readers_expected
        and not machine.model.has_ticket(holding.content)
    ]


def views(machine: RegistryMachine) -> list[Holding]:
    """Views that have outlived their leases."""
    return [holding for holding in machine.model.holdings if holding.is_released and not holding.worker.is_stopped]


def inherited(machine: RegistryMachine) -> list[tuple[WorkerProcess, Holding]]:
    """What forked children may take leases on."""
    return [(worker, holding) for worker, holding in machine.model.inherited if not worker.is_stopped]


# --- contents and tickets --------------------------------------------------------------------------------------------


def contents(machine: RegistryMachine) -> list[Content]:
    """Everything that was written and is still used."""
    return machine.model.contents


def named(machine: RegistryMachine) -> list[Content]:
    """Those of them that have a name."""
    return [content for content in machine.model.contents if content.name is not None]


def addresses(machine: RegistryMachine) -> list[tuple[Address, Content]]:
    """Every address, and what lies or lay there."""
    return machine.model.addresses


def issued(machine: RegistryMachine) -> list[IssuedTicket]:
    """Every ticket, used or not."""
    return machine.model.tickets
