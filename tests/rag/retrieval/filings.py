"""Two filings, and doubles for the two models, with predictable answers and vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator

from drw.api.models.v1 import serving_rpc
from drw.api.models.v1.serving_pb2 import ChatChunk, ChatRequest
from drw.api.rag.v1 import embedding_rpc
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, EmbedResponse
from drw.api.rag.v1.vector_store_pb2 import CreateCollectionRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.errors import Unavailable
from rag.passages import put, vector

APPLE = "Apple Inc. · Form 10-Q · period ended July 1, 2023"
INTEL = "Intel Corporation · Form 10-Q · period ended July 1, 2023"


class DoubleEmbedding(embedding_rpc.Embedding):
    """Gives texts that share words similar vectors."""

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        return EmbedResponse(vectors=[vector(text) for text in request.texts], model="double")


class DoubleServing(serving_rpc.Serving):
    """Streams the configured answer and records the requests."""

    def __init__(self) -> None:
        self.texts = ["ok"]
        self.finish = "stop"
        self.error: str | None = None
        self.requests: list[ChatRequest] = []

    async def chat(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        self.requests.append(request)
        for text in self.texts:
            yield ChatChunk(text=text, model="double-1")
        if self.error:
            raise Unavailable(self.error)
        yield ChatChunk(finish_reason=self.finish, model="double-1")


async def fill(store: VectorStoreClient) -> None:
    await store.create_collection(CreateCollectionRequest(name="filings"))
    apple = [
        "Statements of operations (in millions)\nTotal net sales $ 81,797 $ 82,959",
        "Gross margin rose to 44.5 %.",
    ]
    intel = ["Net revenue (in millions)\nTotal net revenue $ 12,949 $ 15,321", "Gross margin fell to 35.8 %."]
    await store.put_document(put("filings", "file-a", apple, title="2023 Q3 AAPL.pdf", context=APPLE, ticker="AAPL"))
    await store.put_document(put("filings", "file-i", intel, title="2023 Q2 INTC.pdf", context=INTEL, ticker="INTC"))
