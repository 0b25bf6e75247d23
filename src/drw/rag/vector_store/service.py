"""Vector store service: stores chunks with vectors and postings, and searches them."""

from __future__ import annotations

import asyncio
from functools import reduce

from drw.api.rag.v1 import vector_store_rpc as contract
from drw.api.rag.v1.vector_store_pb2 import (
    AppliedFilter,
    Collection,
    CreateCollectionRequest,
    DeleteCollectionRequest,
    DeleteCollectionResponse,
    DeleteDocumentRequest,
    DeleteDocumentResponse,
    Document,
    GetCollectionRequest,
    ListCollectionsRequest,
    ListCollectionsResponse,
    ListDocumentsRequest,
    ListDocumentsResponse,
    PutDocumentRequest,
    UpdateCollectionRequest,
    UpdateDocumentAttributesRequest,
    VectorSearchRequest,
    VectorSearchResponse,
)
from drw.kernel import attribute_filters, walls
from drw.kernel.attributes import from_values
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.rag.vector_store import validation
from drw.rag.vector_store.analysis import analyse, document_metadata
from drw.rag.vector_store.ports import DocumentNotFound, Owner, Page, PassageIndex
from drw.rag.vector_store.search import SearchQuery, search
from drw.rag.vector_store.settings import Ranking, Settings

DEFAULT_PAGE_SIZE = 100
DEFAULT_LIMIT = 10


class VectorStore(contract.VectorStore):
    """Serves `drw.api.rag.v1.VectorStore`."""

    def __init__(self, index: PassageIndex, ranking: Ranking) -> None:
        self._index = index
        self._ranking = ranking

    async def create_collection(self, request: CreateCollectionRequest, /) -> Collection:
        new_walls = walls.for_new_object(request.walls, context.caller())
        return await self._index.create_collection(owner(), request.name, request.metadata, new_walls)

    async def list_collections(self, request: ListCollectionsRequest, /) -> ListCollectionsResponse:
        page = Page(request.page_size or DEFAULT_PAGE_SIZE, request.page_token)
        collections, next_token = await self._index.list_collections(owner(), page)
        return ListCollectionsResponse(collections=collections, next_page_token=next_token)

    async def get_collection(self, request: GetCollectionRequest, /) -> Collection:
        return await self._index.get_collection(owner(), request.collection)

    async def update_collection(self, request: UpdateCollectionRequest, /) -> Collection:
        return await self._index.update_collection(owner(), request.collection, request.name, request.metadata)

    async def delete_collection(self, request: DeleteCollectionRequest, /) -> DeleteCollectionResponse:
        return DeleteCollectionResponse(documents=await self._index.delete_collection(owner(), request.collection))

    async def put_document(self, request: PutDocumentRequest, /) -> Document:
        document = Document()
        document.CopyFrom(request.document)
        document.walls[:] = walls.for_new_object(document.walls, context.caller())
        await asyncio.to_thread(validation.check_chunks, request.chunks)
        analysed = await asyncio.to_thread(analyse, document, request.chunks)
        return await self._index.put_document(
            owner(), request.collection, document, request.chunks, analysed, request.fence
        )

    async def update_document_attributes(self, request: UpdateDocumentAttributesRequest, /) -> Document:
        document = Document()
        document.CopyFrom(request.document)
        if not walls.inside(document.walls, context.caller()):
            raise DocumentNotFound(f"there is no document {document.id!r} in the collection")
        return await self._index.update_attributes(
            owner(), request.collection, document, request.same_content_as, document_metadata, request.fence
        )

    async def list_documents(self, request: ListDocumentsRequest, /) -> ListDocumentsResponse:
        page = Page(request.page_size or DEFAULT_PAGE_SIZE, request.page_token)
        documents, next_token = await self._index.list_documents(owner(), request.collection, page)
        return ListDocumentsResponse(documents=documents, next_page_token=next_token)

    async def delete_document(self, request: DeleteDocumentRequest, /) -> DeleteDocumentResponse:
        if request.fence:
            chunks = await self._index.delete_fenced(
                owner(), request.collection, request.document, request.walls, request.fence
            )
        else:
            chunks = await self._index.delete_document(owner(), request.collection, request.document)
        return DeleteDocumentResponse(chunks=chunks)

    async def search(self, request: VectorSearchRequest, /) -> VectorSearchResponse:
        validation.check_vector(request.vector.values, "vector")
        limit = request.limit or DEFAULT_LIMIT
        query = SearchQuery(request.text, request.vector.values, limit, not request.no_auto_filters)
        conditions = (
            attribute_filters.equal_to(from_values(request.attributes)),
            attribute_filters.from_struct(request.filter),
            attribute_filters.from_struct(request.second_filter, "second_filter"),
        )
        condition = reduce(attribute_filters.all_of, conditions)
        async with self._index.snapshot(owner(), request.collection, condition) as snapshot:
            hits = await search(snapshot, query, self._ranking)
        applied = [AppliedFilter(key=key, values=values) for key, values in hits.filters.items()]
        return VectorSearchResponse(passages=hits.passages, applied_filters=applied)


def owner() -> Owner:
    """Return the desk and the walls of the caller."""
    caller = context.caller()
    return Owner(caller.org, caller.desk, tuple(sorted(caller.walls)))


async def build(scope: ServiceContext) -> VectorStore:
    """Build the service from its settings."""
    index = scope.adapter(PassageIndex, default="pgvector")  # type: ignore[type-abstract]
    await index.start(scope)
    scope.describe(index.describe)
    return VectorStore(index, scope.settings(Settings))
