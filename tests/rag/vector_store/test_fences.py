"""Fencing tokens: a delayed write or a repeated deletion never undoes a later change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from drw.api.rag.v1.vector_store_pb2 import (
    Chunk,
    CreateCollectionRequest,
    DeleteDocumentRequest,
    Document,
    ListDocumentsRequest,
    PutDocumentRequest,
    UpdateDocumentAttributesRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import from_values, to_values
from drw.kernel.errors import Conflict, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from rag.passages import vector
from support.hosting import hosted

CALLER = Principal("acme", "research", "k", frozenset({"documents:read", "documents:write"}), frozenset({"a", "b"}))


@pytest.fixture(params=["strict", "apart"])
async def store(request: pytest.FixtureRequest, profile: Profile) -> AsyncIterator[VectorStoreClient]:
    async with hosted(profile, ["vector_store"], request.param) as host:
        with acting_for(CALLER):
            client = host.client(VectorStoreClient)
            await client.create_collection(CreateCollectionRequest(name="c", walls=["a"]))
            yield client


async def put(
    store: VectorStoreClient,
    fence: int,
    text: str = "Copper rose.",
    version: int = 1,
    walls: tuple[str, ...] = ("a",),
    id_: str = "f",
) -> Document:
    attributes = to_values({"text": text})
    document = Document(id=id_, title="t", attributes=attributes, attributes_version=version, walls=walls)
    chunk = Chunk(number=0, page=1, start=0, end=len(text), text=text, vector=vector(text))
    request = PutDocumentRequest(collection="c", document=document, chunks=[chunk], fence=fence)
    return await store.put_document(request)


async def delete(store: VectorStoreClient, fence: int, walls: tuple[str, ...] = ("a",), id_: str = "f") -> int:
    request = DeleteDocumentRequest(collection="c", document=id_, fence=fence, walls=walls)
    return (await store.delete_document(request)).chunks


async def texts(store: VectorStoreClient) -> dict[str, str | int | float | bool]:
    documents = (await store.list_documents(ListDocumentsRequest(collection="c"))).documents
    return {document.id: from_values(document.attributes)["text"] for document in documents}


async def test_a_write_with_a_lower_fence_is_rejected(store: VectorStoreClient) -> None:
    await put(store, 7, "new")
    with pytest.raises(Conflict, match="was written later by another worker"):
        await put(store, 6, "old")
    assert await texts(store) == {"f": "new"}
    await put(store, 7, "again")  # the same owner
    await put(store, 8, "newer")
    assert await texts(store) == {"f": "newer"}


async def test_a_repeated_write_does_not_bring_back_older_attributes(store: VectorStoreClient) -> None:
    await put(store, 7, "new", version=2)
    with pytest.raises(Conflict):
        await put(store, 7, "old", version=1)
    assert await texts(store) == {"f": "new"}


async def test_a_write_that_is_older_than_a_deletion_is_rejected(store: VectorStoreClient) -> None:
    assert await delete(store, 7) == 0  # before anything was written
    with pytest.raises(Conflict, match="was deleted later"):
        await put(store, 6)
    assert await texts(store) == {}
    await put(store, 8)
    assert await texts(store) == {"f": "Copper rose."}


async def test_a_repeated_deletion_keeps_later_writes(store: VectorStoreClient) -> None:
    await put(store, 6)
    assert await delete(store, 7) == 1
    await put(store, 8)
    assert await delete(store, 7) == 0
    assert await texts(store) == {"f": "Copper rose."}
    assert await delete(store, 9) == 1


async def test_an_older_deletion_does_not_lower_the_fence_of_a_newer_one(store: VectorStoreClient) -> None:
    await delete(store, 9)
    await delete(store, 7)
    with pytest.raises(Conflict):
        await put(store, 8)


async def test_a_fenced_deletion_applies_to_one_set_of_walls(store: VectorStoreClient) -> None:
    await put(store, 6, "inside a")
    await put(store, 6, "inside both", walls=("a", "b"))
    assert await delete(store, 7, walls=("b",)) == 1  # with those of the collection: a and b
    assert await texts(store) == {"f": "inside a"}
    await put(store, 6, "again")
    with pytest.raises(Conflict):
        await put(store, 6, walls=("a", "b"))


async def test_a_document_that_was_deleted_later_is_not_copied(store: VectorStoreClient) -> None:
    await put(store, 5, id_="source")
    request = UpdateDocumentAttributesRequest(collection="c", same_content_as="source", fence=6)
    attributes = to_values({"text": "copied"})
    request.document.CopyFrom(Document(id="copy", title="t", attributes=attributes, attributes_version=1, walls=["a"]))
    await delete(store, 7, id_="copy")
    with pytest.raises(NotFound):
        await store.update_document_attributes(request)
    assert await texts(store) == {"source": "Copper rose."}
    request.fence = 8
    await store.update_document_attributes(request)
    assert await texts(store) == {"source": "Copper rose.", "copy": "copied"}
    assert await delete(store, 7, id_="copy") == 0
    assert await delete(store, 9, id_="copy") == 1
