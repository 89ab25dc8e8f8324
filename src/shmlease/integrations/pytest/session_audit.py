"""The leak audit of a pytest session: started by the plugin, `shmlease.integrations.pytest`, when it is turned on.

Each process that runs tests audits them (`item_audit`) and sends what it finds along with the reports of the tests. The
process that the user started sums that up and decides (`session_summary`). Without pytest-xdist both are one process.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from shmlease.auditor.configuration import load_configuration
from shmlease.auditor.report.output import format_of
from shmlease.integrations.pytest.item_audit import ItemAudit
from shmlease.integrations.pytest.session_summary import RECORDS, SessionSummary
from shmlease.output_file import check_output
from shmlease.testing.leak_watch import LeakWatch

__all__ = ["start_audit"]


def start_audit(config: pytest.Config, *, fails: bool) -> None:
    """Register the hooks that this process needs.

    Parameters
    ----------
    config : pytest.Config
        Of this process.
    fails : bool
        Whether a leak is an error, instead of a line in the summary.

    Raises
    ------
    LeaseError
        The configuration, or the name of the report, is not understood, or the report could not be written.
    """
    path = config.getoption("shmlease_report")
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if path and worker_input is None:
        format_of(path)
        check_output(path)
    is_controller = worker_input is None and _has_workers(config)
    record_file = (worker_input or {}).get(RECORDS)
    if record_file is not None and not os.path.isdir(os.path.dirname(record_file)):
        record_file = None  # a worker on another machine
    watch = LeakWatch(
        load_configuration(beneath=str(config.rootpath)),
        # workers see to their own children
        children=config.getini("shmlease_audit_children") and not is_controller,
        alone=config.getini("shmlease_audit_alone") or None,
        beside_workers=worker_input is not None,
        record_file=record_file,
    )
    watch.__enter__()
    config.add_cleanup(lambda: watch.__exit__(None, None, None))
    if not is_controller:
        config.pluginmanager.register(ItemAudit(config, watch, fails=fails), "shmlease-item-audit")
    if worker_input is None:
        config.pluginmanager.register(SessionSummary(config, watch, fails=fails), "shmlease-session-summary")


def _has_workers(config: pytest.Config) -> bool:
    """Whether xdist distributes the tests: it has decided that by now."""
    distributes = config.getoption("dist", "no") != "no" and bool(config.getoption("tx", None))
    return distributes and not config.getoption("collectonly")
