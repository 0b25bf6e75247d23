"""Retrieval service: search and answers with citations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing

from google.protobuf.struct_pb2 import Value

from drw.api.models.v1.serving_pb2 import ChatChunk, ChatRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.api.rag.v1 import retrieval_rpc as contract
from drw.api.rag.v1.embedding_pb2 import EmbedRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.retrieval_pb2 import Answer, AskEvent, AskRequest, SearchRequest, SearchResponse
from drw.api.rag.v1.vector_store_pb2 import Passage, VectorSearchRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel import attribute_filters
from drw.kernel.errors import DrwError
from drw.kernel.observability import gen_ai
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.audit import AuditWriter, digest
from drw.rag.retrieval import checks, prompt
from drw.rag.retrieval.openai import SearchRoute
from drw.rag.retrieval.settings import Settings

PROVIDER = "drw"
"""The provider in retrieval spans, by OpenTelemetry's conventions."""
SEARCH_LIMIT = 8
ASK_LIMIT = 4


class Retrieval(contract.Retrieval):
    """Serves `drw.api.rag.v1.Retrieval`."""

    def __init__(
        self,
        embedding: EmbeddingClient,
        store: VectorStoreClient,
        serving: ServingClient,
        audit: AuditWriter,
        settings: Settings,
    ) -> None:
        self._embedding = embedding
        self._store = store
        self._serving = serving
        self._audit = audit
        self._settings = settings

    async def search(self, request: SearchRequest, /) -> SearchResponse:
        response = await self._retrieve(request, request.limit or SEARCH_LIMIT, request.attributes)
        await self._record("collection.search", request.collection, request.question, response.passages)
        return response

    async def ask(self, request: AskRequest, /) -> AsyncIterator[AskEvent]:
        response = await self._retrieve(request, request.limit or ASK_LIMIT, {})
        passages = response.passages
        await self._record("collection.ask", request.collection, request.question, passages)
        yield AskEvent(sources=response)
        answer_stream = _AnswerStream()
        if passages:
            async with aclosing(answer_stream.read(self._serving.chat(self._chat(request, passages)))) as texts:
                async for text in texts:
                    yield AskEvent(text=text)
        else:
            answer_stream.incomplete = "no answer: the collection has no passage that matches the question"
        answer = checks.check(answer_stream.text, request.question, passages) if answer_stream.text else Answer()
        answer.model = answer_stream.model
        answer.incomplete = answer_stream.incomplete
        await self._record_answer(request, answer)
        yield AskEvent(answer=answer)

    async def _retrieve(
        self, request: SearchRequest | AskRequest, limit: int, attributes: Mapping[str, Value]
    ) -> SearchResponse:
        question = request.question
        collection = request.collection
        attribute_filters.from_struct(request.filter)  # before the question is embedded
        span_attributes = {gen_ai.DATA_SOURCE: collection, gen_ai.TOP_K: limit}
        with gen_ai.operation(gen_ai.RETRIEVAL, collection, PROVIDER, span_attributes):
            embedded = await self._embedding.embed(EmbedRequest(texts=[question], long_text=EmbedRequest.AVERAGE))
            vector_search = VectorSearchRequest(
                collection=collection,
                text=question,
                vector=embedded.vectors[0],
                limit=limit,
                attributes=attributes,
                filter=request.filter,
                no_auto_filters=request.HasField("auto_filters") and not request.auto_filters,
            )
            hits = await self._store.search(vector_search)
        return SearchResponse(passages=hits.passages, applied_filters=hits.applied_filters)

    def _chat(self, request: AskRequest, passages: Sequence[Passage]) -> ChatRequest:
        return ChatRequest(
            model=request.model,
            messages=prompt.messages(request.question, passages, self._settings.source_tokens),
            max_tokens=self._settings.answer_tokens,
            temperature=self._settings.temperature,
            seed=0,
        )

    async def _record(self, action: str, collection: str, question: str, passages: Sequence[Passage]) -> None:
        passage_records = [{"document": p.document, "chunk": p.chunk, "hash": p.hash} for p in passages]
        details = {"question_sha256": digest(question), "passages": passage_records}
        await self._audit.record(action, collection, details=details)

    async def _record_answer(self, request: AskRequest, answer: Answer) -> None:
        details = {
            "question_sha256": digest(request.question),
            "answer_sha256": digest(answer.text),
            "model": answer.model,
            "cited": [citation.passage.hash for citation in answer.citations],
            "supported": answer.supported,
        }
        outcome = "incomplete" if answer.incomplete else "ok"
        await self._audit.record("collection.answer", request.collection, outcome=outcome, details=details)


class _AnswerStream:
    """The text of an answer while it is streamed, and the reason if it is incomplete."""

    def __init__(self) -> None:
        self.text = ""
        self.model = ""
        self.incomplete = ""

    async def read(self, chunks: AsyncIterator[ChatChunk]) -> AsyncGenerator[str, None]:
        """Yield the text of the answer in chunks; a failure ends the stream and becomes the reason in `incomplete`."""
        finish_reason = ""
        try:
            async with aclosing(chunks):  # type: ignore[type-var]
                async for chunk in chunks:
                    self.model = chunk.model or self.model
                    finish_reason = chunk.finish_reason or finish_reason
                    if chunk.text:
                        self.text += chunk.text
                        yield chunk.text
            self.incomplete = _incomplete_reason(finish_reason)
        except DrwError as error:
            self.incomplete = f"the answer was cut off: {error.message}" if self.text else f"no answer: {error.message}"


def _incomplete_reason(finish_reason: str) -> str:
    """Return why an answer with this finish reason is incomplete; empty if it is complete."""
    if finish_reason == "stop":
        return ""
    if finish_reason == "length":
        return "the answer was cut off at the token limit"
    return f"the answer was cut off: the model stopped with {finish_reason!r}"


async def build(scope: ServiceContext) -> Retrieval:
    """Build the service from its settings."""
    service = Retrieval(
        scope.client(EmbeddingClient),
        scope.client(VectorStoreClient),
        scope.client(ServingClient),
        scope.audit(),
        scope.settings(Settings),
    )
    scope.require_database()  # each search writes an audit record
    scope.require_service("embedding")
    scope.require_service("vector_store")  # not serving: searches work without it
    scope.routes.append(SearchRoute(service.search).route())
    return service
