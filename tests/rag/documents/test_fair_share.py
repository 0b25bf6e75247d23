"""Fair scheduling of indexing jobs: orgs and desks take turns, small files are batched, retried files run alone."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

import psutil
import psycopg
import pytest

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, Indexing, PutFileRequest, WatchIndexingRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.vector_store_pb2 import Document, PutDocumentRequest
from drw.demo.pdf import pdf
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion.job_queue import MAX_JOBS_PER_CLAIM, SMALL_FILE_BYTES, JobQueue
from drw.rag.documents.ingestion.worker_lease import acquired
from rag.documents.desks import SERVICES, Platform
from support.hosting import hosted
from support.json_types import Json
from support.parts import wait_until

numbers = itertools.count()


@asynccontextmanager
async def queue(profile: Profile, host: Host, workers: int) -> AsyncIterator[tuple[JobQueue, list[int]]]:
    """A job queue, and the numbers of live workers."""
    database = Database(profile.postgres, "documents")
    await database.start("drw.rag.documents")
    async with AsyncExitStack() as stack:
        leases = [await stack.enter_async_context(acquired(database)) for _ in range(workers)]
        yield JobQueue(database, host.audit("documents")), [lease.number for lease in leases]
    await database.stop()


def enqueue(profile: Profile, owners: list[str], **columns: Json) -> None:
    """Insert one indexing job for each owner (`org/desk`), in this order."""
    row = {"bytes": SMALL_FILE_BYTES + 1, "key": "k", "collection": "c", "attempts": 0, "hash": ""} | columns
    with psycopg.connect(profile.postgres) as connection:
        for owner in owners:
            org, desk = owner.split("/")
            name = f"file-{next(numbers)}"
            content = row["hash"] or name
            connection.execute(
                "insert into documents.file (id, org, desk, name, purpose, bytes, content_hash)"
                " values (%s, %s, %s, %s, 'assistants', %s, %s)",
                (name, org, desk, name, row["bytes"], content),
            )
            connection.execute(
                "insert into documents.vector_store_file (org, desk, key, collection, file, content_hash, attempts)"
                " values (%s, %s, %s, %s, %s, %s, %s)",
                (org, desk, row["key"], row["collection"], name, content, row["attempts"]),
            )


@pytest.fixture
async def idle_workers(
    idle: AbstractAsyncContextManager[Platform], rag: Profile
) -> AsyncIterator[tuple[JobQueue, list[int]]]:
    async with idle as platform, queue(rag, platform.host, 4) as claimed_queue:
        yield claimed_queue


async def claim_owners(jobs: JobQueue, workers: list[int]) -> list[str]:
    claimed = [await jobs.claim(number) for number in workers]
    return [f"{job.org}/{job.desk}" for job, *_ in filter(None, claimed)]


async def test_orgs_take_turns_regardless_of_the_order_of_their_jobs(
    idle_workers: tuple[JobQueue, list[int]], rag: Profile
) -> None:
    jobs, workers = idle_workers
    enqueue(rag, ["a/1"] * 9 + ["b/1"] * 2 + ["c/1"])
    assert sorted(await claim_owners(jobs, workers)) == ["a/1", "a/1", "b/1", "c/1"]


async def test_desks_take_turns_within_the_share_of_their_org(
    idle_workers: tuple[JobQueue, list[int]], rag: Profile
) -> None:
    jobs, workers = idle_workers
    enqueue(rag, ["a/1"] * 5 + [f"a/{desk}" for desk in range(2, 9)] + ["b/1"] * 2)
    claimed = await claim_owners(jobs, workers)
    assert claimed.count("b/1") == 2
    assert len({owner for owner in claimed if owner != "b/1"}) == 2


async def test_one_org_never_uses_all_workers(idle_workers: tuple[JobQueue, list[int]], rag: Profile) -> None:
    jobs, workers = idle_workers
    enqueue(rag, ["a/1"] * 9)
    assert await claim_owners(jobs, workers) == ["a/1"] * 3
    enqueue(rag, ["b/1"])
    assert await claim_owners(jobs, workers[3:]) == ["b/1"]


async def test_small_files_of_one_caller_and_collection_are_claimed_in_a_batch(
    idle_workers: tuple[JobQueue, list[int]], rag: Profile
) -> None:
    jobs, (first, second, *_) = idle_workers
    small = {"bytes": 100}
    enqueue(rag, ["a/1"] * (MAX_JOBS_PER_CLAIM + 3), **small)
    enqueue(rag, ["a/1"], **small, key="other")
    enqueue(rag, ["a/1"], **small, collection="other")
    enqueue(rag, ["a/2"], **small)
    batch = await jobs.claim(first)
    assert len(batch) == MAX_JOBS_PER_CLAIM
    assert {(job.desk, job.key, job.collection) for job in batch} == {("1", "k", "c")}
    (other_desk,) = await jobs.claim(second)
    assert other_desk.desk == "2"


async def test_large_duplicate_and_retried_files_are_claimed_alone(
    idle_workers: tuple[JobQueue, list[int]], rag: Profile
) -> None:
    jobs, workers = idle_workers
    enqueue(rag, ["a/1", "a/1"], bytes=100, attempts=1)
    enqueue(rag, ["b/1", "b/1"], bytes=100, hash="same")
    enqueue(rag, ["c/1", "c/1"], bytes=SMALL_FILE_BYTES + 1)
    assert [len(await jobs.claim(number)) for number in workers[:3]] == [1, 1, 1]


FREEZING_WORKER = """
import asyncio, os, signal, sys
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion import job_queue, worker_lease

async def main():
    database = Database(sys.argv[1], "documents")
    await database.start("drw.rag.documents")
    job_queue.IDLE_TRANSACTION_SECONDS = 1
    job_queue._to_job = lambda row: os.kill(os.getpid(), signal.SIGSTOP)
    async with worker_lease.acquired(database) as lease:
        await job_queue.JobQueue(database, None).claim(lease.number)

asyncio.run(main())
"""


async def test_a_process_that_freezes_during_a_claim_does_not_block_other_workers(
    idle_workers: tuple[JobQueue, list[int]], rag: Profile
) -> None:
    jobs, workers = idle_workers
    enqueue(rag, ["a/1"])
    process = subprocess.Popen([sys.executable, "-c", FREEZING_WORKER, rag.postgres])
    try:
        frozen = psutil.Process(process.pid)
        await asyncio.to_thread(wait_until, lambda: frozen.status() == psutil.STATUS_STOPPED, "the freeze")
        (job,) = await jobs.claim(workers[0])
    finally:
        process.kill()
        process.wait()
    assert (job.org, job.attempts) == ("a", 1)


async def test_a_bad_file_in_a_batch_does_not_fail_the_other_files(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with idle as platform:
        desk = platform.desk()
        names = [f"{number}.txt" for number in range(8)]
        files = [await desk.upload(name, f"Text number {name}.".encode()) for name in names]
        files.append(await desk.upload("empty.pdf", pdf([[]])))
        store = await desk.openai.vector_stores.create(name="c", file_ids=[file.id for file in files])
    async with hosted(rag, SERVICES) as host:
        store_service = cast(Any, host._servicers["vector_store"])
        put = store_service.put_document

        async def reject_one(request: PutDocumentRequest) -> Document:
            if request.document.title == "3.txt":
                raise InvalidRequest("not this one")
            return await put(request)

        monkeypatch.setattr(store_service, "put_document", reject_one)
        documents = host.client(DocumentsClient)
        with acting_for(caller):
            last = await documents.put_file(PutFileRequest(name="last.txt", content=b"The last one."))
            order = IndexFileRequest(file=last.id, collection=store.id)
            assert (await documents.index_file(order)).state == Indexing.COMPLETED
            async for _ in documents.watch_indexing(WatchIndexingRequest(collection=store.id)):
                pass
    with psycopg.connect(rag.postgres) as connection:
        rows = connection.execute(
            "select f.name, a.state, a.error from documents.vector_store_file a join documents.file f on f.id = a.file"
            " where a.state <> 'completed' order by f.name"
        ).fetchall()
        stored = connection.execute("select title from vector_store.document order by title").fetchall()
    assert [(name, state) for name, state, _ in rows] == [("3.txt", "failed"), ("empty.pdf", "failed")]
    assert "not this one" in rows[0][2]
    assert [title for (title,) in stored] == [*(name for name in names if name != "3.txt"), "last.txt"]
