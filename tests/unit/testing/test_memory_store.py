"""The directory on the heap does what the one in /dev/shm does: each test is of both."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmlease.client.endpoint import DirectoryEndpoint
from shmlease.system.directory import RegistryDirectory
from shmlease.system.owned_descriptor import OwnedDescriptor
from shmlease.testing.memory_store import MemoryStore

PAGE = 4096


class _Files(RegistryDirectory):
    def map(self, number: int, size_bytes: int, *, writable: bool) -> Any:
        return DirectoryEndpoint(self).map(number, size_bytes, writable=writable, reserve=writable)

    def new_claim(self) -> OwnedDescriptor:
        return OwnedDescriptor()


@pytest.fixture(params=["heap", "files"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "heap":
        yield MemoryStore(100 * PAGE)
        return
    files = _Files("0a1b2c3d", str(tmp_path))
    files.create()
    yield files
    files.remove()


# --- segments --------------------------------------------------------------------------------------------------------


def test_segment_is_there_until_it_is_retired(directory: Any) -> None:
    directory.create_segment(1, 2 * PAGE)
    assert set(directory.entries()) == {("s", 1, None)}
    directory.retire_segment(1, "", punch=False)
    assert set(directory.entries()) == set()
    with pytest.raises(FileNotFoundError):
        directory.map(1, PAGE, writable=False)


def test_segment_is_made_once(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    with pytest.raises(FileExistsError):
        directory.create_segment(1, PAGE)


def test_segment_is_retired_twice_without_harm(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    for punch in (True, True, False):
        directory.retire_segment(1, "", punch=punch)


def test_all_mappings_of_a_segment_are_of_one_memory(directory: Any) -> None:
    directory.create_segment(1, 2 * PAGE)
    writer, reader = directory.map(1, 2 * PAGE, writable=True), directory.map(1, 2 * PAGE, writable=False)
    assert (writer.writable, reader.writable, reader.size_bytes) == (True, False, 2 * PAGE)
    assert writer.address % PAGE == reader.address % PAGE == 0
    ctypes.memmove(writer.address + PAGE, b"written", 7)
    assert ctypes.string_at(reader.address + PAGE, 7) == b"written"


def test_new_segment_is_zero(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    mapping = directory.map(1, PAGE, writable=False)
    assert ctypes.string_at(mapping.address, PAGE) == bytes(PAGE)


@pytest.mark.parametrize(("punch", "seen"), [(True, b"\0\0\0\0\0\0\0"), (False, b"written")])
def test_who_maps_a_retired_segment_keeps_it_and_its_content_unless_it_is_punched(
    directory: Any, punch: bool, seen: bytes
) -> None:
    directory.create_segment(1, PAGE)
    mapping = directory.map(1, PAGE, writable=True)
    ctypes.memmove(mapping.address, b"written", 7)
    directory.retire_segment(1, "", punch=punch)
    assert ctypes.string_at(mapping.address, 7) == seen


def test_segment_is_not_mapped_beyond_its_end(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    with pytest.raises(FileNotFoundError):
        directory.map(1, 2 * PAGE, writable=False)


# --- spares ----------------------------------------------------------------------------------------------------------


def test_claimed_spare_is_not_revoked_until_it_is_let_go(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    claim = directory.new_claim()
    assert directory.claim_spare(1, 5, claim)
    assert not directory.revoke_spare(1, 5)
    claim.close()
    assert directory.revoke_spare(1, 5)
    assert set(directory.entries()) == set()


def test_revoked_spare_cannot_be_claimed(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    assert directory.revoke_spare(1, 5)
    assert not directory.claim_spare(1, 5, directory.new_claim())
    assert directory.revoke_spare(1, 5), "it is gone, which is what was wanted"


def test_claim_is_on_one_grant(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    claim, second, other = directory.new_claim(), directory.new_claim(), directory.new_claim()
    assert directory.claim_spare(1, 5, claim)
    assert not directory.claim_spare(1, 5, second)
    second.close()
    assert directory.claim_spare(1, 6, other)
    other.close()
    assert directory.revoke_spare(1, 6)
    claim.close()


# --- tickets ---------------------------------------------------------------------------------------------------------


def test_token_is_claimed_once(directory: Any) -> None:
    directory.mint_token(7)
    first, second = [], []
    assert directory.claim_token(7, 3, first)
    assert not directory.claim_token(7, 4, second)
    assert not directory.claim_token(7, 3, second)
    assert (len(first), len(second)) == (1, 0)
    assert set(directory.entries()) == {("t", 7, 3)}


def test_token_that_never_was_cannot_be_claimed(directory: Any) -> None:
    assert not directory.claim_token(7, 3)
    assert set(directory.entries()) == set()


def test_token_is_made_once(directory: Any) -> None:
    directory.mint_token(7)
    with pytest.raises(FileExistsError):
        directory.mint_token(7)


def test_void_token_cannot_be_claimed(directory: Any) -> None:
    directory.mint_token(7)
    assert directory.void_token(7) is None
    assert not directory.claim_token(7, 3)
    assert directory.void_token(7) is None, "again, after a takeover"


def test_claimed_token_cannot_be_voided(directory: Any) -> None:
    directory.mint_token(7)
    directory.claim_token(7, 3)
    assert directory.void_token(7) == 3
    assert set(directory.entries()) == {("t", 7, 3)}


def test_token_is_dropped_by_who_claimed_it(directory: Any) -> None:
    directory.mint_token(7)
    directory.drop_token(7, 3)
    assert directory.claim_token(7, 3)
    directory.drop_token(7, 4)
    assert set(directory.entries()) == {("t", 7, 3)}
    directory.drop_token(7, 3)
    assert set(directory.entries()) == set()


# --- the whole -------------------------------------------------------------------------------------------------------


def test_every_kind_of_entry_is_named_and_removed_as_it_is_named(directory: Any) -> None:
    directory.create_segment(1, PAGE)
    directory.create_notice_log(2)
    directory.mint_token(3)
    directory.mint_token(4)
    directory.claim_token(4, 2)
    entries = {("s", 1, None), ("j", 2, None), ("t", 3, None), ("t", 4, 2)}
    assert set(directory.entries()) == entries
    directory.remove_entry("t", 3, 2)
    directory.remove_entry("t", 4, None)
    assert set(directory.entries()) == entries
    for entry in entries:
        directory.remove_entry(*entry)
        directory.remove_entry(*entry)
    assert set(directory.entries()) == set()


def test_notice_log_is_dropped(directory: Any) -> None:
    directory.create_notice_log(2)
    directory.drop_notice_log(2)
    directory.drop_notice_log(2)
    assert set(directory.entries()) == set()
