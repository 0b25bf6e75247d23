"""Deletions are completed after interruptions: rows and outbox in one transaction, then the vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from openai.types.vector_stores import VectorStoreFile

from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.ingestion import deletion_relay
from drw.rag.documents.ingestion.deletion_relay import DeletionRelay
from drw.rag.documents.storage.deletions import Deletion, Deletions
from rag.documents.desks import Desk, Platform, query, running
from support.parts import wait_until


async def wait_until_empty(profile: Profile, table: str) -> None:
    await asyncio.to_thread(wait_until, lambda: query(profile, f"select 1 from {table}") == [], f"an empty {table}")  # noqa: S608


class IndexedFile:
    """One indexed file in one vector store."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.desk = platform.desk()

    async def create(self) -> IndexedFile:
        self.file = (await self.desk.upload("a.txt", b"Copper rose.")).id
        self.store = (await self.desk.openai.vector_stores.create(name="c")).id
        await self.attach()
        return self

    async def attach(self) -> VectorStoreFile:
        files = self.desk.openai.vector_stores.files
        return await files.create_and_poll(self.file, vector_store_id=self.store, poll_interval_ms=20)

    def path(self, target: str) -> str:
        return {
            "file": f"/files/{self.file}",
            "vector store file": f"/vector_stores/{self.store}/files/{self.file}",
            "vector store": f"/vector_stores/{self.store}",
        }[target]

    def fail_deletions(self) -> Callable[[], None]:
        """Make deletions in the vector store fail; return a function that restores it."""
        service = self.platform.service("vector_store")
        methods = service.delete_document, service.delete_collection

        async def unavailable(request: Message) -> None:
            raise Unavailable("the vector store does not answer")

        service.delete_document = service.delete_collection = unavailable

        def restore() -> None:
            service.delete_document, service.delete_collection = methods

        return restore


TARGETS = ["file", "vector store file", "vector store"]


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable sweeps after the start."""
    monkeypatch.setattr(deletion_relay, "SWEEP_SECONDS", 3600)


@pytest.mark.parametrize("target", TARGETS)
async def test_a_deletion_interrupted_before_the_vector_store_is_completed_after_a_restart(
    rag: Profile, target: str, no_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await IndexedFile(platform).create()
        with monkeypatch.context() as patch:

            async def interrupt(self: DeletionRelay, fences: list[int]) -> None:
                raise RuntimeError("the process is killed here")

            patch.setattr(DeletionRelay, "send", interrupt)
            assert (await indexed.desk.http.delete(indexed.path(target))).status_code == 500
        assert query(rag, "select count(*) from vector_store.document") == [(1,)]
        if target == "file":
            assert (await indexed.desk.http.get(indexed.path("file"))).status_code == 404
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await wait_until_empty(rag, "documents.deletion")
    for table in ("vector_store.document", "documents.vector_store_file"):
        assert query(rag, f"select count(*) from {table}") == [(0,)]  # noqa: S608
    assert query(rag, "select count(*) from vector_store.collection") == [(0 if target == "vector store" else 1,)]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_deletion_interrupted_after_the_vector_store_is_confirmed_later_and_audited_once(
    rag: Profile, target: str, no_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await IndexedFile(platform).create()
        with monkeypatch.context() as patch:

            async def interrupt(self: Deletions, deletion: Deletion) -> None:
                raise RuntimeError("the process is killed here")

            patch.setattr(Deletions, "confirm", interrupt)
            assert (await indexed.desk.http.delete(indexed.path(target))).status_code == 500
        assert query(rag, "select count(*) from vector_store.document") == [(0,)]
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await wait_until_empty(rag, "documents.deletion")
    assert query(rag, "select count(*) from documents.vector_store_file") == [(0,)]
    actions = "select count(*) from audit.inbox where record::jsonb ->> 'action' = any(%s)"
    assert query(rag, actions, ["document.delete", "collection.delete"]) == [(1,)]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_deletion_can_be_retried_until_the_vector_store_answers(
    rag: Profile, target: str, no_sweep: None
) -> None:
    async with running(rag) as platform:
        indexed = await IndexedFile(platform).create()
        restore = indexed.fail_deletions()
        path = indexed.path(target)
        for _ in range(2):
            response = await indexed.desk.http.delete(path)
            assert response.status_code == 503
            assert "the deletion is recorded, and will be completed" in response.json()["error"]["message"]
        if target == "file":  # another key does not see the pending deletion
            other_key = Desk(platform.host, "research", "documents:read documents:write")
            other_key.http.headers["x-drw-key"] = "key_other"
            assert (await other_key.http.delete(path)).status_code == 404
            await other_key.http.aclose()
        restore()
        response = await indexed.desk.http.delete(path)
        assert (response.status_code, response.json()["deleted"]) == (200, True)
        assert query(rag, "select count(*) from vector_store.document") == [(0,)]
        assert query(rag, "select count(*) from documents.deletion") == [(0,)]
        assert (await indexed.desk.http.delete(path)).status_code == 404


async def test_a_late_deletion_does_not_remove_a_document_that_was_indexed_again(
    rag: Profile, no_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await IndexedFile(platform).create()
        restore = indexed.fail_deletions()
        assert (await indexed.desk.http.delete(indexed.path("vector store file"))).status_code == 503
        assert (await indexed.attach()).status == "completed"
        restore()
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await wait_until_empty(rag, "documents.deletion")
    assert query(rag, "select id from vector_store.document") == [(indexed.file,)]


async def test_one_deletion_that_fails_does_not_stop_the_others(
    rag: Profile, no_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await IndexedFile(platform).create()
        restore = indexed.fail_deletions()
        assert (await indexed.desk.http.delete(indexed.path("file"))).status_code == 503
        restore()
        query(
            rag,
            "insert into documents.deletion (fence, org, desk, key, collection, file, walls, resource)"
            " values (0, 'acme', 'research', 'k', 'c', ' not a document ', '{}', '')",
        )
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await asyncio.to_thread(
            wait_until, lambda: query(rag, "select 1 from vector_store.document") == [], "the other deletion"
        )
