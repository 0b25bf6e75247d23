"""Behaviour of every adapter: collections, documents and isolation of desks, on every transport."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from google.protobuf.message import Message

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.rag.v1.vector_store_pb2 import (
    CreateCollectionRequest,
    DeleteCollectionRequest,
    DeleteDocumentRequest,
    GetCollectionRequest,
    ListCollectionsRequest,
    ListDocumentsRequest,
    PutDocumentRequest,
    UpdateCollectionRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import from_values, to_values
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from rag.passages import put, vector
from support.hosting import hosted
from support.json_types import Json, JsonObject

ADAPTERS = {
    "pgvector": {"index": "pgvector"},
    "pgvector by its graph": {"index": "pgvector", "pgvector": {"exact_up_to": 0}},
}


@pytest.fixture(params=ADAPTERS)
def profile_with_adapter(request: pytest.FixtureRequest, profile: Profile) -> Profile:
    """A profile that selects one adapter."""
    return profile.model_copy(update={"services": {"vector_store": ADAPTERS[request.param]}})


@pytest.fixture
async def store(profile_with_adapter: Profile, caller: Principal) -> AsyncIterator[VectorStoreClient]:
    """A client of the vector store, acting for a desk."""
    async with hosted(profile_with_adapter, ["vector_store"], "strict") as host:
        with acting_for(caller):
            yield host.client(VectorStoreClient)


async def search(
    store: VectorStoreClient, text: str, collection: str = "filings", **more: Json
) -> list[tuple[str, int]]:
    answer = await store.search(VectorSearchRequest(collection=collection, text=text, **more))
    return [(p.document, p.chunk) for p in answer.passages]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_writes_and_deletions_are_visible_to_searches_at_once(
    profile_with_adapter: Profile, caller: Principal, how: str
) -> None:
    async with hosted(profile_with_adapter, ["vector_store"], how) as host:
        store = host.client(VectorStoreClient)
        with acting_for(caller):
            created = await store.create_collection(CreateCollectionRequest(name="filings"))
            written = await store.put_document(
                put(created.id, "a", ["net sales were 81,797", "cash fell"], year="2023")
            )
            assert (written.id, written.chunks, from_values(written.attributes)) == ("a", 2, {"year": "2023"})
            assert await search(store, "net sales") == [("a", 0)]
            assert await search(store, "net sales", created.id, vector=vector("net sales")) == [("a", 0), ("a", 1)]
            counted = await store.get_collection(GetCollectionRequest(collection="filings"))
            assert (counted.documents, counted.chunks, counted.bytes) == (1, 2, 30)
            await store.delete_document(DeleteDocumentRequest(collection="filings", document="a"))
            assert await search(store, "net sales", vector=vector("net sales")) == []
            emptied = await store.get_collection(GetCollectionRequest(collection="filings"))
            assert (emptied.documents, emptied.chunks, emptied.bytes) == (0, 0, 0)


async def test_a_passage_has_the_fields_of_a_citation(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    await store.put_document(put("filings", "file-1", ["first page", "sales were 5"], title="10-Q.pdf", firm="Apple"))
    (passage,) = (await store.search(VectorSearchRequest(collection="filings", text="sales"))).passages
    assert (passage.document, passage.title, passage.chunk, passage.page) == ("file-1", "10-Q.pdf", 1, 2)
    assert (passage.start, passage.end, passage.text) == (0, 12, "sales were 5")
    assert passage.hash == hashlib.sha256(b"sales were 5").hexdigest()
    assert from_values(passage.attributes) == {"firm": "Apple"}
    assert 0 < passage.score <= 1


async def test_putting_the_same_id_replaces_the_document(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    await store.put_document(put("filings", "a", ["copper", "zinc", "lead"]))
    await store.put_document(put("filings", "a", ["silver"]))
    assert await search(store, "copper zinc lead", vector=vector("copper")) == [("a", 0)]
    assert await search(store, "copper zinc lead") == []
    counted = await store.get_collection(GetCollectionRequest(collection="filings"))
    assert (counted.documents, counted.chunks) == (1, 1)


async def test_names_are_unique_within_a_desk(store: VectorStoreClient, caller: Principal) -> None:
    first = await store.create_collection(CreateCollectionRequest(name="filings", metadata={"a": "1"}))
    other = await store.create_collection(CreateCollectionRequest(name="memos"))
    with pytest.raises(Conflict, match="named 'filings' already"):
        await store.create_collection(CreateCollectionRequest(name="filings"))
    with pytest.raises(Conflict, match="named 'filings' already"):
        await store.update_collection(UpdateCollectionRequest(collection=other.id, name="filings"))
    with acting_for(replace(caller, desk="trading")):
        elsewhere = await store.create_collection(CreateCollectionRequest(name="filings"))
    assert elsewhere.id != first.id
    renamed = await store.update_collection(UpdateCollectionRequest(collection=first.id, name="reports"))
    assert (renamed.id, renamed.name, dict(renamed.metadata)) == (first.id, "reports", {"a": "1"})


@pytest.mark.parametrize("other_caller", [{"desk": "trading"}, {"org": "other"}])
async def test_collections_of_another_desk_are_not_found_by_id_or_name(
    store: VectorStoreClient, caller: Principal, other_caller: JsonObject
) -> None:
    created = await store.create_collection(CreateCollectionRequest(name="filings"))
    await store.put_document(put("filings", "a", ["net sales"]))
    with acting_for(replace(caller, **other_caller)):
        assert not (await store.list_collections(ListCollectionsRequest())).collections
        for named in (created.id, "filings"):
            for call in (
                store.get_collection(GetCollectionRequest(collection=named)),
                store.update_collection(UpdateCollectionRequest(collection=named, name="mine")),
                store.delete_collection(DeleteCollectionRequest(collection=named)),
                store.put_document(put(named, "b", ["x"])),
                store.list_documents(ListDocumentsRequest(collection=named)),
                store.delete_document(DeleteDocumentRequest(collection=named, document="a")),
                store.search(VectorSearchRequest(collection=named, text="net sales", vector=vector("net sales"))),
            ):
                with pytest.raises(NotFound, match="no collection"):
                    await call
    assert await search(store, "net sales") == [("a", 0)]


async def test_a_search_covers_one_collection(store: VectorStoreClient) -> None:
    for name in ("filings", "memos"):
        await store.create_collection(CreateCollectionRequest(name=name))
        await store.put_document(put(name, f"in-{name}", ["net sales"]))
    assert await search(store, "net sales", vector=vector("net sales")) == [("in-filings", 0)]
    deleted = await store.delete_collection(DeleteCollectionRequest(collection="filings"))
    assert deleted.documents == 1
    with pytest.raises(NotFound):
        await search(store, "net sales")
    assert await search(store, "net sales", "memos", vector=vector("net sales")) == [("in-memos", 0)]


async def test_lists_are_paged(store: VectorStoreClient) -> None:
    for n in range(5):
        await store.create_collection(CreateCollectionRequest(name=f"c{n}"))
        await store.put_document(put("c0", f"d{n}", ["x"]))
    names: list[str] = []
    ids: list[str] = []
    token = ""
    while names == [] or token:
        page = await store.list_collections(ListCollectionsRequest(page_size=2, page_token=token))
        names += [c.name for c in page.collections]
        token = page.next_page_token
    while ids == [] or token:
        documents = await store.list_documents(ListDocumentsRequest(collection="c0", page_size=2, page_token=token))
        ids += [d.id for d in documents.documents]
        token = documents.next_page_token
    assert names == [f"c{n}" for n in range(5)]
    assert ids == [f"d{n}" for n in range(5)]


async def test_attributes_restrict_a_search(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    for n in range(30):
        await store.put_document(put("filings", f"d{n}", [f"net sales {n}"], year=str(2000 + n % 3), firm="A"))
    narrowing: list[JsonObject] = [{}, {"vector": vector("net sales 4")}]
    for more in narrowing:
        found = await search(store, "net sales", limit=50, attributes=to_values({"year": "2001", "firm": "A"}), **more)
        assert sorted(found) == sorted((f"d{n}", 0) for n in range(30) if n % 3 == 1)
        assert await search(store, "net sales", attributes=to_values({"year": "1999"}), **more) == []


async def test_searches_without_matches_are_empty(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    assert await search(store, "net sales", vector=vector("net sales")) == []
    await store.put_document(put("filings", "none", []))
    assert await search(store, "net sales", vector=vector("net sales")) == []
    await store.put_document(put("filings", "a", ["net sales"]))
    for text in ("", "the of and", "?!", "zebra"):
        assert await search(store, text) == []
        assert await search(store, text, vector=vector("net")) == [("a", 0)]


async def test_a_chunk_without_a_vector_is_found_by_keywords(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    without_vector = put("filings", "a", ["net sales", "cash"])
    without_vector.chunks[0].ClearField("vector")
    await store.put_document(without_vector)
    assert await search(store, "net sales") == [("a", 0)]
    assert await search(store, "", vector=vector("cash")) == [("a", 1)]


async def test_context_is_searched_but_not_part_of_the_text(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    await store.put_document(put("filings", "a", ["81,797"], context="Apple Inc. total net sales"))
    await store.put_document(put("filings", "b", ["81,797"], context="Intel"))
    assert (await search(store, "apple 81797"))[0] == ("a", 0)


async def test_one_page_does_not_fill_the_results(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    one_page = put("filings", "a", ["net sales"] * 6)
    for chunk in one_page.chunks:
        chunk.page = 1
    await store.put_document(one_page)
    await store.put_document(put("filings", "b", ["net sales and much else that is of no use here"]))
    assert ("b", 0) in await search(store, "net sales", limit=3)
    assert len(await search(store, "net sales", limit=7)) == 7


def numbered(*numbers: int) -> PutDocumentRequest:
    """A document whose chunks have these numbers."""
    request = put("filings", "a", ["x"] * len(numbers))
    for chunk, number in zip(request.chunks, numbers, strict=True):
        chunk.number = number
    return request


def backwards() -> PutDocumentRequest:
    """A document with a chunk that ends before it starts."""
    request = put("filings", "a", ["x"])
    request.chunks[0].start = 2
    return request


@pytest.mark.parametrize(
    ("invalid", "param", "message"),
    [
        (
            VectorSearchRequest(collection="filings", vector={"values": [1.0, 0.0]}),
            "vector",
            "vector has 2 dimensions; the index has 384",
        ),
        (
            VectorSearchRequest(collection="filings", vector={"values": [float("nan")] * 384}),
            "vector",
            "vector has a value that is not a finite number",
        ),
        (ListCollectionsRequest(page_token="x'; drop"), "page_token", '"x\'; drop" is not a page token'),
        (numbered(0, 1, 1), "chunks", "chunks has the number 1 twice"),
        (backwards(), "chunks[0].end", "chunks[0].end is 1; it must be at least start, 2"),
        (
            PutDocumentRequest(
                collection="filings", document={"id": "a"}, chunks=[{"text": "x", "page": 1, "vector": {"values": [1]}}]
            ),
            "chunks[0].vector",
            "chunks[0].vector has 1 dimensions; the index has 384",
        ),
    ],
)
async def test_requests_that_do_not_fit_the_index_are_rejected(
    store: VectorStoreClient, invalid: Message, param: str, message: str
) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    methods: dict[type, Callable[..., Awaitable[object]]] = {
        VectorSearchRequest: store.search,
        ListCollectionsRequest: store.list_collections,
        PutDocumentRequest: store.put_document,
    }
    with pytest.raises(InvalidRequest) as caught:
        await methods[type(invalid)](invalid)
    assert caught.value.metadata["param"] == param
    assert caught.value.message.startswith(message)


async def test_counts_are_exact_after_concurrent_writes(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    await asyncio.gather(*(store.put_document(put("filings", f"d{n % 4}", ["net sales"] * 3)) for n in range(16)))
    counted = await store.get_collection(GetCollectionRequest(collection="filings"))
    assert (counted.documents, counted.chunks) == (4, 12)


async def test_a_deleted_document_never_reappears_under_load(store: VectorStoreClient) -> None:
    """A search that begins after the response to a deletion must not find the document."""
    await store.create_collection(CreateCollectionRequest(name="filings"))
    for n in range(100):
        await store.put_document(put("filings", f"d{n}", [f"net sales of {n}"]))
    deleted: set[str] = set()
    searches = 0

    async def ask() -> None:
        nonlocal searches
        while len(deleted) < 100:
            deleted_before = set(deleted)
            found = await search(store, "net sales", limit=50, vector=vector("net sales"))
            assert not deleted_before & {document for document, _ in found}
            searches += 1

    async def delete() -> None:
        for n in range(100):
            await store.delete_document(DeleteDocumentRequest(collection="filings", document=f"d{n}"))
            deleted.add(f"d{n}")

    await asyncio.gather(delete(), *(ask() for _ in range(3)))
    assert searches > 3
    assert await search(store, "net sales", vector=vector("net sales")) == []


async def test_the_status_names_the_vector_database(profile_with_adapter: Profile) -> None:
    async with hosted(profile_with_adapter, ["vector_store"]) as host:
        (status,) = (await host.status()).services
    assert (status.state, status.detail[:9]) == (ServiceStatus.READY, "pgvector ")
