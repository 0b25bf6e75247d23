"""pgvector adapter: chunks, vectors, postings and permissions in PostgreSQL, in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from drw.api.rag.v1.vector_store_pb2 import Chunk, Collection, Document
from drw.kernel.attribute_filters import Filter
from drw.kernel.runtime.host import ServiceContext
from drw.rag.vector_store.adapters.pgvector import attributes, collections, documents, fences
from drw.rag.vector_store.adapters.pgvector.filters import to_jsonpath
from drw.rag.vector_store.adapters.pgvector.snapshot import PostgresSnapshot, VisibleDocuments
from drw.rag.vector_store.ports import DocumentAnalysis, DocumentMetadata, Owner, Page, PassageIndex
from drw.rag.vector_store.settings import PgvectorSettings


class PgvectorIndex(PassageIndex):
    """Stores documents in the schema of the service."""

    Settings = PgvectorSettings

    def __init__(self, settings: PgvectorSettings) -> None:
        self._settings = settings

    async def start(self, scope: ServiceContext) -> None:
        self._database = await scope.database(pool_size=self._settings.pool_size)
        self._audit = scope.audit()

    async def describe(self) -> str:
        row = await self._database.one("select extversion from pg_extension where extname = 'vector'")
        return f"pgvector {row['extversion'] if row else 'is missing'}"

    async def create_collection(
        self, owner: Owner, name: str, metadata: Mapping[str, str], walls: Sequence[str]
    ) -> Collection:
        async with self._database.transaction() as connection:
            collection = await collections.create(connection, owner, name, metadata, walls)
            await self._audit.record("collection.create", collection.id, connection=connection)
            return collection

    async def list_collections(self, owner: Owner, page: Page) -> tuple[list[Collection], str]:
        async with self._database.transaction() as connection:
            return await collections.list_page(connection, owner, page)

    async def get_collection(self, owner: Owner, collection: str) -> Collection:
        async with self._database.transaction() as connection:
            return await collections.get(connection, owner, collection)

    async def update_collection(
        self, owner: Owner, collection: str, name: str, metadata: Mapping[str, str]
    ) -> Collection:
        async with self._database.transaction() as connection:
            updated = await collections.update(connection, owner, collection, name, metadata)
            await self._audit.record("collection.update", updated.id, connection=connection)
            return updated

    async def delete_collection(self, owner: Owner, collection: str) -> int:
        async with self._database.transaction() as connection:
            deleted = await collections.delete(connection, owner, collection)
            counts = {"documents": deleted.documents, "chunks": deleted.chunks}
            await self._audit.record("collection.delete", deleted.id, details=counts, connection=connection)
            return deleted.documents

    async def put_document(
        self,
        owner: Owner,
        collection: str,
        document: Document,
        chunks: Sequence[Chunk],
        analysis: DocumentAnalysis,
        fence: int = 0,
    ) -> Document:
        async with self._database.transaction() as connection:
            row = await collections.lock(connection, owner, collection)
            document.walls[:] = sorted({*row["walls"], *document.walls})
            if fence:
                await fences.check(connection, row["key"], document, fence)
            await documents.replace(connection, row["key"], document)
            written = await documents.write(connection, owner, row["key"], document, chunks, analysis, fence)
            details = {"document": written.id, "content_hash": written.content_hash, "chunks": written.chunks}
            await self._audit.record("document.put", row["id"], details=details, connection=connection)
            return written

    async def update_attributes(
        self,
        owner: Owner,
        collection: str,
        document: Document,
        copy_from: str,
        extract_metadata: Callable[..., DocumentMetadata],
        fence: int = 0,
    ) -> Document:
        async with self._database.transaction() as connection:
            row = await collections.lock(connection, owner, collection)
            document.walls[:] = sorted({*row["walls"], *document.walls})
            updated = await attributes.update(
                connection, owner, row["key"], document, copy_from, extract_metadata, fence
            )
            details = {"document": updated.id, "version": updated.attributes_version}
            await self._audit.record("document.update", row["id"], details=details, connection=connection)
            return updated

    async def list_documents(self, owner: Owner, collection: str, page: Page) -> tuple[list[Document], str]:
        async with self._database.transaction() as connection:
            row = await collections.find(connection, owner, collection)
            return await documents.list_page(connection, owner, row["key"], page)

    async def delete_document(self, owner: Owner, collection: str, document: str) -> int:
        async with self._database.transaction() as connection:
            row = await collections.lock(connection, owner, collection)
            chunks = await documents.delete(connection, owner, row["key"], document)
            await collections.remove_if_empty(connection, row["key"])
            details = {"document": document, "chunks": chunks}
            await self._audit.record("document.delete", row["id"], details=details, connection=connection)
            return chunks

    async def delete_fenced(
        self, owner: Owner, collection: str, document: str, walls: Sequence[str], fence: int
    ) -> int:
        async with self._database.transaction() as connection:
            row = await collections.lock(connection, owner, collection)
            all_walls = sorted({*row["walls"], *walls})
            deleted = await fences.delete(connection, row["key"], document, all_walls, fence)
            await collections.remove_if_empty(connection, row["key"])
            if deleted is None:
                return 0
            details = {"document": document, "chunks": deleted}
            await self._audit.record("document.delete", row["id"], details=details, connection=connection)
            return deleted

    @asynccontextmanager
    async def snapshot(
        self, owner: Owner, collection: str, condition: Filter | None
    ) -> AsyncIterator[PostgresSnapshot]:
        async with self._database.transaction() as connection:
            await connection.execute("set transaction isolation level repeatable read, read only")
            row = await collections.find(connection, owner, collection)
            visible = await VisibleDocuments.of(connection, owner, row["key"], to_jsonpath(condition))
            yield PostgresSnapshot(connection, visible, self._settings)
