"""Documents service: stores, parses, chunks and indexes files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.rag.v1 import documents_rpc as contract
from drw.api.rag.v1.documents_pb2 import (
    File,
    FinishUploadRequest,
    GetFileRequest,
    IndexFileRequest,
    Indexing,
    IndexingProgress,
    PutFileRequest,
    ReadContentRequest,
    ReadContentResponse,
    ReadTextRequest,
    ReadTextResponse,
    WatchIndexingRequest,
    WriteUploadRequest,
    WriteUploadResponse,
)
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.events.publisher import create_tables
from drw.kernel.attributes import from_values
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.change_notifications import ChangeNotifications
from drw.rag.documents.api.files import FileRoutes
from drw.rag.documents.api.vector_stores import VectorStoreRoutes
from drw.rag.documents.file_contents import ASSISTANTS, FileContents
from drw.rag.documents.ingestion.attribute_updates import AttributeUpdates
from drw.rag.documents.ingestion.deletion_relay import DeletionRelay
from drw.rag.documents.ingestion.indexing import Indexer
from drw.rag.documents.ingestion.job_queue import JobQueue
from drw.rag.documents.library import DocumentLibrary
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.settings import Settings
from drw.rag.documents.storage import files
from drw.rag.documents.storage.blob_store import BlobStore
from drw.rag.documents.storage.deletions import FILES_CHANGED, Deletions
from drw.rag.documents.storage.files import Files
from drw.rag.documents.storage.uploads import Uploads
from drw.rag.documents.storage.vector_store_files import VectorStoreFiles


class Documents(contract.Documents):
    """Serves `drw.api.rag.v1.Documents`."""

    def __init__(
        self,
        library: DocumentLibrary,
        files: Files,
        contents: FileContents,
        blobs: BlobStore,
        uploads: Uploads,
        vector_store_files: VectorStoreFiles,
    ) -> None:
        self._uploads = uploads
        self._library = library
        self._files = files
        self._contents = contents
        self._blobs = blobs
        self._vector_store_files = vector_store_files

    async def put_file(self, request: PutFileRequest, /) -> File:
        context.caller().require_scope("documents:write")
        name = file_types.validate_name(request.name)
        with self._blobs.receiving() as upload:
            upload.write(request.content)
            return _file(await self._contents.store(upload, name, request.purpose or ASSISTANTS, request.walls))

    async def get_file(self, request: GetFileRequest, /) -> File:
        context.caller().require_scope("documents:read")
        return _file(await self._files.get(request.file))

    async def read_text(self, request: ReadTextRequest, /) -> ReadTextResponse:
        context.caller().require_scope("documents:read")
        limit = request.max_characters
        file = await self._files.get(request.file)
        pages = await self._contents.text(file, limit + 1 if limit else 0)
        response = ReadTextResponse()
        length = sum(map(len, pages))
        remaining = limit or length
        for page in pages:
            if remaining <= 0:
                break
            response.pages.append(page[:remaining])
            remaining -= len(page)
        response.truncated = bool(limit) and length > limit
        return response

    async def read_content(self, request: ReadContentRequest, /) -> ReadContentResponse:
        context.caller().require_scope("documents:read")
        file = await self._files.get(request.file)
        path = self._blobs.path(file.content_hash)
        try:
            content = await asyncio.to_thread(_read_part, path, request.offset, request.length)
        except FileNotFoundError:  # deleted since
            raise files.file_not_found(request.file) from None
        return ReadContentResponse(content=content)

    async def write_upload(self, request: WriteUploadRequest, /) -> WriteUploadResponse:
        context.caller().require_scope("documents:write")
        await self._uploads.write(request.upload, request.offset, request.content)
        return WriteUploadResponse()

    async def finish_upload(self, request: FinishUploadRequest, /) -> File:
        context.caller().require_scope("documents:write")
        name = file_types.validate_name(request.name)
        return _file(
            await self._uploads.finish(request.upload, name, request.purpose, request.content_hash, request.walls)
        )

    async def index_file(self, request: IndexFileRequest, /) -> Indexing:
        context.caller().require_scope("documents:write")
        file = await self._files.get(request.file)
        collection = await self._library.get_or_create_collection(request.collection)
        attributes = from_values(request.attributes)
        record, unchanged = await self._library.index(collection, file, attributes, request.walls)
        return Indexing(
            file=file.id,
            collection=collection.id,
            state=record.state.upper(),
            error=record.error,
            pages=record.pages,
            chunks=record.chunks,
            unchanged=unchanged and record.state == "completed",
        )

    async def watch_indexing(self, request: WatchIndexingRequest, /) -> AsyncIterator[IndexingProgress]:
        context.caller().require_scope("documents:read")
        collection = await self._library.collection(request.collection)
        async for progress in self._library.watch(collection.id):
            yield IndexingProgress(
                in_progress=progress.in_progress,
                completed=progress.completed,
                failed=progress.failed,
                pages=progress.pages,
                chunks=progress.chunks,
            )

    async def describe(self) -> str:
        """Return the detail line of the status."""
        return f"{await self._vector_store_files.all_in_progress()} files in progress"


async def build(scope: ServiceContext) -> Documents:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database(pool_size=8)
    await create_tables(database)
    audit = scope.audit()
    vector_store = scope.client(VectorStoreClient)
    blobs = BlobStore(scope.folder, settings.max_file_bytes)
    parsers = ParserPool(settings)
    notifications = ChangeNotifications(database, FILES_CHANGED)
    files = Files(database, blobs, audit)
    contents = FileContents(files, blobs, parsers)
    vector_store_files = VectorStoreFiles(database)
    attribute_updates = AttributeUpdates(database, vector_store)
    deletion_relay = DeletionRelay(Deletions(database), vector_store)
    library = DocumentLibrary(
        database, files, vector_store_files, notifications, vector_store, attribute_updates, deletion_relay, audit
    )
    indexer = Indexer(
        JobQueue(database, audit),
        database,
        notifications,
        blobs,
        parsers,
        scope.client(EmbeddingClient),
        vector_store,
        max_chunks=settings.max_chunks,
    )
    scope.background(notifications.listen)
    scope.background(files.remove_orphans)
    scope.background(attribute_updates.sweep)
    scope.background(deletion_relay.sweep)
    for _ in range(settings.indexers):
        scope.background(indexer.work)
    scope.on_stop(parsers.stop)
    scope.routes += FileRoutes(library, files, contents, blobs, settings.max_file_bytes).routes()
    scope.routes += VectorStoreRoutes(library, files, contents, vector_store_files, vector_store).routes()
    uploads = Uploads(files, blobs, settings.max_file_bytes)
    service = Documents(library, files, contents, blobs, uploads, vector_store_files)
    scope.describe(service.describe)
    return service


def _read_part(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _file(record: files.File) -> File:
    created_at = Timestamp()
    created_at.FromDatetime(record.created_at)
    return File(
        id=record.id,
        name=record.name,
        bytes=record.bytes,
        content_hash=record.content_hash,
        purpose=record.purpose,
        created_at=created_at,
        walls=record.walls,
    )
