"""The queue of indexing is shared: org after org, desk after desk, small files together, suspects alone."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

import psutil
import psycopg
import pytest

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, Indexing, PutFileRequest, WatchIndexingRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.demo.pdf import pdf
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion.job_queue import MAX_TOGETHER, SMALL_BYTES, JobQueue
from drw.rag.documents.ingestion.worker_lease import acquired
from rag.documents.desks import Platform
from support.hosting import hosted
from support.parts import wait_until

SERVICES = ["embedding", "vector_store", "documents"]
numbers = itertools.count()


@asynccontextmanager
async def queue(profile, host, workers):
    """The queue, and the numbers of workers that live."""
    database = Database(profile.postgres, "documents")
    await database.start("drw.rag.documents")
    async with AsyncExitStack() as stack:
        living = [await stack.enter_async_context(acquired(database)) for _ in range(workers)]
        yield JobQueue(database, host.audit("documents")), [one.number for one in living]
    await database.stop()


def ordered(profile, owners, **columns):
    """Put a file a piece into the queue, in this order; `org/desk` owns it."""
    row = {"bytes": SMALL_BYTES + 1, "key": "k", "collection": "c", "attempts": 0, "hash": ""} | columns
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
async def waiting(idle: AbstractAsyncContextManager[Platform], rag: Profile):
    async with idle as platform, queue(rag, platform.host, 4) as found:
        yield found


async def owners(jobs, workers):
    claimed = [await jobs.claim(number) for number in workers]
    return [f"{job.org}/{job.desk}" for job, *_ in filter(None, claimed)]


async def test_orgs_take_turns_whoever_came_first(waiting: Any, rag: Profile) -> None:
    jobs, workers = waiting
    ordered(rag, ["a/1"] * 9 + ["b/1"] * 2 + ["c/1"])
    assert sorted(await owners(jobs, workers)) == ["a/1", "a/1", "b/1", "c/1"]


async def test_desks_of_an_org_take_turns_and_do_not_multiply_its_share(waiting: Any, rag: Profile) -> None:
    jobs, workers = waiting
    ordered(rag, ["a/1"] * 5 + [f"a/{desk}" for desk in range(2, 9)] + ["b/1"] * 2)
    claimed = await owners(jobs, workers)
    assert claimed.count("b/1") == 2
    assert len({owner for owner in claimed if owner != "b/1"}) == 2


async def test_one_org_leaves_a_worker_to_others(waiting: Any, rag: Profile) -> None:
    jobs, workers = waiting
    ordered(rag, ["a/1"] * 9)
    assert await owners(jobs, workers) == ["a/1"] * 3
    ordered(rag, ["b/1"])
    assert await owners(jobs, workers[3:]) == ["b/1"]


async def test_small_files_of_one_caller_and_collection_are_taken_together(waiting: Any, rag: Profile) -> None:
    jobs, (first, second, *_) = waiting
    small = {"bytes": 100}
    ordered(rag, ["a/1"] * (MAX_TOGETHER + 3), **small)
    ordered(rag, ["a/1"], **small, key="other")
    ordered(rag, ["a/1"], **small, collection="other")
    ordered(rag, ["a/2"], **small)
    together = await jobs.claim(first)
    assert len(together) == MAX_TOGETHER
    assert {(job.desk, job.key, job.collection) for job in together} == {("1", "k", "c")}
    (other_desk,) = await jobs.claim(second)
    assert other_desk.desk == "2"


async def test_large_repeated_and_tried_files_are_taken_alone(waiting: Any, rag: Profile) -> None:
    jobs, workers = waiting
    ordered(rag, ["a/1", "a/1"], bytes=100, attempts=1)
    ordered(rag, ["b/1", "b/1"], bytes=100, hash="same")
    ordered(rag, ["c/1", "c/1"], bytes=SMALL_BYTES + 1)
    assert [len(await jobs.claim(number)) for number in workers[:3]] == [1, 1, 1]


FREEZES = """
import asyncio, os, signal, sys
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion import job_queue, worker_lease

async def main():
    database = Database(sys.argv[1], "documents")
    await database.start("drw.rag.documents")
    job_queue.FROZEN_SECONDS = 1
    job_queue._job = lambda row: os.kill(os.getpid(), signal.SIGSTOP)
    async with worker_lease.acquired(database) as lease:
        await job_queue.JobQueue(database, None).claim(lease.number)

asyncio.run(main())
"""


async def test_a_process_that_freezes_while_it_claims_does_not_block_others(waiting: Any, rag: Profile) -> None:
    jobs, workers = waiting
    ordered(rag, ["a/1"])
    process = subprocess.Popen([sys.executable, "-c", FREEZES, rag.postgres])
    try:
        frozen = psutil.Process(process.pid)
        await asyncio.to_thread(wait_until, lambda: frozen.status() == psutil.STATUS_STOPPED, "the freeze")
        (job,) = await jobs.claim(workers[0])
    finally:
        process.kill()
        process.wait()
    assert (job.org, job.attempts) == ("a", 1)


async def test_a_bad_file_among_small_ones_fails_alone(
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

        async def all_but_one(request):
            if request.document.title == "3.txt":
                raise InvalidRequest("not this one")
            return await put(request)

        monkeypatch.setattr(store_service, "put_document", all_but_one)
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
