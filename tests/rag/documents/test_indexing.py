"""Indexing completes each job once, despite interruptions, duplicates, deletions and failing services."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from drw.api.rag.v1.documents_pb2 import (
    GetFileRequest,
    IndexFileRequest,
    Indexing,
    PutFileRequest,
    ReadTextRequest,
    WatchIndexingRequest,
)
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from drw.api.rag.v1.embedding_rpc import Embedding
from drw.api.rag.v1.vector_store_pb2 import DeleteCollectionRequest, GetCollectionRequest, ListDocumentsRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.demo.pdf import pdf
from drw.kernel.attributes import from_values, to_values
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.ingestion.job_queue import JobCounts
from drw.rag.documents.ingestion.worker_lease import acquired
from rag.documents.desks import SERVICES, Platform, query, queue_with_job
from support.hosting import hosted
from support.json_types import JsonObject
from support.parts import wait_until
from support.telemetry.spans import recorded

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def audit_records(profile: Profile, action: str) -> list[JsonObject]:
    rows = query(profile, "select record::jsonb from audit.inbox")
    return [record for (record,) in rows if record["action"] == action]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_a_file_is_stored_read_indexed_and_watched(
    rag: Profile, caller: Principal, report: bytes, how: str
) -> None:
    async with hosted(rag, SERVICES, how) as host:
        documents = host.client(DocumentsClient)
        with acting_for(caller):
            file = await documents.put_file(PutFileRequest(name="report.pdf", content=report))
            assert (file.name, file.bytes, file.purpose) == ("report.pdf", len(report), "assistants")
            assert await documents.get_file(GetFileRequest(file=file.id)) == file
            text = await documents.read_text(ReadTextRequest(file=file.id))
            assert (list(text.pages)[1], text.truncated) == ("Rates 17.8 16.1", False)
            text = await documents.read_text(ReadTextRequest(file=file.id, max_characters=7))
            assert (list(text.pages), text.truncated) == (["Harbour"], True)

            order = IndexFileRequest(file=file.id, collection="reports", attributes=to_values({"year": 2025}))
            first = await documents.index_file(order)
            again = await documents.index_file(order)
            assert (first.state, first.pages, first.chunks, first.error) == (Indexing.COMPLETED, 2, 2, "")
            assert (again.state, again.chunks, again.unchanged) == (Indexing.COMPLETED, 2, True)

            watched = [p async for p in documents.watch_indexing(WatchIndexingRequest(collection="reports"))]
            assert [(p.in_progress, p.completed, p.pages, p.chunks) for p in watched] == [(0, 1, 2, 2)]
            store = host.client(VectorStoreClient)
            (document,) = (await store.list_documents(ListDocumentsRequest(collection="reports"))).documents
    assert (document.id, document.title, document.content_hash) == (file.id, "report.pdf", file.content_hash)
    assert from_values(document.attributes) == {"year": 2025}
    assert {r["resource"] for r in audit_records(rag, "file.upload")} == {file.id}
    (record,) = audit_records(rag, "file.index")
    assert (record["actor"], record["desk"], record["details"]["chunks"]) == ("key_test", "research", 2)


async def test_invalid_requests_of_services_are_rejected(rag: Profile, caller: Principal) -> None:
    async with hosted(rag, SERVICES) as host:
        documents = host.client(DocumentsClient)
        with acting_for(caller):
            for request, reason in [
                (PutFileRequest(name="../a.txt", content=b"a"), "without a folder"),
                (PutFileRequest(name="a.txt"), "the file is empty"),
                (PutFileRequest(name="a.pdf", content=b"a"), "not a PDF"),
                (PutFileRequest(name="a.txt", content=b"a", purpose="fun"), "purpose is 'fun'"),
            ]:
                with pytest.raises(InvalidRequest, match=reason):
                    await documents.put_file(request)
            for call in (
                documents.get_file(GetFileRequest(file="file-x")),
                documents.index_file(IndexFileRequest(file="file-x", collection="a")),
                documents.read_text(ReadTextRequest(file="file-x")),
            ):
                with pytest.raises(NotFound, match="there is no file 'file-x'"):
                    await call
        without_scope = type(caller)("acme", "research", "key_poor")
        with acting_for(without_scope), pytest.raises(Forbidden, match="documents:write"):
            await documents.put_file(PutFileRequest(name="a.txt", content=b"a"))


async def test_files_with_the_same_content_share_a_document_until_the_first_is_deleted(
    rag: Profile, caller: Principal, report: bytes
) -> None:
    async with hosted(rag, SERVICES) as host:
        documents, store = host.client(DocumentsClient), host.client(VectorStoreClient)
        with acting_for(caller):
            files = [await documents.put_file(PutFileRequest(name=name, content=report)) for name in ("a.pdf", "b.pdf")]
            results = await asyncio.gather(
                *(documents.index_file(IndexFileRequest(file=f.id, collection="c")) for f in files)
            )
            assert [f.state for f in results] == [Indexing.COMPLETED] * 2
            assert sorted(f.unchanged for f in results) == [False, True]
            first = next(f for f in results if not f.unchanged)
            assert (await store.get_collection(GetCollectionRequest(collection="c"))).documents == 1

            servicer: Any = host._servicers["documents"]
            await servicer._library.delete(first.file)
            async for _ in documents.watch_indexing(WatchIndexingRequest(collection="c")):
                pass
            (document,) = (await store.list_documents(ListDocumentsRequest(collection="c"))).documents
    assert document.id == next(f.file for f in results if f.unchanged)


async def test_a_deleted_collection_fails_its_jobs_and_a_deleted_file_leaves_no_job(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, report: bytes, caller: Principal
) -> None:
    async with idle as platform:
        desk = platform.desk()
        retained, deleted = await desk.upload("kept.pdf", report), await desk.upload("gone.md", b"# Gone")
        stores = [
            await desk.openai.vector_stores.create(name=n, file_ids=[retained.id, deleted.id]) for n in ("a", "b")
        ]
        await desk.openai.files.delete(deleted.id)
        with acting_for(caller):  # without the documents service
            store = platform.host.client(VectorStoreClient)
            await store.delete_collection(DeleteCollectionRequest(collection=stores[0].id))
    async with hosted(rag, SERVICES):
        await asyncio.to_thread(
            wait_until,
            lambda: not query(rag, "select 1 from documents.vector_store_file where state = 'in_progress'"),
            "end",
        )
    rows = query(rag, "select collection, state, error from documents.vector_store_file order by state")
    assert [(c, s) for c, s, _ in rows] == [(stores[1].id, "completed"), (stores[0].id, "failed")]
    assert stores[0].id in rows[1][2]
    assert query(rag, "select id from vector_store.document") == [(retained.id,)]


async def test_another_process_finishes_the_job_of_a_killed_process_exactly_once(
    rag: Profile, caller: Principal, idle: AbstractAsyncContextManager[Platform], tmp_path: Path, folder: Path
) -> None:
    long = pdf([[f"Line {line} of page {page}: some words to embed" for line in range(40)] for page in range(200)])
    async with idle as platform:
        desk = platform.desk()
        file = await desk.upload("long.pdf", long)
        store = await desk.openai.vector_stores.create(name="c", file_ids=[file.id])
    first = _start_process(rag, tmp_path, folder)
    try:
        wait_until(
            lambda: query(rag, "select chunks from documents.vector_store_file") > [(0,)], "the first chunks", 60
        )
    finally:
        first.kill()
        first.wait()
    assert query(rag, "select state, attempts from documents.vector_store_file") == [("in_progress", 1)]
    second = _start_process(rag, tmp_path, folder)
    try:
        done = "select 1 from documents.vector_store_file where state = 'completed'"
        wait_until(lambda: query(rag, done) != [], "the end", 120)
    finally:
        second.terminate()
        assert second.wait(30) == 0
    ((attempts, chunks),) = query(rag, "select attempts, chunks from documents.vector_store_file")
    assert attempts == 2
    assert query(rag, "select id, chunks from vector_store.document") == [(file.id, chunks)]
    assert query(rag, "select count(*) from vector_store.chunk") == [(chunks,)]
    assert [r["details"]["collection"] for r in audit_records(rag, "file.index")] == [store.id]


async def test_a_job_has_one_live_owner(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, report: bytes
) -> None:
    async with (
        idle as platform,
        queue_with_job(platform, rag, report) as (queue, database, file),
        acquired(database) as second,
    ):
        async with acquired(database) as first:
            (claimed,) = await queue.claim(first.number)
            collections = query(rag, "select collection from documents.vector_store_file")
            assert (claimed.file, [(claimed.collection,)]) == (file, collections)
            assert await queue.claim(second.number) == []
        (reclaimed,) = await queue.claim(second.number)  # its worker has ended
        assert (reclaimed.file, reclaimed.attempts) == (file, 2)
        assert await queue.attributes(claimed) is None
        await queue.fail(claimed, "server_error", "from the former owner")
        await queue.report_progress(claimed, JobCounts(9, 9))
        assert query(rag, "select state, pages from documents.vector_store_file") == [("in_progress", 0)]
        await queue.release(reclaimed)
        assert await queue.claim(second.number) == []  # the retry is delayed


class DoubleEmbedding(Embedding):
    """Double of the embedding service that fails a number of times."""

    def __init__(self, inner: Embedding, failures: int) -> None:
        self._inner = inner
        self._failures = failures
        self.calls = 0

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        self.calls += 1
        if self.calls <= self._failures:
            raise Unavailable("the embedding service does not answer")
        return await self._inner.embed(request)


async def test_an_unavailable_service_only_delays_indexing(rag: Profile, caller: Principal, report: bytes) -> None:
    async with hosted(rag, SERVICES) as host:
        embedding = host._servicers["embedding"]
        assert isinstance(embedding, Embedding)
        double = host._servicers["embedding"] = DoubleEmbedding(embedding, 2)
        documents = host.client(DocumentsClient)
        with acting_for(caller):
            file = await documents.put_file(PutFileRequest(name="report.pdf", content=report))
            indexed = await documents.index_file(IndexFileRequest(file=file.id, collection="c"))
    assert (indexed.state, double.calls) == (Indexing.COMPLETED, 3)
    assert query(rag, "select attempts from documents.vector_store_file") == [(3,)]


async def test_orphaned_blobs_are_deleted_at_startup(rag: Profile, caller: Principal, report: bytes) -> None:
    async with hosted(rag, SERVICES) as host:
        with acting_for(caller):
            await host.client(DocumentsClient).put_file(PutFileRequest(name="report.pdf", content=report))
    blobs = [p for p in (rag.data / "documents" / "content").rglob("*") if p.is_file()]
    orphan = rag.data / "documents" / "content" / "ab" / ("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"left behind")
    async with hosted(rag, SERVICES):
        await asyncio.to_thread(wait_until, lambda: not orphan.exists(), "the removal")
    assert [p.exists() for p in blobs] == [True]


def _start_process(profile: Profile, tmp_path: Path, folder: Path) -> subprocess.Popen[bytes]:
    file = tmp_path / "profile.toml"
    names = ", ".join(f'"{name}"' for name in SERVICES)
    file.write_text(
        f'name = "t"\ndata = "{profile.data}"\npostgres = "{profile.postgres}"\nvalkey = "{profile.valkey}"\n'
        f'[processes.all]\nservices = [{names}]\ngrpc = "unix:{folder}/k.g"\nhttp = "unix:{folder}/k.h"\n'
        '[processes.gateway]\nservices = ["request_router"]\ngrpc = "unix:/nothing"\nhttp = ""\n'
        '[services.embedding]\nencoder = "hashing"\n'
    )
    command = [sys.executable, "-m", "drw.kernel.runtime.process", "all", str(file)]
    with (tmp_path / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONWARNINGS": "ignore"})


async def test_a_job_is_part_of_the_trace_of_the_request_that_created_it(
    rag: Profile, caller: Principal, report: bytes
) -> None:
    with recorded() as spans:
        async with hosted(rag, SERVICES) as host:
            client = host.client(DocumentsClient)
            with acting_for(caller), telemetry.continuing(telemetry.incoming_context({"traceparent": PARENT})):
                file = await client.put_file(PutFileRequest(name="report.pdf", content=report))
                await client.index_file(IndexFileRequest(file=file.id, collection="traced"))
    (span,) = (span for span in spans.all() if span.name.startswith("index "))
    assert span.attributes is not None
    assert (f"{span.context.trace_id:032x}", span.attributes["drw.file"]) == (TRACE, file.id)
    for action in ("file.index", "document.put"):
        assert [record["trace_id"] for record in audit_records(rag, action)] == [TRACE]
