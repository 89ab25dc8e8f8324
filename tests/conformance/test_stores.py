"""A registry's files are the same to its server and its clients in /dev/shm, on the heap, and on the
simulation's kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from seams_under_test import real_system, simulated_system

from shmlease.client.directory_endpoint import DirectoryEndpoint
from shmlease.core import messages as m
from shmlease.core.uses import Use
from shmlease.registry.file_store import FileStore
from shmlease.registry.interfaces import Store
from shmlease.system.mapping import Mapping
from shmlease.system.notice_log import NoticeLog
from shmlease.system.owned_descriptor import OwnedDescriptor
from shmlease.testing.memory_store import MemoryStore

PAGE = 4096


class ReachedStore(Store, Protocol):
    """A store, and what clients do to it themselves."""

    def map(self, number: int, size_bytes: int, *, writable: bool) -> Mapping: ...
    def new_claim(self) -> Any: ...
    def claim_spare(self, number: int, generation: int, claim: Any) -> bool: ...
    def claim_again(self, generation: int, claim: Any) -> bool: ...
    def let_go(self, generation: int, claim: Any) -> bool: ...
    def mint_token(self, ticket: int, minted: list[None] | None = None) -> None: ...
    def has_token(self, ticket: int) -> bool: ...
    def claim_token(self, ticket: int, client: int, claimed: list[None] | None = None) -> bool: ...
    def write_notices(self, client: int) -> Any: ...


class ReachedFileStore(FileStore):
    """The directory, reached as clients and the registry reach it."""

    def map(self, number: int, size_bytes: int, *, writable: bool) -> Mapping:
        return DirectoryEndpoint(self).map(number, size_bytes, writable=writable, private=False, reserve=writable)

    def new_claim(self) -> OwnedDescriptor:
        return OwnedDescriptor()

    def write_notices(self, client: int) -> NoticeLog:
        return DirectoryEndpoint(self).open_notice_log(client)


class ReachedMemoryStore(MemoryStore):
    """The heap."""

    def write_notices(self, client: int) -> Any:
        return self.open_notice_log(client)


class StoreConformance:
    """What a `Store` must do; a subclass has a fixture `store`."""

    # --- segments --------------------------------------------------------------------------------------------------------

    def test_segment_is_there_until_it_is_retired(self, store: ReachedStore) -> None:
        store.create_segment(1, 2 * PAGE)
        assert set(store.entries()) == {("s", 1, None)}
        store.retire_segment(1, "", punch=False)
        assert set(store.entries()) == set()
        with pytest.raises(FileNotFoundError):
            store.map(1, PAGE, writable=False)

    def test_segment_is_made_once(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        with pytest.raises(FileExistsError):
            store.create_segment(1, PAGE)

    def test_segment_is_retired_twice_without_harm(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        for punch in (True, True, False):
            store.retire_segment(1, "", punch=punch)

    def test_all_mappings_of_a_segment_are_of_one_memory(self, store: ReachedStore) -> None:
        store.create_segment(1, 2 * PAGE)
        writer, reader = store.map(1, 2 * PAGE, writable=True), store.map(1, 2 * PAGE, writable=False)
        assert (writer.writable, reader.writable, reader.size_bytes) == (True, False, 2 * PAGE)
        assert writer.address % PAGE == reader.address % PAGE == 0
        ctypes.memmove(writer.address + PAGE, b"written", 7)
        assert ctypes.string_at(reader.address + PAGE, 7) == b"written"

    def test_new_segment_is_zero(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        mapping = store.map(1, PAGE, writable=False)
        assert ctypes.string_at(mapping.address, PAGE) == bytes(PAGE)

    @pytest.mark.parametrize(("punch", "seen"), [(True, b"\0\0\0\0\0\0\0"), (False, b"written")])
    def test_who_maps_a_retired_segment_keeps_it_and_its_content_unless_it_is_punched(
        self, store: ReachedStore, punch: bool, seen: bytes
    ) -> None:
        store.create_segment(1, PAGE)
        mapping = store.map(1, PAGE, writable=True)
        ctypes.memmove(mapping.address, b"written", 7)
        store.retire_segment(1, "", punch=punch)
        assert ctypes.string_at(mapping.address, 7) == seen

    def test_segment_is_not_mapped_beyond_its_end(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        with pytest.raises(FileNotFoundError):
            store.map(1, 2 * PAGE, writable=False)

    # --- spares ----------------------------------------------------------------------------------------------------------

    def test_claimed_spare_is_not_revoked_until_it_is_let_go(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        claim = store.new_claim()
        assert store.claim_spare(1, 5, claim)
        assert not store.revoke_spare(1, 5)
        claim.close()
        assert store.revoke_spare(1, 5)
        assert set(store.entries()) == set()

    def test_revoked_spare_cannot_be_claimed(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        assert store.revoke_spare(1, 5)
        assert not store.claim_spare(1, 5, store.new_claim())
        assert store.revoke_spare(1, 5), "it is gone, which is what was wanted"

    def test_claim_is_on_one_grant(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        claim, second, other = store.new_claim(), store.new_claim(), store.new_claim()
        assert store.claim_spare(1, 5, claim)
        assert not store.claim_spare(1, 5, second)
        second.close()
        assert store.claim_spare(1, 6, other)
        other.close()
        assert store.revoke_spare(1, 6)
        claim.close()

    def test_what_was_let_go_can_be_revoked_and_what_was_claimed_again_cannot(self, store: ReachedStore) -> None:
        for number in (1, 2):
            store.create_segment(number, PAGE)
        kept, lost = store.new_claim(), store.new_claim()
        for number, claim in ((1, kept), (2, lost)):
            assert store.claim_spare(number, 5, claim)
            assert store.let_go(5, claim)
        assert store.claim_again(5, kept)
        assert not store.revoke_spare(1, 5)
        assert store.revoke_spare(2, 5)
        assert not store.claim_again(5, lost)
        kept.close()
        lost.close()

    # --- tickets ---------------------------------------------------------------------------------------------------------

    def test_token_is_claimed_once(self, store: ReachedStore) -> None:
        store.mint_token(7)
        first, second = [], []
        assert store.claim_token(7, 3, first)
        assert not store.has_token(7)
        assert not store.claim_token(7, 4, second)
        assert not store.claim_token(7, 3, second)
        assert (len(first), len(second)) == (1, 0)
        assert set(store.entries()) == {("t", 7, 3)}

    def test_token_that_never_was_cannot_be_claimed(self, store: ReachedStore) -> None:
        assert not store.claim_token(7, 3)
        assert set(store.entries()) == set()

    def test_token_is_made_once(self, store: ReachedStore) -> None:
        store.mint_token(7)
        with pytest.raises(FileExistsError):
            store.mint_token(7)

    def test_void_token_cannot_be_claimed(self, store: ReachedStore) -> None:
        store.mint_token(7)
        assert store.has_token(7)
        assert store.void_token(7) is None
        assert not store.has_token(7)
        assert not store.claim_token(7, 3)
        assert store.void_token(7) is None, "again, after a takeover"

    def test_claimed_token_cannot_be_voided(self, store: ReachedStore) -> None:
        store.mint_token(7)
        store.claim_token(7, 3)
        assert store.void_token(7) == 3
        assert set(store.entries()) == {("t", 7, 3)}

    def test_token_is_dropped_by_who_claimed_it(self, store: ReachedStore) -> None:
        store.mint_token(7)
        store.drop_token(7, 3)
        assert store.claim_token(7, 3)
        store.drop_token(7, 4)
        assert set(store.entries()) == {("t", 7, 3)}
        store.drop_token(7, 3)
        assert set(store.entries()) == set()

    # --- the whole -------------------------------------------------------------------------------------------------------

    def test_every_kind_of_entry_is_named_and_removed_as_it_is_named(self, store: ReachedStore) -> None:
        store.create_segment(1, PAGE)
        store.create_notice_log(2)
        store.mint_token(3)
        store.mint_token(4)
        store.claim_token(4, 2)
        entries = {("s", 1, None), ("j", 2, None), ("t", 3, None), ("t", 4, 2)}
        assert set(store.entries()) == entries
        store.remove_entry("t", 3, 2)
        store.remove_entry("t", 4, None)
        assert set(store.entries()) == entries
        for entry in entries:
            store.remove_entry(*entry)
            store.remove_entry(*entry)
        assert set(store.entries()) == set()

    def test_notice_log_is_dropped(self, store: ReachedStore) -> None:
        store.create_notice_log(2)
        store.drop_notice_log(2)
        store.drop_notice_log(2)
        assert set(store.entries()) == set()

    # --- notice logs -----------------------------------------------------------------------------------------------------

    def test_notices_are_read_once_in_order_and_after_those_that_were_applied(self, store: ReachedStore) -> None:
        store.create_notice_log(2)
        log = store.write_notices(2)
        assert store.read_notice_log(2, 0) == []
        notices = [m.Release(seq, 7) for seq in range(1, 6)]
        for notice in notices[:3]:
            assert log.append(notice)
        assert log.last == 3
        assert store.read_notice_log(2, 1) == notices[1:3]
        assert store.read_notice_log(2, 1) == []
        for notice in notices[3:]:
            assert log.append(notice)
        assert store.read_notice_log(2, 3) == notices[3:]

    def test_full_notice_log_takes_no_more_until_it_is_read_and_begun_again(self, store: ReachedStore) -> None:
        store.create_notice_log(2)
        log = store.write_notices(2)
        written = 0
        while log.append(m.Release(written + 1, 7)):
            written += 1
        assert log.last == written > 100
        assert [notice.seq for notice in store.read_notice_log(2, 0)] == list(range(1, written + 1))
        log.restart()
        assert log.append(m.Release(written + 1, 7))
        assert [notice.seq for notice in store.read_notice_log(2, written)] == [written + 1]

    def test_use_of_a_spare_is_told_once_and_as_it_is_when_the_notices_are_read(self, store: ReachedStore) -> None:
        store.create_notice_log(2)
        log = store.write_notices(2)
        lease = 2 << 40 | 1 << 39 | 1
        claim = m.Claim(1, lease, 8, b"", "here", 0, False)
        assert log.describe(claim)
        for _ in range(3):
            log.store(log.record_place, log.use_begun(lease))
            log.store(log.record_place, log.use_ended(lease))
        store.read_notice_log(2, 0)
        assert store.read_use(2) == Use(False, 3, 3, claim)
        assert store.read_use(2) is None
        log.store(log.record_place, log.use_begun(lease))
        assert log.append(m.Release(1, 7))
        assert store.read_notice_log(2, 0) == [m.Release(1, 7)]
        assert store.read_use(2) == Use(True, 4, 3, claim)
        assert not log.describe(m.Claim(1, lease, 8, bytes(2000), "", 0, False))

    def test_notice_log_that_is_not_there_has_no_notices(self, store: ReachedStore) -> None:
        assert store.read_notice_log(2, 0) == []
        assert store.read_use(2) is None

    def test_notice_log_is_made_twice_for_a_client_that_did_not_hear_its_welcome(self, store: ReachedStore) -> None:
        store.create_notice_log(2)
        store.create_notice_log(2)
        store.write_notices(2).append(m.Release(1, 7))
        assert len(store.read_notice_log(2, 0)) == 1

    # --- room ------------------------------------------------------------------------------------------------------------

    def test_fresh_segment_lacks_pages_until_they_are_reserved(self, store: ReachedStore) -> None:
        store.create_segment(1, 2 * PAGE)
        assert store.unreserved_bytes(1) in {0, 2 * PAGE}
        store.map(1, 2 * PAGE, writable=True)
        assert store.unreserved_bytes(1) == 0
        assert store.unreserved_bytes(2) == 0, "there is none"


class RoomConformance:
    """What a `Store` must do that nobody else uses the room of; a subclass has a fixture `store`."""

    def test_reserved_segment_takes_room_and_a_retired_one_gives_it_back(self, store: ReachedStore) -> None:
        before = store.free_bytes()
        store.create_segment(1, 16 * PAGE)
        store.map(1, 16 * PAGE, writable=True).close()
        assert before - store.free_bytes() >= 16 * PAGE
        store.retire_segment(1, "", punch=False)
        assert before - store.free_bytes() < 16 * PAGE


class TestFileStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[ReachedStore]:
        with real_system() as system:
            store = ReachedFileStore("0a1b2c3d", system.root)
            store.create()
            yield store
            store.remove()


class TestMemoryStore(StoreConformance, RoomConformance):
    @pytest.fixture
    def store(self) -> ReachedStore:
        return ReachedMemoryStore(100 * PAGE)


class TestSimulatedFileStore(StoreConformance, RoomConformance):
    @pytest.fixture
    def store(self) -> Iterator[ReachedStore]:
        with simulated_system() as system:
            system.kernel.disk.size_bytes = 100 * PAGE
            store = ReachedFileStore("0a1b2c3d", system.root)
            store.create()
            yield store
            store.remove()
