"""What a service manager receives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from shmlease.system.service_manager import notify_service_manager


@pytest.mark.parametrize("is_abstract", [False, True])
def test_manager_receives_one_datagram(is_abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@shmlease-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(60)
        assert notify_service_manager("READY=1", "STATUS=serving")
        assert manager.recv(1000) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize("named", [None, "", "relative", "/nobody/listens"])
def test_where_there_is_no_manager_nothing_is_sent_and_nothing_fails(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", named)
    assert not notify_service_manager("READY=1")
