"""Puts files into collections: read, cut, embed, write; small files of one collection together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from opentelemetry.context import Context

from drw.api.rag.v1.embedding_pb2 import EmbedRequest, Vector
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_pb2 import Chunk as StoredChunk
from drw.api.rag.v1.vector_store_pb2 import Document, PutDocumentRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import DeadlineExceeded, DrwError, RateLimited, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.database import Database
from drw.rag.documents.chunking.chunks import Chunk, Chunker
from drw.rag.documents.chunking.document_context import subject
from drw.rag.documents.ingestion import attached_files, worker_liveness
from drw.rag.documents.ingestion.job_queue import MOST_ATTEMPTS, Attributes, Job, JobCounts, JobQueue
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParsedText, ParserPool
from drw.rag.documents.ports import INVALID, UNSUPPORTED, ParseFailed
from drw.rag.documents.storage.blob_store import BlobStore
from drw.rag.documents.storage.change_notifications import ChangeNotifications

log = logging.getLogger(__name__)

T = TypeVar("T")

TEXTS = 64
"""A request to embed: some seconds of work."""
EMBED_SECONDS = 300.0
PUT_SECONDS = 900.0
BUSY_TRIES = 60
IDLE_SECONDS = 5.0
"""How soon a job is seen whose worker died in another process: nobody announces those."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that is read and cut."""

    job: Job
    title: str
    text: ParsedText
    chunks: Sequence[Chunk]

    @property
    def pages(self) -> int:
        return len(self.text.pages)

    @property
    def counts(self) -> JobCounts:
        size = sum(len(chunk.text.encode()) for chunk in self.chunks)
        return JobCounts(self.pages, len(self.chunks), size, self.text.warnings)


class Indexer:
    """The work of one worker; several may run at once, here and in other processes."""

    def __init__(
        self,
        jobs: JobQueue,
        database: Database,
        changes: ChangeNotifications,
        content: BlobStore,
        reader: ParserPool,
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
        async with worker_liveness.worker(self._dsn, "documents") as worker:
            while True:
                mark = self._changes.mark()
                await worker.check()
                if jobs := await self._jobs.claim(worker.number):
                    await self._do(jobs)
                else:
                    await self._changes.after(mark, IDLE_SECONDS)

    async def _do(self, jobs: Sequence[Job]) -> None:
        """Index files that have one caller and one collection."""
        first = jobs[0]
        told = {"drw.file": first.file, "drw.attempt": first.attempts, "drw.files": len(jobs)}
        with (
            context.acting_for(first.caller),
            telemetry.continuing(_trace(first)),
            telemetry.span(f"index {first.collection}", attributes=told),
        ):
            parts = [part for job in jobs if (part := await self._attempt(job, self._read(job)))]
            if len(parts) > 1 and await self._finish_together(parts):
                return
            for part in parts:
                await self._attempt(part.job, self._finish([part]))

    async def _attempt(self, job: Job, work: Awaitable[T]) -> T | None:
        """Do a part of the work on one file; where it fails say why, or put the file off."""
        try:
            return await work
        except ParseFailed as error:
            code = error.code if error.code in {UNSUPPORTED, "server_error"} else INVALID
            await self._jobs.fail(job, code, error.message)
        except (Unavailable, RateLimited, DeadlineExceeded) as error:
            await self._again(job, error)
        except DrwError as error:
            await self._jobs.fail(job, "server_error", error.message)
        except Exception:
            log.exception("indexing %s failed", job.file)
            await self._jobs.fail(job, "server_error", "unexpected error; the log has more")
        return None

    async def _finish_together(self, parts: Sequence[_Part]) -> bool:
        """Embed and write several files; return False where one of them is at fault, nobody knows which."""
        try:
            await self._finish(parts)
        except (Unavailable, RateLimited, DeadlineExceeded) as error:
            for part in parts:
                await self._again(part.job, error)
        except DrwError as error:
            log.warning("%d files are indexed one by one: %s", len(parts), telemetry.loggable(error))
            return False
        return True

    async def _again(self, job: Job, error: DrwError) -> None:
        if job.attempts >= MOST_ATTEMPTS:
            await self._jobs.fail(job, "server_error", f"given up after {job.attempts} attempts: {error.message}")
            return
        log.warning("indexing %s is put off: %s", job.file, telemetry.loggable(error))
        seconds = await self._jobs.put_off(job)
        asyncio.get_running_loop().call_later(seconds, self._changes.nudge)

    async def _read(self, job: Job) -> _Part | None:
        """Read and cut a file; None where there is nothing left to do."""
        if job.attempts > MOST_ATTEMPTS:
            raise ParseFailed("given up: the service stopped each time it was at this file", "server_error")
        async with self._database.transaction() as connection:
            if await self._jobs.is_ours(connection, job) is None:
                return None
            if same := await self._jobs.same_content(connection, job):
                await self._jobs.complete(connection, job, same, unchanged=True)
                return None
        text = await self._reader.text(self._content.path(job.content_hash), file_types.kind_of(job.name))
        title = await attached_files.title(self._database, job.file, job.name)
        # In a thread: cutting a large file takes seconds, in which this process must answer others.
        return _Part(job, title, text, await asyncio.to_thread(self._cut, title, text))

    def _cut(self, title: str, text: ParsedText) -> list[Chunk]:
        pages = text.pages
        chunker = Chunker(subject(title, next((page for page in pages if page.strip()), "")))
        chunks: list[Chunk] = []
        for number, page in enumerate(pages, 1):
            chunks += chunker.page(number, page)
            if len(chunks) > self._most_chunks:
                raise ParseFailed(f"this file has more than {self._most_chunks:,} passages")
        if not chunks:
            raise ParseFailed(": ".join(["this file has no text", *text.warnings[:1]]), UNSUPPORTED)
        return chunks

    async def _finish(self, parts: Sequence[_Part]) -> None:
        await self._write(parts, await self._embed(parts))

    async def _embed(self, parts: Sequence[_Part]) -> dict[str, Vector]:
        """Return the vector of each different text."""
        texts = list(dict.fromkeys(_embedded(chunk) for part in parts for chunk in part.chunks))
        vectors: dict[str, Vector] = {}
        for start in range(0, len(texts), TEXTS):
            some = texts[start : start + TEXTS]
            request = EmbedRequest(texts=some, long_text=EmbedRequest.AVERAGE)
            vectors |= zip(some, await self._embed_patiently(request), strict=True)
            if len(parts) == 1 and len(texts) > TEXTS:
                await self._jobs.report(parts[0].job, JobCounts(parts[0].pages, len(vectors)))
        return vectors

    async def _embed_patiently(self, request: EmbedRequest) -> Sequence[Vector]:
        """Embed; where the service is busy wait for it, rather than begin the whole file anew."""
        for _ in range(BUSY_TRIES):
            try:
                return (await self._embedding.embed(request, timeout=EMBED_SECONDS)).vectors
            except RateLimited:
                await asyncio.sleep(1)
        return (await self._embedding.embed(request, timeout=EMBED_SECONDS)).vectors

    async def _write(self, parts: Sequence[_Part], vectors: Mapping[str, Vector]) -> None:
        """Write the documents and that they are done.

        The rows of the attachments stay locked meanwhile: who deletes a file waits, and then deletes
        the document too; who was faster has removed the row, and nothing is written.
        """
        async with self._database.transaction() as connection:
            for part in parts:
                if (attributes := await self._jobs.is_ours(connection, part.job)) is None:
                    continue
                request = _request(part, attributes, vectors)
                with telemetry.continuing(_trace(part.job)):
                    await self._store.put_document(request, timeout=PUT_SECONDS)
                    await self._jobs.complete(connection, part.job, part.counts, unchanged=False)


def _trace(job: Job) -> Context:
    return telemetry.incoming_context({"traceparent": job.trace})


def _embedded(chunk: Chunk) -> str:
    return f"{chunk.context}\n{chunk.text}"


def _request(part: _Part, attributes: Attributes, vectors: Mapping[str, Vector]) -> PutDocumentRequest:
    job = part.job
    stored = [
        StoredChunk(
            number=number,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            text=chunk.text,
            context=chunk.context,
            vector=vectors[_embedded(chunk)],
        )
        for number, chunk in enumerate(part.chunks)
    ]
    document = Document(
        id=job.file,
        title=part.title,
        content_hash=job.content_hash,
        pages=part.pages,
        chunks=len(stored),
        attributes=to_values(attributes.values),
        attributes_version=attributes.version,
        walls=job.walls,
    )
    return PutDocumentRequest(collection=job.collection, document=document, chunks=stored)
