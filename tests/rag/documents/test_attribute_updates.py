"""Attribute updates take effect immediately, without indexing or embedding a file again, also after interruptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, PutFileRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.vector_store_pb2 import (
    Document,
    ListDocumentsRequest,
    UpdateDocumentAttributesRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import from_values, to_values
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.ingestion import attribute_updates
from rag.documents.desks import SERVICES, Desk, Platform, query, running
from rag.documents.test_attachments import mail
from support.hosting import hosted
from support.json_types import JsonObject
from support.parts import wait_until


async def documents_of_year(store: VectorStoreClient, collection: str, year: int) -> list[str]:
    """Return the documents that a search with this year finds."""
    request = VectorSearchRequest(collection=collection, text="copper", attributes=to_values({"year": year}))
    return sorted({passage.document for passage in (await store.search(request)).passages})


@pytest.fixture
async def indexed_desk(
    platform: Platform, caller: Principal
) -> AsyncIterator[tuple[Desk, VectorStoreClient, Platform]]:
    desk = platform.desk()
    with acting_for(caller):
        yield desk, platform.host.client(VectorStoreClient), platform


async def index_file(
    desk: Desk, name: str, store: str | None = None, attributes: None = None, content: bytes = b"Copper rose."
) -> tuple[str, str]:
    file = await desk.upload(name, content)
    store = store or (await desk.openai.vector_stores.create()).id
    files = desk.openai.vector_stores.files
    await files.create(store, file_id=file.id, attributes=attributes or {"year": 2024})
    await files.poll(file.id, vector_store_id=store, poll_interval_ms=20)
    return file.id, store


async def test_a_search_finds_new_attributes_immediately_without_another_embedding(
    indexed_desk: tuple[Desk, VectorStoreClient, Platform], rag: Profile
) -> None:
    desk, store, platform = indexed_desk
    file, collection = await index_file(desk, "a.txt")
    vectors = query(rag, "select xmin::text, document from vector_store.chunk_vector")
    job = query(rag, "select job, attempts from documents.vector_store_file")
    platform.host._servicers["embedding"] = cast(Any, None)
    files = desk.openai.vector_stores.files
    changes: list[JsonObject] = [{"year": 2025}, {"year": 2025, "note": "x"}, {}, {"year": 2025}]
    for attributes in changes:
        changed = await files.update(file, vector_store_id=collection, attributes=attributes)
        assert (changed.status, changed.attributes) == ("completed", attributes)
        assert await documents_of_year(store, collection, 2025) == ([file] if attributes else [])
        assert await documents_of_year(store, collection, 2024) == []
    again = await files.create(collection, file_id=file, attributes={"year": 2026})
    assert (again.status, again.attributes) == ("completed", {"year": 2026})
    assert await documents_of_year(store, collection, 2026) == [file]
    assert query(rag, "select xmin::text, document from vector_store.chunk_vector") == vectors
    assert query(rag, "select job, attempts from documents.vector_store_file") == job


async def test_two_files_with_the_same_content_have_separate_attributes(
    indexed_desk: tuple[Desk, VectorStoreClient, Platform], rag: Profile
) -> None:
    desk, store, platform = indexed_desk
    first, collection = await index_file(desk, "a.txt")
    others = [(await index_file(desk, name, collection))[0] for name in ("b.txt", "c.txt")]
    assert [row[0] for row in query(rag, "select id from vector_store.document")] == [first]
    platform.host._servicers["embedding"] = cast(Any, None)
    files = desk.openai.vector_stores.files
    await files.update(others[0], vector_store_id=collection, attributes={"year": 2030})
    assert await documents_of_year(store, collection, 2030) == [others[0]]
    assert await documents_of_year(store, collection, 2024) == [first]
    await files.update(first, vector_store_id=collection, attributes={"year": 2031})
    assert await documents_of_year(store, collection, 2031) == [first]
    assert await documents_of_year(store, collection, 2024) == [others[1]]  # it shared the document of the first
    assert {f.status async for f in files.list(collection)} == {"completed"}
    titles = query(rag, "select title from vector_store.document order by title")
    assert titles == [("a.txt",), ("b.txt",), ("c.txt",)]
    counted = await desk.http.get(f"/../api/v1/collections/{collection}")
    assert (counted.json()["documents"], counted.json()["chunks"]) == (3, 3)


async def test_a_separated_document_of_an_attachment_has_the_name_of_its_parent_in_its_title(
    indexed_desk: tuple[Desk, VectorStoreClient, Platform], rag: Profile
) -> None:
    desk, store, _ = indexed_desk
    one, collection = await index_file(desk, "one.eml", content=mail("one", ("terms.txt", b"Copper terms")).as_bytes())
    await index_file(desk, "two.eml", collection, content=mail("two", ("terms.txt", b"Copper terms")).as_bytes())
    files = desk.openai.vector_stores.files
    parents = {f.id: (f.model_extra or {}).get("parent_id") async for f in desk.openai.files.list()}
    attached = {parent: file for file, parent in parents.items() if parent}
    for file in attached.values():
        await files.poll(file, vector_store_id=collection, poll_interval_ms=20)
    for parent, file in attached.items():
        await files.update(file, vector_store_id=collection, attributes={"of": "one" if parent == one else "two"})
    shown = query(rag, "select attributes ->> 'of', title from vector_store.document where title like 'terms%%'")
    assert sorted(shown) == [(of, f"terms.txt, attached to {of}.eml") for of in ("one", "two")]


async def test_attributes_updated_during_indexing_are_in_the_indexed_document(
    idle: AbstractAsyncContextManager[Platform], rag: Profile, caller: Principal
) -> None:
    async with idle as platform:
        desk = platform.desk()
        file = await desk.upload("a.txt", b"Copper rose.")
        collection = (await desk.openai.vector_stores.create(name="c")).id
        files = desk.openai.vector_stores.files
        await files.create(collection, file_id=file.id, attributes={"year": 2024})
        changed = await files.update(file.id, vector_store_id=collection, attributes={"year": 2025})
        assert (changed.status, changed.attributes) == ("in_progress", {"year": 2025})
    async with running(rag) as platform:
        desk = platform.desk()
        files = desk.openai.vector_stores.files
        done = await files.poll(file.id, vector_store_id=collection, poll_interval_ms=20)
        assert (done.status, done.attributes) == ("completed", {"year": 2025})
        with acting_for(caller):
            assert await documents_of_year(platform.host.client(VectorStoreClient), collection, 2025) == [file.id]


async def test_concurrent_updates_converge_to_the_same_attributes_in_both_services(
    indexed_desk: tuple[Desk, VectorStoreClient, Platform], rag: Profile
) -> None:
    desk, store, _ = indexed_desk
    file, collection = await index_file(desk, "a.txt")
    files = desk.openai.vector_stores.files
    await asyncio.gather(
        *(files.update(file, vector_store_id=collection, attributes={"year": year}) for year in range(2000, 2020))
    )
    ((version, written, attributes),) = query(
        rag, "select attributes_version, attributes_written, attributes from documents.vector_store_file"
    )
    assert version == written
    assert query(rag, "select attributes_version, attributes from vector_store.document") == [(version, attributes)]
    old = UpdateDocumentAttributesRequest(collection=collection)
    old.document.id, old.document.attributes_version = file, version - 1
    assert from_values((await store.update_document_attributes(old)).attributes) == attributes


async def test_unsent_attributes_are_sent_after_a_restart(
    rag: Profile, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribute_updates, "SWEEP_SECONDS", 3600)
    async with running(rag) as platform:
        desk = platform.desk()
        file, collection = await index_file(desk, "a.txt")

        async def unavailable(request: UpdateDocumentAttributesRequest) -> None:
            raise Unavailable("the vector store does not answer")

        platform.service("vector_store").update_document_attributes = unavailable
        response = await desk.http.post(
            f"/vector_stores/{collection}/files/{file}", json={"attributes": {"year": 2025}}
        )
        assert response.status_code == 503
        assert query(rag, "select attributes from vector_store.document") == [({"year": 2024},)]
    async with running(rag):
        is_sent = "select 1 from vector_store.document where attributes = '{\"year\": 2025}'"
        await asyncio.to_thread(wait_until, lambda: query(rag, is_sent) != [], "the sweep")


async def test_unsent_updates_of_other_files_do_not_fail_an_update(
    indexed_desk: tuple[Desk, VectorStoreClient, Platform], rag: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, _, platform = indexed_desk
    stuck, collection = await index_file(desk, "stuck.txt", content=b"Zinc fell.")
    file, _ = await index_file(desk, "a.txt", collection)
    query(rag, "update documents.vector_store_file set attributes_version = 9 where file = %s", stuck)
    service = platform.service("vector_store")
    update = service.update_document_attributes

    async def unavailable(request: UpdateDocumentAttributesRequest) -> Document:
        if request.document.id == stuck:
            raise Unavailable("the vector store does not answer")
        return await update(request)

    monkeypatch.setattr(service, "update_document_attributes", unavailable)
    files = desk.openai.vector_stores.files
    await files.update(file, vector_store_id=collection, attributes={"year": 2025})
    added = await desk.upload("b.txt", b"Tin stood still.")
    await files.create(collection, file_id=added.id)
    await desk.openai.vector_stores.file_batches.create(collection, file_ids=[file])


async def test_the_migration_restores_the_types_of_attributes_that_were_stored_as_text(
    rag: Profile, caller: Principal
) -> None:
    typed = to_values({"year": 2024, "audited": True, "name": "x"})
    async with hosted(rag, SERVICES) as host:
        with acting_for(caller):
            file = await host.client(DocumentsClient).put_file(PutFileRequest(name="a.txt", content=b"Copper rose."))
            await host.client(DocumentsClient).index_file(
                IndexFileRequest(file=file.id, collection="c", attributes=typed)
            )
    revert_migrations(rag)
    query(rag, 'update vector_store.document set attributes = \'{"year": "2024", "audited": "true", "name": "x"}\'')
    async with hosted(rag, SERVICES) as host:
        is_typed = 'select 1 from vector_store.document where attributes @> \'{"year": 2024, "audited": true}\''
        await asyncio.to_thread(wait_until, lambda: query(rag, is_typed) != [], "the sweep")
        with acting_for(caller):
            store = host.client(VectorStoreClient)
            (document,) = (await store.list_documents(ListDocumentsRequest(collection="c"))).documents
            assert from_values(document.attributes) == from_values(typed)
            assert await documents_of_year(store, "c", 2024) == [file.id]
            shown = await host.client(DocumentsClient).index_file(
                IndexFileRequest(file=file.id, collection="c", attributes=typed)
            )
            assert shown.unchanged


def revert_migrations(profile: Profile) -> None:
    """Revert the changes of later migrations, to the tables of an earlier release."""
    for statement in (
        "drop function documents.visible_vector_store_files",
        "alter table documents.vector_store_file rename to attachment",
        "alter table documents.attachment drop column lease",
        *(
            f"alter index documents.vector_store_file_{name} rename to attachment_{name}"
            for name in ("jobs", "file", "content", "desks", "claimed")
        ),
        "alter table documents.last_claim rename to turn",
        "drop table documents.worker, documents.deletion",
        "alter sequence documents.worker_number rename to worker",
        "drop table vector_store.deleted_document",
        "alter table vector_store.document drop column fence",
        "drop function documents.visible_batches, documents.visible_files",
        "drop function documents.inside",
        "alter table documents.attachment drop constraint vector_store_file_pkey, drop column walls,"
        " drop column attributes_version, drop column attributes_written,"
        " add primary key (org, desk, collection, file)",
        "alter table documents.file drop column walls, add unique (org, desk, content_hash, name, purpose)",
        "alter table documents.batch drop column walls",
        "drop function vector_store.visible, vector_store.visible_collections, vector_store.inside",
        "alter table vector_store.collection drop column walls, drop column withdrawn, add column documents bigint,"
        " add column chunks bigint, add column bytes bigint, add column terms bigint, add unique (org, desk, name)",
        "update vector_store.collection c set (documents, chunks, bytes, terms) ="
        " (select documents, chunks, bytes, terms from vector_store.collection_total t where t.collection = c.key)",
        "drop table vector_store.collection_total",
        "drop index vector_store.document_written",
        "alter table vector_store.document drop column walls, drop column attributes_version,"
        " add unique (collection, id)",
        "drop function vector_store.metadata_fits",
        "alter table vector_store.document drop column metadata, add column dated date",
        "truncate vector_store.subject",
        "alter table vector_store.subject add column weight real not null",
        "delete from documents.migration where name in ('0003_walls.sql', '0006_leases.sql')",
        "delete from vector_store.migration where name in ('0002_metadata.sql', '0003_walls.sql', '0004_fences.sql')",
    ):
        query(profile, statement)


async def test_a_key_outside_a_wall_cannot_change_attributes_inside_it(platform: Platform, rag: Profile) -> None:
    inside = Desk(platform.host, "research", "documents:read documents:write")
    inside.http.headers["x-drw-walls"] = "m-and-a"
    file, collection = await index_file(inside, "a.txt")
    response = await platform.desk().http.post(
        f"/vector_stores/{collection}/files/{file}", json={"attributes": {"year": 1}}
    )
    assert response.status_code == 404
    assert query(rag, "select attributes, walls from vector_store.document") == [({"year": 2024}, ["m-and-a"])]
    await inside.http.aclose()
