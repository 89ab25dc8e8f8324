"""The clients of a stress run, as their coordinator sees them: one that has ended is never waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from shmlease.errors import LeaseError
from shmlease.system.forkserver import ForkServer
from shmlease.verification.stress.client_process import CANNOT_GO_ON
from shmlease.verification.stress.clients import Clients


class Ended:
    """A child that has ended with a code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def reap(self) -> int:
        return self.code


class ForkServerOfTheDead:
    """Whose children end before they have said anything."""

    def __init__(self, code: int) -> None:
        self.code = code

    def fork(self, target: str, *arguments: Any, descriptor: int) -> Ended:
        return Ended(self.code)


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "ended with code 1 before its first operation"), (CANNOT_GO_ON, "cannot go on without client 0.0")],
)
def test_client_that_ends_before_its_first_operation_is_not_waited_for(code: int, words: str, tmp_path: Path) -> None:
    server = cast(ForkServer, ForkServerOfTheDead(code))
    clients = Clients(server, str(tmp_path), "1", 1, 64, {0: [(0, 1)]})
    clients.open_epoch()
    with pytest.raises(LeaseError, match=words):
        clients.start_all()
    assert len(clients) == 0
    clients.close()
