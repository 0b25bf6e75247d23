"""Indexing workers: parse, chunk and embed files, and store their documents; small files in batches.

No transaction and no pooled connection is held while a file is parsed or another service is called. Writes are fenced
by the lease of the job: see `job_queue`.
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
from drw.kernel.storage.change_notifications import ChangeNotifications
from drw.kernel.storage.database import Database
from drw.rag.documents.chunking.chunks import Chunk, Chunker
from drw.rag.documents.chunking.document_context import subject
from drw.rag.documents.ingestion import attachments, worker_lease
from drw.rag.documents.ingestion.job_queue import MAX_ATTEMPTS, Attributes, Job, JobCounts, JobQueue
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParsedText, ParserPool
from drw.rag.documents.ports import INVALID, UNSUPPORTED, ParseFailed
from drw.rag.documents.storage.blob_store import BlobStore

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_EMBED_TEXTS = 64
"""Of one embedding request, which takes some seconds."""
EMBED_SECONDS = 300.0
PUT_SECONDS = 900.0
MAX_BUSY_RETRIES = 60
IDLE_SECONDS = 5.0
"""Polling interval of an idle worker, for jobs of dead workers, which have no notification."""


@dataclass(frozen=True, slots=True)
class _ParsedFile:
    """A parsed file with its chunks."""

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
    """Indexing worker; several run concurrently, in this and in other processes."""

    def __init__(
        self,
        jobs: JobQueue,
        database: Database,
        notifications: ChangeNotifications,
        blobs: BlobStore,
        parsers: ParserPool,
        embedding: EmbeddingClient,
        vector_store: VectorStoreClient,
        *,
        max_chunks: int,
    ) -> None:
        self._jobs = jobs
        self._database = database
        self._notifications = notifications
        self._blobs = blobs
        self._parsers = parsers
        self._embedding = embedding
        self._vector_store = vector_store
        self._max_chunks = max_chunks

    async def work(self) -> None:
        """Claim and process jobs until cancelled.

        Raises:
            Unavailable: the worker has lost its lease; the caller starts it again.
        """
        async with worker_lease.acquired(self._database) as lease:
            await lease.run(self._process_jobs(lease.number))

    async def _process_jobs(self, worker: int) -> None:
        while True:
            change = self._notifications.next_change()
            if jobs := await self._jobs.claim(worker):
                await self._index_jobs(jobs)
            else:
                await self._notifications.wait(change, IDLE_SECONDS)

    async def _index_jobs(self, jobs: Sequence[Job]) -> None:
        """Index the files of one claim: they have the same caller and collection."""
        first = jobs[0]
        span_attributes = {"drw.file": first.file, "drw.attempt": first.attempts, "drw.files": len(jobs)}
        with (
            context.acting_for(first.caller),
            telemetry.continuing(_trace(first)),
            telemetry.span(f"index {first.collection}", attributes=span_attributes),
        ):
            files = [file for job in jobs if (file := await self._run_step(job, self._parse(job)))]
            if len(files) > 1 and await self._embed_and_store_batch(files):
                return
            for file in files:
                await self._run_step(file.job, self._embed_and_store([file]))

    async def _run_step(self, job: Job, step: Awaitable[T]) -> T | None:
        """Run a step of one job; on an error, fail the job or release it for a retry."""
        try:
            return await step
        except ParseFailed as error:
            code = error.code if error.code in {UNSUPPORTED, "server_error"} else INVALID
            await self._jobs.fail(job, code, error.message)
        except (Unavailable, RateLimited, DeadlineExceeded) as error:
            await self._retry_or_fail(job, error)
        except DrwError as error:
            await self._jobs.fail(job, "server_error", error.message)
        except Exception:  # a bug fails one file, and must not end the indexer
            log.exception("indexing %s failed", job.file)
            await self._jobs.fail(job, "server_error", "unexpected error; see the log of the documents service")
        return None

    async def _embed_and_store_batch(self, files: Sequence[_ParsedFile]) -> bool:
        """Embed and store several files; return False if they must be stored one by one, to find the one that fails."""
        try:
            await self._embed_and_store(files)
        except (Unavailable, RateLimited, DeadlineExceeded) as error:
            for file in files:
                await self._retry_or_fail(file.job, error)
        except DrwError as error:
            log.warning("%d files are indexed one by one: %s", len(files), telemetry.loggable(error))
            return False
        return True

    async def _retry_or_fail(self, job: Job, error: DrwError) -> None:
        if job.attempts >= MAX_ATTEMPTS:
            await self._jobs.fail(job, "server_error", f"given up after {job.attempts} attempts: {error.message}")
            return
        log.warning("indexing %s will be retried: %s", job.file, telemetry.loggable(error))
        seconds = await self._jobs.release(job)
        asyncio.get_running_loop().call_later(seconds, self._notifications.wake)

    async def _parse(self, job: Job) -> _ParsedFile | None:
        """Parse a file and split it into chunks; return None if the job is already completed."""
        if job.attempts > MAX_ATTEMPTS:
            raise ParseFailed(f"given up: indexing this file was interrupted {MAX_ATTEMPTS} times", "server_error")
        if await self._jobs.complete_unchanged(job):
            return None
        text = await self._parsers.text(self._blobs.path(job.content_hash), file_types.extension_of(job.name))
        title = await attachments.title(self._database, job.file, job.name)
        # In a thread: chunking a large file takes seconds.
        return _ParsedFile(job, title, text, await asyncio.to_thread(self._chunk, title, text))

    def _chunk(self, title: str, text: ParsedText) -> list[Chunk]:
        pages = text.pages
        chunker = Chunker(subject(title, next((page for page in pages if page.strip()), "")))
        chunks: list[Chunk] = []
        for number, page in enumerate(pages, 1):
            chunks += chunker.page(number, page)
            if len(chunks) > self._max_chunks:
                raise ParseFailed(f"this file has more than {self._max_chunks:,} chunks")
        if not chunks:
            raise ParseFailed(": ".join(["this file has no text", *text.warnings[:1]]), UNSUPPORTED)
        return chunks

    async def _embed_and_store(self, files: Sequence[_ParsedFile]) -> None:
        vectors = await self._embed(files)
        for file in files:
            await self._store(file, vectors)

    async def _embed(self, files: Sequence[_ParsedFile]) -> dict[str, Vector]:
        """Return a vector for each distinct text."""
        texts = list(dict.fromkeys(_embedding_text(chunk) for file in files for chunk in file.chunks))
        vectors: dict[str, Vector] = {}
        for start in range(0, len(texts), MAX_EMBED_TEXTS):
            batch = texts[start : start + MAX_EMBED_TEXTS]
            request = EmbedRequest(texts=batch, long_text=EmbedRequest.AVERAGE)
            vectors |= zip(batch, await self._embed_with_retries(request), strict=True)
            if len(files) == 1 and len(texts) > MAX_EMBED_TEXTS:
                await self._jobs.report_progress(files[0].job, JobCounts(files[0].pages, len(vectors)))
        return vectors

    async def _embed_with_retries(self, request: EmbedRequest) -> Sequence[Vector]:
        """Embed texts; wait while the service is busy: a failed job would parse its file again."""
        for _ in range(MAX_BUSY_RETRIES):
            try:
                return (await self._embedding.embed(request, timeout=EMBED_SECONDS)).vectors
            except RateLimited:
                await asyncio.sleep(1)
        return (await self._embedding.embed(request, timeout=EMBED_SECONDS)).vectors

    async def _store(self, file: _ParsedFile, vectors: Mapping[str, Vector]) -> None:
        """Store a document, update its attributes if they changed meanwhile, and complete the job.

        A file that is deleted meanwhile leaves no document: its deletion has a higher fencing token.
        """
        if (attributes := await self._jobs.attributes(file.job)) is None:
            return
        with telemetry.continuing(_trace(file.job)):
            await self._vector_store.put_document(_put_request(file, attributes, vectors), timeout=PUT_SECONDS)
            while current := await self._jobs.complete(file.job, file.counts, attributes.version):
                attributes = current
                update = UpdateDocumentAttributesRequest(
                    collection=file.job.collection, document=_document(file, attributes), fence=file.job.lease
                )
                await self._vector_store.update_document_attributes(update, timeout=PUT_SECONDS)


def _trace(job: Job) -> Context:
    return telemetry.incoming_context({"traceparent": job.trace})


def _embedding_text(chunk: Chunk) -> str:
    return f"{chunk.context}\n{chunk.text}"


def _document(file: _ParsedFile, attributes: Attributes) -> Document:
    return Document(
        id=file.job.file,
        title=file.title,
        content_hash=file.job.content_hash,
        pages=file.pages,
        chunks=len(file.chunks),
        attributes=to_values(attributes.values),
        attributes_version=attributes.version,
        walls=file.job.walls,
    )


def _put_request(file: _ParsedFile, attributes: Attributes, vectors: Mapping[str, Vector]) -> PutDocumentRequest:
    chunks = [
        StoredChunk(
            number=number,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            text=chunk.text,
            context=chunk.context,
            vector=vectors[_embedding_text(chunk)],
        )
        for number, chunk in enumerate(file.chunks)
    ]
    return PutDocumentRequest(
        collection=file.job.collection, document=_document(file, attributes), chunks=chunks, fence=file.job.lease
    )
