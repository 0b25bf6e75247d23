"""Deletions are completed whatever is interrupted: rows and outbox in one transaction, then the vector store."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.ingestion import deletion_relay
from drw.rag.documents.ingestion.deletion_relay import DeletionRelay
from drw.rag.documents.storage.deletions import Deletions
from rag.documents.desks import Desk, running
from support.parts import wait_until


def query(profile, sql, *args):
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        cursor = connection.execute(sql, args)
        return cursor.fetchall() if cursor.description else []


async def until_empty(profile, table):
    await asyncio.to_thread(wait_until, lambda: query(profile, f"select 1 from {table}") == [], f"an empty {table}")  # noqa: S608


class Indexed:
    """One indexed file in one vector store."""

    def __init__(self, platform):
        self.platform = platform
        self.desk = platform.desk()

    async def make(self):
        self.file = (await self.desk.upload("a.txt", b"Copper rose.")).id
        self.store = (await self.desk.openai.vector_stores.create(name="c")).id
        await self.attach()
        return self

    async def attach(self):
        files = self.desk.openai.vector_stores.files
        return await files.create_and_poll(self.file, vector_store_id=self.store, poll_interval_ms=20)

    def path(self, what):
        return {
            "file": f"/files/{self.file}",
            "vector store file": f"/vector_stores/{self.store}/files/{self.file}",
            "vector store": f"/vector_stores/{self.store}",
        }[what]

    def lose_vector_store(self):
        """Have the vector store answer no deletion; return what gives it back."""
        service = self.platform.host._servicers["vector_store"]
        before = service.delete_document, service.delete_collection

        async def away(request):
            raise Unavailable("the vector store does not answer")

        service.delete_document = service.delete_collection = away

        def back():
            service.delete_document, service.delete_collection = before

        return back


TARGETS = ["file", "vector store file", "vector store"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch):
    """Nothing is swept after the start."""
    monkeypatch.setattr(deletion_relay, "SWEEP_SECONDS", 3600)


@pytest.mark.parametrize("target", TARGETS)
async def test_a_deletion_that_is_interrupted_before_the_vector_store_is_completed_after_a_restart(
    rag: Profile, target: Any, patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await Indexed(platform).make()
        with monkeypatch.context() as interrupted:

            async def dies(self, fences):
                raise RuntimeError("the process is killed here")

            interrupted.setattr(DeletionRelay, "send", dies)
            assert (await indexed.desk.http.delete(indexed.path(target))).status_code == 500
        assert query(rag, "select count(*) from vector_store.document") == [(1,)]
        if target == "file":
            assert (await indexed.desk.http.get(indexed.path("file"))).status_code == 404
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await until_empty(rag, "documents.deletion")
    for table in ("vector_store.document", "documents.vector_store_file"):
        assert query(rag, f"select count(*) from {table}") == [(0,)]  # noqa: S608
    assert query(rag, "select count(*) from vector_store.collection") == [(0 if target == "vector store" else 1,)]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_deletion_that_is_interrupted_after_the_vector_store_is_confirmed_later_and_recorded_once(
    rag: Profile, target: Any, patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await Indexed(platform).make()
        with monkeypatch.context() as interrupted:

            async def dies(self, deletion):
                raise RuntimeError("the process is killed here")

            interrupted.setattr(Deletions, "confirm", dies)
            assert (await indexed.desk.http.delete(indexed.path(target))).status_code == 500
        assert query(rag, "select count(*) from vector_store.document") == [(0,)]
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await until_empty(rag, "documents.deletion")
    assert query(rag, "select count(*) from documents.vector_store_file") == [(0,)]
    actions = "select count(*) from audit.inbox where record::jsonb ->> 'action' = any(%s)"
    assert query(rag, actions, ["document.delete", "collection.delete"]) == [(1,)]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_deletion_can_be_retried_until_the_vector_store_answers(
    rag: Profile, target: Any, patient: Any
) -> None:
    async with running(rag) as platform:
        indexed = await Indexed(platform).make()
        back = indexed.lose_vector_store()
        path = indexed.path(target)
        for _ in range(2):
            answer = await indexed.desk.http.delete(path)
            assert answer.status_code == 503
            assert "the deletion is recorded, and will be completed" in answer.json()["error"]["message"]
        if target == "file":  # a stranger to the deletion learns nothing of it
            stranger = Desk(platform.host, "research", "documents:read documents:write")
            stranger.http.headers["x-drw-key"] = "key_other"
            assert (await stranger.http.delete(path)).status_code == 404
            await stranger.http.aclose()
        back()
        answer = await indexed.desk.http.delete(path)
        assert (answer.status_code, answer.json()["deleted"]) == (200, True)
        assert query(rag, "select count(*) from vector_store.document") == [(0,)]
        assert query(rag, "select count(*) from documents.deletion") == [(0,)]
        assert (await indexed.desk.http.delete(path)).status_code == 404


async def test_a_late_deletion_does_not_remove_what_was_indexed_again(
    rag: Profile, patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await Indexed(platform).make()
        back = indexed.lose_vector_store()
        assert (await indexed.desk.http.delete(indexed.path("vector store file"))).status_code == 503
        assert (await indexed.attach()).status == "completed"
        back()
    monkeypatch.setattr(deletion_relay, "SWEEP_AFTER_SECONDS", 0)
    async with running(rag):
        await until_empty(rag, "documents.deletion")
    assert query(rag, "select id from vector_store.document") == [(indexed.file,)]


async def test_one_deletion_that_fails_does_not_stop_the_others(
    rag: Profile, patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(rag) as platform:
        indexed = await Indexed(platform).make()
        back = indexed.lose_vector_store()
        assert (await indexed.desk.http.delete(indexed.path("file"))).status_code == 503
        back()
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
