"""Turns documents into passages and indexes them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.rag.v1 import documents_rpc as contract
from drw.api.rag.v1.documents_pb2 import (
    File,
    GetFileRequest,
    IndexFileRequest,
    Indexing,
    IndexingProgress,
    PutFileRequest,
    ReadTextRequest,
    ReadTextResponse,
    WatchIndexingRequest,
)
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import from_values
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.rag.documents.api.files import FileRoutes
from drw.rag.documents.api.vector_stores import VectorStoreRoutes
from drw.rag.documents.ingestion.attribute_updates import AttributeUpdates
from drw.rag.documents.ingestion.indexing import Indexer
from drw.rag.documents.ingestion.job_queue import JobQueue
from drw.rag.documents.library import READ, DocumentLibrary
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.settings import Settings
from drw.rag.documents.storage import files
from drw.rag.documents.storage.blob_store import BlobStore
from drw.rag.documents.storage.change_notifications import ChangeNotifications
from drw.rag.documents.storage.files import Files
from drw.rag.documents.storage.vector_store_files import VectorStoreFiles


class Documents(contract.Documents):
    """Serves `drw.api.rag.v1.Documents`."""

    def __init__(self, shelf: DocumentLibrary) -> None:
        self._shelf = shelf

    async def put_file(self, request: PutFileRequest, /) -> File:
        context.caller().must_hold("documents:write")
        name = file_types.checked_name(request.name)
        with self._shelf.content.receiving() as incoming:
            incoming.write(request.content)
            return _file(await self._shelf.put(incoming, name, request.purpose or READ, request.walls))

    async def get_file(self, request: GetFileRequest, /) -> File:
        context.caller().must_hold("documents:read")
        return _file(await self._shelf.files.get(request.file))

    async def read_text(self, request: ReadTextRequest, /) -> ReadTextResponse:
        context.caller().must_hold("documents:read")
        if (most := request.max_characters) < 0:
            raise InvalidRequest(f"max_characters is {most}; it must be 0 for all, or more", param="max_characters")
        file = await self._shelf.files.get(request.file)
        pages = await self._shelf.text(file, enough=most + 1 if most else 0)
        answer = ReadTextResponse()
        left = most or sum(map(len, pages))
        for page in pages:
            if left <= 0:
                break
            answer.pages.append(page[:left])
            left -= len(page)
        answer.truncated = bool(most) and sum(map(len, pages)) > most
        return answer

    async def index_file(self, request: IndexFileRequest, /) -> Indexing:
        context.caller().must_hold("documents:write")
        file = await self._shelf.files.get(request.file)
        collection = await self._shelf.make_collection(request.collection)
        attributes = from_values(request.attributes)
        found, unchanged = await self._shelf.index(collection, file, attributes, request.walls)
        return Indexing(
            file=file.id,
            collection=collection.id,
            state=found.state.upper(),
            error=found.error,
            pages=found.pages,
            chunks=found.chunks,
            unchanged=unchanged and found.state == "completed",
        )

    async def watch_indexing(self, request: WatchIndexingRequest, /) -> AsyncIterator[IndexingProgress]:
        context.caller().must_hold("documents:read")
        collection = await self._shelf.collection(request.collection)
        async for progress in self._shelf.watch(collection.id):
            yield IndexingProgress(
                in_progress=progress.in_progress,
                completed=progress.completed,
                failed=progress.failed,
                pages=progress.pages,
                chunks=progress.chunks,
            )

    async def describe(self) -> str:
        """Return what the status shows."""
        return f"{await self._shelf.attachments.all_in_progress()} files in progress"


async def build(scope: ServiceContext) -> Documents:
    """Make the service with what the configuration names."""
    own = scope.settings(Settings)
    database = await scope.database(pool_size=8)
    content = BlobStore(scope.folder, own.most_file_bytes)
    audit = scope.audit()
    reader = ParserPool(own)
    changes = ChangeNotifications(database)
    kept = Files(database, content, audit)
    store = scope.client(VectorStoreClient)
    updates = AttributeUpdates(database, store)
    shelf = DocumentLibrary(database, kept, VectorStoreFiles(database), content, reader, changes, store, updates, audit)
    indexer = Indexer(
        JobQueue(database, audit),
        *(database, changes, content, reader),
        *(scope.client(EmbeddingClient), store),
        dsn=scope.profile.postgres,
        most_chunks=own.most_passages,
    )
    scope.background(changes.follow)
    scope.background(kept.remove_orphans)
    scope.background(updates.sweep)
    for _ in range(own.indexers):
        scope.background(indexer.work)
    scope.on_stop(reader.stop)
    scope.routes += FileRoutes(shelf, own.most_file_bytes).routes()
    scope.routes += VectorStoreRoutes(shelf).routes()
    service = Documents(shelf)
    scope.describe(service.describe)
    return service


def _file(found: files.File) -> File:
    created_at = Timestamp()
    created_at.FromDatetime(found.created_at)
    return File(
        id=found.id,
        name=found.name,
        bytes=found.bytes,
        content_hash=found.content_hash,
        purpose=found.purpose,
        created_at=created_at,
        walls=found.walls,
    )
