"""Puts files into collections: read, cut, embed, write; one job after the other, whatever interrupts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from drw.api.rag.v1.embedding_pb2 import EmbedRequest, Vector
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_pb2 import Chunk as StoredChunk
from drw.api.rag.v1.vector_store_pb2 import Document, PutDocumentRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel import call, telemetry
from drw.kernel.database import Database
from drw.kernel.errors import DeadlineExceeded, DrwError, RateLimited, Unavailable
from drw.rag.documents import kinds, presence
from drw.rag.documents.changes import Changes
from drw.rag.documents.chunks import Chunk, Chunker
from drw.rag.documents.content import Content
from drw.rag.documents.jobs import MOST_ATTEMPTS, Counts, Job, Jobs
from drw.rag.documents.ports import UNSUPPORTED, Refused
from drw.rag.documents.reading import Reader
from drw.rag.documents.subject import subject

log = logging.getLogger(__name__)

TEXTS = 64
"""A request to embed: some seconds of work."""
EMBED_SECONDS = 300.0
PUT_SECONDS = 900.0
BUSY_TRIES = 60
IDLE_SECONDS = 5.0
"""How soon a job is seen whose worker died in another process: nobody announces those."""


class Indexer:
    """The work of one worker; several may run at once, here and in other processes."""

    def __init__(
        self,
        jobs: Jobs,
        database: Database,
        changes: Changes,
        content: Content,
        reader: Reader,
        embedding: EmbeddingClient,
        store: VectorStoreClient,
        *,
        dsn: str,
        most_chunks: int,
    ) -> None:
        self._jobs = jobs
        self._database = database
        self._changes = changes
        self._content = content
        self._reader = reader
        self._embedding = embedding
        self._store = store
        self._dsn = dsn
        self._most_chunks = most_chunks

    async def work(self) -> None:
        """Do jobs, until cancelled."""
        async with presence.worker(self._dsn, "documents") as worker:
            while True:
                mark = self._changes.mark()
                await worker.check()
                if job := await self._jobs.claim(worker.number):
                    trace = telemetry.incoming_context({"traceparent": job.trace})
                    with call.acting_for(job.caller), telemetry.continuing(trace):
                        await self._do(job)
                else:
                    await self._changes.after(mark, IDLE_SECONDS)

    async def _do(self, job: Job) -> None:
        told = {"drw.file": job.file, "drw.attempt": job.attempts}
        try:
            with telemetry.span(f"index {job.collection}", attributes=told):
                await self._index(job)
        except Refused as error:
            await self._jobs.fail(job, error.code, error.message)
        except (Unavailable, RateLimited, DeadlineExceeded) as error:
            await self._again(job, error)
        except DrwError as error:
            await self._jobs.fail(job, "server_error", error.message)
        except Exception:
            log.exception("indexing %s failed", job.file)
            await self._jobs.fail(job, "server_error", "unexpected error; the log has more")

    async def _again(self, job: Job, error: DrwError) -> None:
        if job.attempts >= MOST_ATTEMPTS:
            await self._jobs.fail(job, "server_error", f"given up after {job.attempts} attempts: {error.message}")
            return
        log.warning("indexing %s is put off: %s", job.file, telemetry.loggable(error))
        seconds = await self._jobs.put_off(job)
        asyncio.get_running_loop().call_later(seconds, self._changes.nudge)

    async def _index(self, job: Job) -> None:
        if job.attempts > MOST_ATTEMPTS:
            raise Refused("given up: the service stopped each time it was at this file", "server_error")
        if same := await self._jobs.same_content(job):
            async with self._database.transaction() as connection:
                if await self._jobs.is_ours(connection, job):
                    await self._jobs.complete(connection, job, same, unchanged=True)
            return
        pages = await self._reader.pages(self._content.path(job.content_hash), kinds.kind_of(job.name))
        chunks = self._cut(job, pages)
        await self._jobs.report(job, Counts(len(pages)))
        vectors = await self._embed(job, len(pages), chunks)
        await self._write(job, len(pages), chunks, vectors)

    def _cut(self, job: Job, pages: Sequence[str]) -> list[Chunk]:
        chunker = Chunker(subject(job.name, next((page for page in pages if page.strip()), "")))
        chunks: list[Chunk] = []
        for number, page in enumerate(pages, 1):
            chunks += chunker.page(number, page)
            if len(chunks) > self._most_chunks:
                raise Refused(f"this file has more than {self._most_chunks:,} passages")
        if not chunks:
            raise Refused("this file has no text; if it is scanned, run text recognition over it first", UNSUPPORTED)
        return chunks

    async def _embed(self, job: Job, pages: int, chunks: Sequence[Chunk]) -> list[Vector]:
        vectors: list[Vector] = []
        for start in range(0, len(chunks), TEXTS):
            texts = [f"{c.context}\n{c.text}" for c in chunks[start : start + TEXTS]]
            request = EmbedRequest(texts=texts, long_text=EmbedRequest.AVERAGE)
            vectors += await self._embed_patiently(request)
            await self._jobs.report(job, Counts(pages, len(vectors)))
        return vectors

    async def _embed_patiently(self, request: EmbedRequest) -> Sequence[Vector]:
        """Embed; where the service is busy wait for it, rather than begin the whole file anew."""
        for _ in range(BUSY_TRIES):
            try:
                return (await self._embedding.embed(request, timeout=EMBED_SECONDS)).vectors
            except RateLimited:
                await asyncio.sleep(1)
        return (await self._embedding.embed(request, timeout=EMBED_SECONDS)).vectors

    async def _write(self, job: Job, pages: int, chunks: Sequence[Chunk], vectors: Sequence[Vector]) -> None:
        """Write the document and that it is done.

        The row of the attachment stays locked meanwhile: who deletes the file waits, and then deletes
        the document too; who was faster has removed the row, and nothing is written.
        """
        counts = Counts(pages, len(chunks), sum(len(c.text.encode()) for c in chunks))
        async with self._database.transaction() as connection:
            if not await self._jobs.is_ours(connection, job):
                return
            await self._store.put_document(_request(job, pages, chunks, vectors), timeout=PUT_SECONDS)
            await self._jobs.complete(connection, job, counts, unchanged=False)


def as_texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return attributes as the vector store keeps them: as text, true and false in small letters."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in attributes.items()}


def _request(job: Job, pages: int, chunks: Sequence[Chunk], vectors: Sequence[Vector]) -> PutDocumentRequest:
    stored = [
        StoredChunk(
            number=number,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            text=chunk.text,
            context=chunk.context,
            vector=vector,
        )
        for number, (chunk, vector) in enumerate(zip(chunks, vectors, strict=True))
    ]
    document = Document(
        id=job.file,
        title=job.name,
        content_hash=job.content_hash,
        pages=pages,
        chunks=len(stored),
        attributes=as_texts(job.attributes),
    )
    return PutDocumentRequest(collection=job.collection, document=document, chunks=stored)
