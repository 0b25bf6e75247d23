"""Field rules of the rag contracts: every transport rejects a request before the service sees it."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Value

from drw.api.rag.v1.documents_pb2 import (
    GetFileRequest,
    IndexFileRequest,
    PutFileRequest,
    ReadTextRequest,
    WatchIndexingRequest,
)
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, Tokens
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.retrieval_pb2 import AskRequest, SearchRequest
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.api.rag.v1.vector_store_pb2 import (
    Chunk,
    CreateCollectionRequest,
    DeleteDocumentRequest,
    Document,
    GetCollectionRequest,
    ListCollectionsRequest,
    PutDocumentRequest,
    UpdateCollectionRequest,
    UpdateDocumentAttributesRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile, ServiceAddress
from rag.passages import put
from support.field_rules import InvalidCall, InvalidHttpRequest, check_calls, check_http
from support.hosting import hosted
from support.json_types import Json

SERVICES = ["embedding", "vector_store", "documents", "retrieval"]
NAME = "it can have 1 to 128 printable characters"
FILE = "it can have 1 to 200 printable characters"
KEY = "it must be 1 to 64 characters, none of them NUL"
ATTRIBUTE = "it must be a string of at most 512 characters, none of them NUL"
METADATA = "it must be at most 512 characters, none of them NUL"
QUESTION = "it must be 1 to 4,000 characters, not only white space"
TEXT = "it must be 1 to 32,768 characters, not only white space"
CHUNK = "it must be 1 to 20,000 characters, none of them NUL"


def store(method: str, request: Message, param: str, message: str) -> InvalidCall:
    return InvalidCall(VectorStoreClient, method, request, param, message)


def collection(**fields: Json) -> CreateCollectionRequest:
    return CreateCollectionRequest(**{"name": "filings", **fields})


def search(**fields: Json) -> VectorSearchRequest:
    return VectorSearchRequest(**{"collection": "filings", **fields})


def chunk(**fields: Json) -> PutDocumentRequest:
    """A document whose second chunk has these fields."""
    request = put("filings", "a", ["x", "y"])
    request.chunks[1].MergeFrom(Chunk(**fields))
    return request


def page_zero() -> PutDocumentRequest:
    request = put("filings", "a", ["x"])
    request.chunks[0].page = 0
    return request


VECTOR_STORE = [
    store("get_collection", GetCollectionRequest(), "collection", f"collection is missing; {NAME}"),
    store("create_collection", collection(name="x" * 129), "name", f"name has 129 characters; {NAME}"),
    store("create_collection", collection(name="a\nb"), "name", f"name is 'a\\nb'; {NAME}"),
    store("create_collection", collection(name=" a"), "name", f"name is ' a'; {NAME}"),
    store(
        "create_collection",
        collection(metadata={str(n): "" for n in range(33)}),
        "metadata",
        "metadata has 33 items; it can have at most 32",
    ),
    store("create_collection", collection(metadata={"": "x"}), "metadata", f"metadata has a key that is ''; {KEY}"),
    store(
        "create_collection",
        collection(metadata={"k" * 65: "x"}),
        "metadata",
        f"metadata has a key that has 65 characters; {KEY}",
    ),
    store(
        "create_collection",
        collection(metadata={"note": "x" * 513}),
        "metadata.note",
        f"metadata.note has 513 characters; {METADATA}",
    ),
    store(
        "create_collection",
        collection(metadata={"note": "\0"}),
        "metadata.note",
        f"metadata.note is '\\x00'; {METADATA}",
    ),
    store(
        "create_collection",
        collection(walls=[f"w{n}" for n in range(101)]),
        "walls",
        "walls has 101 items; it can have at most 100",
    ),
    store(
        "update_collection",
        UpdateCollectionRequest(collection="a", name="x" * 129),
        "name",
        "name has 129 characters; it can have up to 128 printable characters",
    ),
    store(
        "list_collections",
        ListCollectionsRequest(page_size=1001),
        "page_size",
        "page_size is 1001; it can be 0 to 1000",
    ),
    store(
        "put_document",
        PutDocumentRequest(collection="filings"),
        "document",
        "document is missing; give a value",
    ),
    store("put_document", put("filings", "", ["x"]), "document.id", f"document.id is missing; {NAME}"),
    store(
        "put_document",
        put("filings", "a", ["x"], title="a\0b"),
        "document.title",
        "document.title is 'a\\x00b'; it must be at most 512 characters, none of them NUL",
    ),
    store(
        "put_document",
        put("filings", "a", ["x"], year="x" * 513),
        "document.attributes.year",
        f"document.attributes.year has 513 characters; {ATTRIBUTE}",
    ),
    store("put_document", put("filings", "a", ["x", ""]), "chunks[1].text", f"chunks[1].text is missing; {CHUNK}"),
    store("put_document", chunk(text="a\0b"), "chunks[1].text", f"chunks[1].text is not valid; {CHUNK}"),
    store("put_document", chunk(number=-1), "chunks[1].number", "chunks[1].number is -1; it can be 0 or more"),
    store("put_document", page_zero(), "chunks[0].page", "chunks[0].page is 0; it can be 1 or more"),
    store("put_document", chunk(start=-1), "chunks[1].start", "chunks[1].start is -1; it can be 0 or more"),
    store(
        "put_document",
        chunk(context="x" * 4001),
        "chunks[1].context",
        "chunks[1].context has 4001 characters; it must be at most 4,000 characters, none of them NUL",
    ),
    store(
        "put_document",
        PutDocumentRequest(collection="filings", document=Document(id="a"), chunks=[Chunk()] * 20_001),
        "chunks",
        "chunks has 20001 items; it can have at most 20000",
    ),
    store(
        "update_document_attributes",
        UpdateDocumentAttributesRequest(collection="filings"),
        "document",
        "document is missing; give a value",
    ),
    store(
        "delete_document",
        DeleteDocumentRequest(collection="filings", document="a", fence=-1),
        "fence",
        "fence is -1; it can be 0 or more",
    ),
    store("search", search(limit=51), "limit", "limit is 51; it can be 0 to 50"),
    store("search", search(text="x" * 8001), "text", "text has 8001 characters; it can have up to 8000 characters"),
    store(
        "search",
        search(attributes=to_values({"\0": "x"})),
        "attributes",
        f"attributes has a key that is '\\x00'; {KEY}",
    ),
    store(
        "search",
        search(attributes={"a": Value(list_value=ListValue())}),
        "attributes.a",
        "attributes.a must be a string, a number or a boolean",
    ),
    store(
        "search",
        search(attributes=to_values({"a": 2.0**54})),
        "attributes.a",
        "attributes.a is 1.8014398509481984e+16; a number is from -2^53 to 2^53",
    ),
    store(
        "search",
        search(attributes=to_values({"a": float("nan")})),
        "attributes.a",
        "attributes.a is nan; a number is from -2^53 to 2^53",
    ),
]

RETRIEVAL = [
    InvalidCall(
        RetrievalClient, "search", SearchRequest(collection="filings"), "question", f"question is missing; {QUESTION}"
    ),
    InvalidCall(
        RetrievalClient,
        "search",
        SearchRequest(collection="filings", question="\n \t"),
        "question",
        f"question is not valid; {QUESTION}",
    ),
    InvalidCall(
        RetrievalClient,
        "ask",
        AskRequest(collection="filings", question="x" * 4001),
        "question",
        f"question has 4001 characters; {QUESTION}",
    ),
    InvalidCall(
        RetrievalClient,
        "ask",
        AskRequest(collection="filings", question="x", limit=21),
        "limit",
        "limit is 21; it can be 0 to 20",
    ),
    InvalidCall(
        RetrievalClient,
        "search",
        SearchRequest(collection="filings", question="x", attributes={"a": Value()}),
        "attributes.a",
        "attributes.a must be a string, a number or a boolean",
    ),
]

EMBEDDING = [
    InvalidCall(
        EmbeddingClient,
        "embed",
        EmbedRequest(texts=["x"] * 257),
        "texts",
        "texts has 257 items; it can have at most 256",
    ),
    InvalidCall(EmbeddingClient, "embed", EmbedRequest(texts=["x", " "]), "texts[1]", f"texts[1] is not valid; {TEXT}"),
    InvalidCall(
        EmbeddingClient,
        "embed",
        EmbedRequest(texts=["x" * 32_769]),
        "texts[0]",
        f"texts[0] has 32769 characters; {TEXT}",
    ),
    InvalidCall(
        EmbeddingClient,
        "embed",
        EmbedRequest(tokens=[Tokens(ids=[1]), Tokens()]),
        "tokens[1].ids",
        "tokens[1].ids is empty; it needs at least one",
    ),
]

DOCUMENTS = [
    InvalidCall(DocumentsClient, "get_file", GetFileRequest(), "file", f"file is missing; {FILE}"),
    InvalidCall(
        DocumentsClient,
        "put_file",
        PutFileRequest(content=b"x"),
        "name",
        "name is missing; it must be the name of a file, of at most 255 characters",
    ),
    InvalidCall(
        DocumentsClient,
        "put_file",
        PutFileRequest(name="a.txt", content=b"x", purpose="fun"),
        "purpose",
        "purpose is 'fun'; it can be: assistants, batch, evals, fine-tune, user_data, vision",
    ),
    InvalidCall(
        DocumentsClient,
        "read_text",
        ReadTextRequest(file="file-1", max_characters=-1),
        "max_characters",
        "max_characters is -1; it can be 0 or more",
    ),
    InvalidCall(
        DocumentsClient,
        "index_file",
        IndexFileRequest(file="file-1", collection="a", attributes=to_values({"note": "x" * 513})),
        "attributes.note",
        f"attributes.note has 513 characters; {ATTRIBUTE}",
    ),
    InvalidCall(
        DocumentsClient, "watch_indexing", WatchIndexingRequest(), "collection", f"collection is missing; {NAME}"
    ),
]

COLLECTIONS = "/api/v1/collections"
FILINGS = f"{COLLECTIONS}/filings"
HTTP = [
    InvalidHttpRequest("POST", COLLECTIONS, {}, "name", f"name is missing; {NAME}"),
    InvalidHttpRequest(
        "POST",
        COLLECTIONS,
        {"name": "a", "metadata": {"note": "x" * 513}},
        "metadata.note",
        f"metadata.note has 513 characters; {METADATA}",
    ),
    InvalidHttpRequest(
        "GET", f"{COLLECTIONS}?page_size=1001", None, "page_size", "page_size is 1001; it can be 0 to 1000"
    ),
    InvalidHttpRequest(
        "GET", f"{COLLECTIONS}/{'x' * 129}", None, "collection", f"collection has 129 characters; {NAME}"
    ),
    InvalidHttpRequest(
        "GET", f"{FILINGS}/documents?page_size=-1", None, "page_size", "page_size is -1; it can be 0 to 1000"
    ),
    InvalidHttpRequest("GET", f"{COLLECTIONS}/%20/indexing", None, "collection", f"collection is ' '; {NAME}"),
    InvalidHttpRequest(
        "POST", f"{FILINGS}:search", {"question": " "}, "question", f"question is not valid; {QUESTION}"
    ),
    InvalidHttpRequest(
        "POST", f"{FILINGS}:search", {"question": "x", "limit": 51}, "limit", "limit is 51; it can be 0 to 50"
    ),
    InvalidHttpRequest(
        "POST",
        f"{FILINGS}:search",
        {"question": "x", "attributes": {"a": [1]}},
        "attributes.a",
        "attributes.a must be a string, a number or a boolean",
    ),
    InvalidHttpRequest(
        "POST", f"{FILINGS}:ask", {"question": "x", "limit": 21}, "limit", "limit is 21; it can be 0 to 20"
    ),
    InvalidHttpRequest(
        "POST", f"{FILINGS}:ask", {"question": "x" * 4001}, "question", f"question has 4001 characters; {QUESTION}"
    ),
]


@pytest.fixture
def rag(hashing: Profile) -> Profile:
    """A profile whose model serving does not answer."""
    models = ServiceAddress(services=("serving",), grpc="unix:/nothing", http="")
    return hashing.model_copy(update={"processes": hashing.processes | {"models": models}})


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_every_transport_rejects_invalid_fields(rag: Profile, caller: Principal, how: str) -> None:
    async with hosted(rag, SERVICES, how) as host:
        with acting_for(caller):
            await check_calls(host, [*VECTOR_STORE, *RETRIEVAL, *EMBEDDING, *DOCUMENTS])


async def test_rest_returns_400_with_the_path_of_an_invalid_field(rag: Profile) -> None:
    async with hosted(rag, SERVICES) as host:
        await check_http(host, HTTP, "documents:read documents:write")
