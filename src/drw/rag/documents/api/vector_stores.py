"""OpenAI's Vector Stores API: `/v1/vector_stores`, with files and batches; the retrieval service serves search."""

from __future__ import annotations

import secrets
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drw.api.rag.v1.vector_store_pb2 import (
    Collection,
    CreateCollectionRequest,
    ListCollectionsRequest,
    UpdateCollectionRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.http.request_models import read_model
from drw.kernel.rpc.http.server import read_body
from drw.rag.documents.api import openai_objects, request_bodies
from drw.rag.documents.api.files import json_response
from drw.rag.documents.api.pagination import parse_page
from drw.rag.documents.file_contents import FileContents
from drw.rag.documents.library import DocumentLibrary
from drw.rag.documents.storage.files import Files
from drw.rag.documents.storage.vector_store_files import STATES, IndexingProgress, VectorStoreFiles

MAX_COLLECTIONS = 10_000
STORE = "/v1/vector_stores/{store}"
FILE = f"{STORE}/files/{{file}}"
BATCH = f"{STORE}/file_batches/{{batch}}"

B = TypeVar("B", bound=request_bodies.VectorStoreBody)


class VectorStoreRoutes:
    """Handlers of `/v1/vector_stores`."""

    def __init__(
        self,
        library: DocumentLibrary,
        files: Files,
        contents: FileContents,
        vector_store_files: VectorStoreFiles,
        vector_store: VectorStoreClient,
    ) -> None:
        self._library = library
        self._files = files
        self._contents = contents
        self._vector_store_files = vector_store_files
        self._vector_store = vector_store

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/vector_stores", self.create, methods=["POST"]),
            Route("/v1/vector_stores", self.list_stores, methods=["GET"]),
            Route(STORE, self.get, methods=["GET"]),
            Route(STORE, self.update, methods=["POST"]),
            Route(STORE, self.delete, methods=["DELETE"]),
            Route(f"{STORE}/files", self.create_file, methods=["POST"]),
            Route(f"{STORE}/files", self.list_files, methods=["GET"]),
            Route(FILE, self.get_file, methods=["GET"]),
            Route(FILE, self.update_file, methods=["POST"]),
            Route(FILE, self.delete_file, methods=["DELETE"]),
            Route(f"{FILE}/content", self.file_content, methods=["GET"]),
            Route(f"{STORE}/file_batches", self.create_batch, methods=["POST"]),
            Route(BATCH, self.get_batch, methods=["GET"]),
            Route(f"{BATCH}/files", self.list_batch, methods=["GET"]),
            Route(f"{BATCH}/cancel", self.cancel_batch, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Create a vector store, and add the given files to it."""
        context.caller().require_scope("documents:write")
        body = await _body(request, request_bodies.CreateVectorStore)
        files = [await self._files.get(id_) for id_ in body.file_ids or ()]
        name = body.name or f"vector-store-{secrets.token_hex(4)}"
        requested_walls = body.walls or []
        collection = await self._vector_store.create_collection(
            CreateCollectionRequest(name=name, metadata=body.metadata or {}, walls=requested_walls)
        )
        for file in files:
            await self._library.attach(collection, file, {}, requested_walls)
        return await self._store_response(collection)

    async def list_stores(self, request: Request) -> Response:
        """Return a page of the desk's vector stores."""
        context.caller().require_scope("documents:read")
        page = parse_page(request, default=20, maximum=100)
        stores = sorted(
            await self._all_collections(),
            key=lambda collection: (collection.created_at.ToNanoseconds(), collection.id),
            reverse=page.newest_first,
        )
        if page.after:
            starts = [start for start, store in enumerate(stores, 1) if store.id == page.after]
            if not starts:
                raise NotFound(f"there is no vector store {page.after!r}", param="after")
            stores = stores[starts[0] :]
        stores = stores[: page.limit]
        progress = await self._vector_store_files.progress_of([store.id for store in stores])
        items = [openai_objects.vector_store(store, progress.get(store.id, IndexingProgress())) for store in stores]
        return json_response(openai_objects.page(items, page.limit - 1))

    async def get(self, request: Request) -> Response:
        """Return a vector store object."""
        return await self._store_response(await self._collection(request, "documents:read"))

    async def update(self, request: Request) -> Response:
        """Change the name or the metadata of a vector store."""
        collection = await self._collection(request, "documents:write")
        body = await _body(request, request_bodies.UpdateVectorStore)
        metadata = dict(collection.metadata) if body.metadata is None else body.metadata
        update = UpdateCollectionRequest(collection=collection.id, name=body.name or "", metadata=metadata)
        return await self._store_response(await self._vector_store.update_collection(update))

    async def delete(self, request: Request) -> Response:
        """Delete a vector store, but not its files."""
        collection = await self._collection(request, "documents:write")
        await self._library.delete_collection(collection.id)
        return json_response(openai_objects.deleted(collection.id, "vector_store.deleted"))

    async def create_file(self, request: Request) -> Response:
        """Add a file to a vector store; it is indexed in the background."""
        collection = await self._collection(request, "documents:write")
        body = await _body(request, request_bodies.CreateVectorStoreFile)
        file = await self._files.get(body.file_id)
        await self._library.attach(collection, file, body.attributes or {}, body.walls or [])
        return await self._file_response(collection, file.id)

    async def list_files(self, request: Request) -> Response:
        """Return a page of the files of a vector store."""
        return await self._file_page(request, batch="")

    async def get_file(self, request: Request) -> Response:
        """Return a vector store file object."""
        collection = await self._collection(request, "documents:read")
        return await self._file_response(collection, request.path_params["file"])

    async def update_file(self, request: Request) -> Response:
        """Replace the attributes of a file; searches use the new attributes at once."""
        collection = await self._collection(request, "documents:write")
        record = await self._vector_store_files.get(collection.id, request.path_params["file"])
        body = await _body(request, request_bodies.UpdateVectorStoreFile)
        updated = await self._library.update_attributes(collection.id, record.file, body.attributes or {})
        return json_response(openai_objects.vector_store_file(updated))

    async def delete_file(self, request: Request) -> Response:
        """Remove a file from a vector store; the file itself is not deleted."""
        collection = await self._collection(request, "documents:write")
        await self._library.detach(collection.id, request.path_params["file"])
        return json_response(openai_objects.deleted(request.path_params["file"], "vector_store.file.deleted"))

    async def file_content(self, request: Request) -> Response:
        """Return the text of a file, page by page."""
        collection = await self._collection(request, "documents:read")
        record = await self._vector_store_files.get(collection.id, request.path_params["file"])
        pages = await self._contents.text(await self._files.get(record.file))
        data = [{"type": "text", "text": text} for text in pages]
        return json_response(
            {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}
        )

    async def create_batch(self, request: Request) -> Response:
        """Add several files to a vector store."""
        collection = await self._collection(request, "documents:write")
        body = await _body(request, request_bodies.CreateFileBatch)
        batch = await self._library.attach_batch(collection, body.files_with_attributes(), body.walls or [])
        return await self._batch_response(collection, batch)

    async def get_batch(self, request: Request) -> Response:
        """Return a batch object."""
        collection = await self._collection(request, "documents:read")
        return await self._batch_response(collection, request.path_params["batch"])

    async def list_batch(self, request: Request) -> Response:
        """Return a page of the files of a batch."""
        return await self._file_page(request, batch=request.path_params["batch"])

    async def cancel_batch(self, request: Request) -> Response:
        """Cancel the files of a batch that are in progress."""
        collection = await self._collection(request, "documents:write")
        await self._library.cancel_batch(collection.id, request.path_params["batch"])
        return await self._batch_response(collection, request.path_params["batch"])

    async def _collection(self, request: Request, scope: str) -> Collection:
        context.caller().require_scope(scope)
        return await self._library.collection(request.path_params["store"])

    async def _all_collections(self) -> list[Collection]:
        collections: list[Collection] = []
        token = ""
        while len(collections) < MAX_COLLECTIONS:
            page = await self._vector_store.list_collections(ListCollectionsRequest(page_size=1000, page_token=token))
            collections += page.collections
            if not (token := page.next_page_token):
                break
        return collections

    async def _file_page(self, request: Request, batch: str) -> Response:
        collection = await self._collection(request, "documents:read")
        if batch:
            await self._library.batch(collection.id, batch)
        state = request.query_params.get("filter", "")
        if state and state not in STATES:
            raise InvalidRequest(f"filter is {state!r}; it can be: {', '.join(STATES)}", param="filter")
        page = parse_page(request, default=20, maximum=100)
        records = await self._vector_store_files.list(collection.id, page, state, batch)
        items = [openai_objects.vector_store_file(record) for record in records]
        return json_response(openai_objects.page(items, page.limit - 1))

    async def _store_response(self, collection: Collection) -> Response:
        progress = await self._vector_store_files.progress(collection.id)
        return json_response(openai_objects.vector_store(collection, progress))

    async def _file_response(self, collection: Collection, file: str) -> Response:
        record = await self._vector_store_files.get(collection.id, file)
        return json_response(openai_objects.vector_store_file(record))

    async def _batch_response(self, collection: Collection, batch: str) -> Response:
        created_at, progress = await self._library.batch(collection.id, batch)
        return json_response(openai_objects.batch(batch, collection.id, created_at, progress))


async def _body(request: Request, model: type[B]) -> B:
    return read_model(model, await read_body(request, request_bodies.MAX_BODY_BYTES))
