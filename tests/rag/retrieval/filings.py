"""Two filings, and doubles for the two models, whose words and vectors must be known beforehand."""

from __future__ import annotations

from drw.api.models.v1 import serving_rpc
from drw.api.models.v1.serving_pb2 import ChatChunk
from drw.api.rag.v1 import embedding_rpc
from drw.api.rag.v1.embedding_pb2 import EmbedResponse
from drw.api.rag.v1.vector_store_pb2 import CreateCollectionRequest
from drw.kernel.errors import Unavailable
from support.passages import put, vector

APPLE = "Apple Inc. · Form 10-Q · period ended July 1, 2023"
INTEL = "Intel Corporation · Form 10-Q · period ended July 1, 2023"


class DoubleEmbedding(embedding_rpc.Embedding):
    """Gives texts that share words vectors that are near."""

    async def embed(self, request):
        return EmbedResponse(vectors=[vector(text) for text in request.texts], model="double")


class DoubleServing(serving_rpc.Serving):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self):
        self.pieces = ["ok"]
        self.finish = "stop"
        self.breaks = None
        self.asked = []

    async def chat(self, request):
        self.asked.append(request)
        for piece in self.pieces:
            yield ChatChunk(text=piece, model="double-1")
        if self.breaks:
            raise Unavailable(self.breaks)
        yield ChatChunk(finish_reason=self.finish, model="double-1")


async def fill(store):
    await store.create_collection(CreateCollectionRequest(name="filings"))
    apple = [
        "Statements of operations (in millions)\nTotal net sales $ 81,797 $ 82,959",
        "Gross margin rose to 44.5 %.",
    ]
    intel = ["Net revenue (in millions)\nTotal net revenue $ 12,949 $ 15,321", "Gross margin fell to 35.8 %."]
    await store.put_document(put("filings", "file-a", apple, title="2023 Q3 AAPL.pdf", context=APPLE, ticker="AAPL"))
    await store.put_document(put("filings", "file-i", intel, title="2023 Q2 INTC.pdf", context=INTEL, ticker="INTC"))
