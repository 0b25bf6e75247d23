"""Indexing workers: parse a file, cut it into chunks, embed them, store the document; small files together.

No transaction and no pooled connection is held while a file is parsed or another service is called. The lease of a job
fences what is written: see `job_queue`.
"""

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
from drw.api.rag.v1.vector_store_pb2 import Document, PutDocumentRequest, UpdateDocumentAttributesRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import DeadlineExceeded, DrwError, RateLimited, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.database import Database
from drw.rag.documents.chunking.chunks import Chunk, Chunker
from drw.rag.documents.chunking.document_context import subject
from drw.rag.documents.ingestion import attached_files, worker_lease
from drw.rag.documents.ingestion.job_queue import MAX_ATTEMPTS, Attributes, Job, JobCounts, JobQueue
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
        vector_store: VectorStoreClient,
        *,
        max_chunks: int,
    ) -> None:
        self._jobs = jobs
        self._database = database
        self._changes = changes
        self._content = content
        self._reader = reader
        self._embedding = embedding
        self._vector_store = vector_store
        self._max_chunks = max_chunks

    async def work(self) -> None:
        """Claim jobs and do them, until cancelled.

        Raises:
            Unavailable: the worker has lost its lease; call again.
        """
        async with worker_lease.acquired(self._database) as lease:
            await lease.run(self._work(lease.number))

    async def _work(self, worker: int) -> None:
        while True:
            mark = self._changes.mark()
            if jobs := await self._jobs.claim(worker):
                await self._index(jobs)
            else:
                await self._changes.after(mark, IDLE_SECONDS)

    async def _index(self, jobs: Sequence[Job]) -> None:
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
        if job.attempts >= MAX_ATTEMPTS:
            await self._jobs.fail(job, "server_error", f"given up after {job.attempts} attempts: {error.message}")
            return
        log.warning("indexing %s will be retried: %s", job.file, telemetry.loggable(error))
        seconds = await self._jobs.release(job)
        asyncio.get_running_loop().call_later(seconds, self._changes.nudge)

    async def _read(self, job: Job) -> _Part | None:
        """Parse a file and cut it into chunks; None if nothing is left to do."""
        if job.attempts > MAX_ATTEMPTS:
            raise ParseFailed(f"given up: indexing this file was interrupted {MAX_ATTEMPTS} times", "server_error")
        if await self._jobs.complete_unchanged(job):
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
            if len(chunks) > self._max_chunks:
                raise ParseFailed(f"this file has more than {self._max_chunks:,} passages")
        if not chunks:
            raise ParseFailed(": ".join(["this file has no text", *text.warnings[:1]]), UNSUPPORTED)
        return chunks

    async def _finish(self, parts: Sequence[_Part]) -> None:
        vectors = await self._embed(parts)
        for part in parts:
            await self._store(part, vectors)

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

    async def _store(self, part: _Part, vectors: Mapping[str, Vector]) -> None:
        """Store a document, then complete its job; update the document first if its attributes change meanwhile.

        A file that is deleted meanwhile leaves nothing: its deletion has a higher fence than the document.
        """
        if (attributes := await self._jobs.attributes(part.job)) is None:
            return
        with telemetry.continuing(_trace(part.job)):
            await self._vector_store.put_document(_request(part, attributes, vectors), timeout=PUT_SECONDS)
            while changed := await self._jobs.complete(part.job, part.counts, attributes.version):
                attributes = changed
                update = UpdateDocumentAttributesRequest(
                    collection=part.job.collection, document=_document(part, attributes), fence=part.job.lease
                )
                await self._vector_store.update_document_attributes(update, timeout=PUT_SECONDS)


def _trace(job: Job) -> Context:
    return telemetry.incoming_context({"traceparent": job.trace})


def _embedded(chunk: Chunk) -> str:
    return f"{chunk.context}\n{chunk.text}"


def _document(part: _Part, attributes: Attributes) -> Document:
    return Document(
        id=part.job.file,
        title=part.title,
        content_hash=part.job.content_hash,
        pages=part.pages,
        chunks=len(part.chunks),
        attributes=to_values(attributes.values),
        attributes_version=attributes.version,
        walls=part.job.walls,
    )


def _request(part: _Part, attributes: Attributes, vectors: Mapping[str, Vector]) -> PutDocumentRequest:
    chunks = [
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
    return PutDocumentRequest(
        collection=part.job.collection, document=_document(part, attributes), chunks=chunks, fence=part.job.lease
    )
