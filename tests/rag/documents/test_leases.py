"""Leases of indexing jobs: a running job holds no connection, and only its newest owner can finish it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from drw.api.rag.v1.vector_store_pb2 import Document, PutDocumentRequest, VectorSearchRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion import worker_lease
from drw.rag.documents.ingestion.job_queue import JobCounts
from rag.documents.desks import Platform, query, queue_with_job, running
from support.parts import wait_until

JOBS = 12
"""More than the size of the connection pool."""


async def wait_for_row(profile: Profile, sql: str, description: str) -> None:
    await asyncio.to_thread(wait_until, lambda: query(profile, sql) != [], description)


class Gate:
    """Blocks calls of `put_document` until it is opened."""

    def __init__(self, platform: Platform) -> None:
        self._service = platform.service("vector_store")
        self._put = self._service.put_document
        self._service.put_document = self._wait
        self.calls = 0
        self.opened = asyncio.Event()

    async def _wait(self, request: PutDocumentRequest) -> Document:
        self.calls += 1
        await self.opened.wait()
        return await self._put(request)

    async def reached(self, calls: int = 1) -> None:
        async with asyncio.timeout(60):
            while self.calls < calls:
                await asyncio.sleep(0.01)


async def test_running_jobs_hold_no_connection_of_the_pool(rag: Profile) -> None:
    settings = rag.services | {"documents": {"indexers": JOBS + 1}}
    async with running(rag.model_copy(update={"services": settings})) as platform:
        desk = platform.desk()
        gate = Gate(platform)
        for number in range(JOBS):
            file = await desk.upload(f"{number}.txt", f"Text {number}".encode())
            await desk.openai.vector_stores.create(name=f"store-{number}", file_ids=[file.id])
        await gate.reached(JOBS)
        in_transaction = (
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and pid <> pg_backend_pid() and state like 'idle in transaction%%'"
        )
        # Idle workers poll for jobs in short transactions: wait for a moment without one.
        await asyncio.to_thread(wait_until, lambda: query(rag, in_transaction) == [(0,)], "no transaction")
        assert len((await desk.openai.files.list()).data) == JOBS
        gate.opened.set()
        await asyncio.to_thread(
            wait_until, lambda: query(rag, "select count(*) from vector_store.document") == [(JOBS,)], "the documents"
        )


async def test_a_former_owner_cannot_finish_a_job_that_was_taken_over(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, report: bytes
) -> None:
    async with idle as platform, queue_with_job(platform, rag, report) as (queue, database, file):
        async with worker_lease.acquired(database) as first, worker_lease.acquired(database) as second:
            (former,) = await queue.claim(first.number)
            assert await queue.claim(second.number) == []
            query(rag, "update documents.worker set lease_expires_at = now() where number = %s", first.number)
            (current,) = await queue.claim(second.number)  # as from a frozen process, which still has its lock
            assert (current.file, current.attempts) == (file, 2)
            assert current.lease > former.lease

            await first.extend()  # it wakes up
            assert await queue.attributes(former) is None
            assert await queue.complete_unchanged(former)
            await queue.report_progress(former, JobCounts(9, 9))
            await queue.complete(former, JobCounts(9, 9), 1)
            await queue.fail(former, "server_error", "from the former owner")
            await queue.release(former)
            state = query(rag, "select state, pages, worker, lease from documents.vector_store_file")
            assert state == [("in_progress", 0, second.number, current.lease)]

            await queue.complete(current, JobCounts(1, 1), 1)
        assert query(rag, "select state, pages from documents.vector_store_file") == [("completed", 1)]
        assert query(rag, "select count(*) from audit.inbox where record::jsonb ->> 'action' = 'file.index'") == [(1,)]


@pytest.fixture
def one_worker(rag: Profile) -> Profile:
    """A profile with one worker, which processes one job at a time."""
    return rag.model_copy(update={"services": rag.services | {"documents": {"indexers": 1}}})


async def test_a_frozen_worker_does_not_overwrite_the_document_of_its_successor(
    one_worker: Profile, rag: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drw.kernel.storage.worker_lease.HEARTBEAT_SECONDS", 3600)
    async with running(one_worker) as frozen:
        gate = Gate(frozen)
        desk = frozen.desk()
        file = await desk.upload("a.txt", b"Copper rose.")
        store = await desk.openai.vector_stores.create(name="c", file_ids=[file.id])
        await gate.reached()
        query(rag, "update documents.worker set lease_expires_at = now()")
        async with running(rag):
            await wait_for_row(
                rag, "select 1 from documents.vector_store_file where state = 'completed'", "the takeover"
            )
        ((written, fence),) = query(rag, "select indexed_at, fence from vector_store.document")
        query(rag, "update documents.worker set lease_expires_at = 'infinity'")  # it wakes up
        gate.opened.set()
        files = desk.openai.vector_stores.files
        other = await desk.upload("b.txt", b"Zinc fell.")
        await files.create_and_poll(other.id, vector_store_id=store.id, poll_interval_ms=20)  # by the same worker
        shown = "select indexed_at, fence from vector_store.document where id = %s"
        assert query(rag, shown, file.id) == [(written, fence)]
        assert query(rag, "select attempts from documents.vector_store_file where file = %s", file.id) == [(2,)]


async def test_a_heartbeat_extends_the_lease_of_a_worker(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drw.kernel.storage.worker_lease.HEARTBEAT_SECONDS", 0.01)
    async with idle:
        database = Database(rag.postgres, "documents")
        await database.start("drw.rag.documents")
        async with worker_lease.acquired(database) as lease:
            query(rag, "update documents.worker set lease_expires_at = '-infinity'")
            working = asyncio.create_task(lease.run(asyncio.sleep(3600)))
            await wait_for_row(rag, "select 1 from documents.worker where lease_expires_at > now()", "the heartbeat")
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        await database.stop()


@pytest.mark.parametrize("action", ["file", "vector store file", "batch"])
async def test_a_deletion_during_the_write_of_a_document_leaves_no_document(
    one_worker: Profile, rag: Profile, action: str
) -> None:
    async with running(one_worker) as platform:
        gate = Gate(platform)
        desk = platform.desk()
        file = await desk.upload("a.txt", b"Copper rose.")
        store = await desk.openai.vector_stores.create(name="c")
        stores = desk.openai.vector_stores
        batch = await stores.file_batches.create(store.id, file_ids=[file.id])
        await gate.reached()
        if action == "file":
            await desk.openai.files.delete(file.id)  # it does not wait for the worker
        elif action == "vector store file":
            await stores.files.delete(file.id, vector_store_id=store.id)
        else:
            await stores.file_batches.cancel(batch.id, vector_store_id=store.id)
        gate.opened.set()
        other = await desk.upload("b.txt", b"Zinc fell.")
        await stores.files.create_and_poll(other.id, vector_store_id=store.id, poll_interval_ms=20)
        assert query(rag, "select id from vector_store.document") == [(other.id,)]
        if action != "file":  # the file can be indexed again
            await stores.files.create_and_poll(file.id, vector_store_id=store.id, poll_interval_ms=20)
            assert {id_ for (id_,) in query(rag, "select id from vector_store.document")} == {file.id, other.id}


async def test_attributes_that_change_during_the_write_of_a_document_are_in_the_completed_document(
    rag: Profile, caller: Principal
) -> None:
    async with running(rag) as platform:
        gate = Gate(platform)
        desk = platform.desk()
        file = await desk.upload("a.txt", b"Copper rose.")
        store = await desk.openai.vector_stores.create(name="c")
        files = desk.openai.vector_stores.files
        await files.create(store.id, file_id=file.id, attributes={"year": 2024})
        await gate.reached()
        changed = await files.update(file.id, vector_store_id=store.id, attributes={"year": 2025})
        assert (changed.status, changed.attributes) == ("in_progress", {"year": 2025})
        gate.opened.set()
        await files.poll(file.id, vector_store_id=store.id, poll_interval_ms=20)
        with acting_for(caller):
            client = platform.host.client(VectorStoreClient)
            request = VectorSearchRequest(collection=store.id, text="copper", attributes=to_values({"year": 2025}))
            assert [p.document for p in (await client.search(request)).passages] == [file.id]
        counted = "select attributes_version, attributes_written from documents.vector_store_file"
        assert query(rag, counted) == [(2, 2)]
        assert query(rag, "select attributes_version from vector_store.document") == [(2,)]


async def test_a_job_that_fails_after_earlier_attempts_leaves_no_document(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, report: bytes, caller: Principal
) -> None:
    async with idle as platform, queue_with_job(platform, rag, report) as (queue, database, file):
        async with worker_lease.acquired(database) as worker:
            (first,) = await queue.claim(worker.number)
            await queue.release(first)
            query(rag, "update documents.vector_store_file set not_before = now()")
            (second,) = await queue.claim(worker.number)
            await queue.fail(second, "server_error", "it does not work")
        ordered = query(rag, "select collection, file, walls, fence > %s from documents.deletion", second.lease)
        assert ordered == [(second.collection, file, [], True)]
