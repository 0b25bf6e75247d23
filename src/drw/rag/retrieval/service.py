"""Retrieval service: search and answers with citations."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import Any

from google.protobuf.struct_pb2 import Value

from drw.api.models.v1.experiments_pb2 import WatchRoutingRequest
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.api.models.v1.serving_pb2 import ChatChunk, ChatRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.api.rag.v1 import retrieval_rpc as contract
from drw.api.rag.v1.embedding_pb2 import EmbedRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.retrieval_pb2 import Answer, AskEvent, AskRequest, SearchRequest, SearchResponse
from drw.api.rag.v1.vector_store_pb2 import Passage, VectorSearchRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel import attribute_filters
from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.observability import gen_ai
from drw.kernel.rpc.context import caller
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.audit import AuditWriter, digest
from drw.rag.retrieval import checks, exposures, prompt
from drw.rag.retrieval.openai import SearchRoute
from drw.rag.retrieval.settings import Settings
from drw.routing.experiments.exposures import Assigned
from drw.routing.experiments.retrieval_settings import UNCHANGED, SearchSettings
from drw.routing.experiments.routing_table import CallUnits, RoutingTable

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
        experiments: RoutingTable,
    ) -> None:
        self._embedding = embedding
        self._store = store
        self._serving = serving
        self._audit = audit
        self._settings = settings
        self._experiments = experiments

    async def search(self, request: SearchRequest, /) -> SearchResponse:
        response = await self._retrieve(request, SEARCH_LIMIT, request.attributes, UNCHANGED)
        await self._record("collection.search", request.collection, request.question, response.passages, {})
        return response

    async def ask(self, request: AskRequest, /) -> AsyncIterator[AskEvent]:
        answer_stream = _AnswerStream(f"ask_{secrets.token_hex(12)}")
        units = CallUnits.bounded(request.user, request.session, "", answer_stream.id)
        assigned = self._experiments.assign_search(request.model, caller(), units)
        response = await self._retrieve_assigned(request, assigned)
        passages = response.passages
        arm = assigned.assignment.details() if assigned and assigned.assignment else {}
        await self._record("collection.ask", request.collection, request.question, passages, arm)
        yield AskEvent(sources=response)
        if passages:
            chat = self._chat(request, passages, answer_stream.id, assigned)
            async with aclosing(answer_stream.read(self._serving.chat(chat))) as texts:
                async for text in texts:
                    yield AskEvent(text=text)
        else:
            answer_stream.incomplete = "no answer: the collection has no passage that matches the question"
        answer = checks.check(answer_stream.text, request.question, passages) if answer_stream.text else Answer()
        answer.model = answer_stream.model
        answer.incomplete = answer_stream.incomplete
        answer.id = answer_stream.id
        answer.experiment = answer_stream.experiment or arm.get("experiment", "")
        await self._record_answer(request, answer, assigned, answered=answer_stream.finished)
        yield AskEvent(answer=answer)

    async def _retrieve_assigned(self, request: AskRequest, assigned: Assigned | None) -> SearchResponse:
        started_at = perf_counter()
        try:
            return await self._retrieve(request, ASK_LIMIT, {}, assigned.search if assigned else UNCHANGED)
        except DrwError as error:
            details = {"question_sha256": digest(request.question), "ms": (perf_counter() - started_at) * 1000}
            await exposures.record_failed_search(self._audit, assigned, request.collection, details, error)
            raise

    async def _retrieve(
        self,
        request: SearchRequest | AskRequest,
        default_limit: int,
        attributes: Mapping[str, Value],
        arm: SearchSettings,
    ) -> SearchResponse:
        question = request.question
        collection = request.collection
        limit, threshold = arm.limit_of(request.limit, default_limit), arm.threshold_of(_threshold(request))
        auto_filters = request.auto_filters if request.HasField("auto_filters") else None
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
                second_filter=arm.filter,
                no_auto_filters=not arm.auto_filters_of(auto_filters),
            )
            hits = await self._store.search(vector_search)
        passages = [passage for passage in hits.passages if passage.score >= threshold]
        return SearchResponse(passages=passages, applied_filters=hits.applied_filters)

    def _chat(
        self, request: AskRequest, passages: Sequence[Passage], answer_id: str, assigned: Assigned | None
    ) -> ChatRequest:
        return ChatRequest(
            model=request.model,
            messages=prompt.messages(request.question, passages, self._settings.source_tokens),
            max_tokens=self._settings.answer_tokens,
            temperature=self._settings.temperature,
            seed=0,
            user=request.user,
            session=request.session,
            response_id=answer_id,
            assignment=assigned.message() if assigned else None,
        )

    async def _record(
        self, action: str, collection: str, question: str, passages: Sequence[Passage], arm: Mapping[str, str]
    ) -> None:
        passage_records = [{"document": p.document, "chunk": p.chunk, "hash": p.hash} for p in passages]
        details = {"question_sha256": digest(question), "passages": passage_records, **arm}
        await self._audit.record(action, collection, details=details)

    async def _record_answer(
        self, request: AskRequest, answer: Answer, assigned: Assigned | None, *, answered: bool
    ) -> None:
        details: dict[str, Any] = {
            "question_sha256": digest(request.question),
            "answer_sha256": digest(answer.text),
            "model": answer.model,
            "cited": [citation.passage.hash for citation in answer.citations],
            "supported": answer.supported,
        }
        if answer.experiment:
            details["experiment"] = answer.experiment
        outcome = "incomplete" if answer.incomplete else "ok"
        if answered:  # then serving has recorded the exposure
            await self._audit.record("collection.answer", request.collection, outcome=outcome, details=details)
        else:
            await exposures.record_unanswered(self._audit, assigned, request.collection, outcome, details)


class _AnswerStream:
    """The text of an answer while it is streamed, and the reason if it is incomplete."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.text = ""
        self.model = ""
        self.incomplete = ""
        self.experiment = ""
        self.finished = False
        """Whether the model has ended the answer."""

    async def read(self, chunks: AsyncIterator[ChatChunk]) -> AsyncGenerator[str, None]:
        """Yield the text of the answer in chunks; a failure ends the stream and becomes the reason in `incomplete`."""
        finish_reason = ""
        try:
            async with aclosing(chunks):  # type: ignore[type-var]
                async for chunk in chunks:
                    self.model = chunk.model or self.model
                    finish_reason = chunk.finish_reason or finish_reason
                    self.experiment = chunk.experiment or self.experiment
                    if chunk.text:
                        self.text += chunk.text
                        yield chunk.text
            self.finished = True
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


def _threshold(request: SearchRequest | AskRequest) -> float:
    if not 0 <= request.score_threshold <= 1:
        message = f"score_threshold is {request.score_threshold:g}; it can be 0 to 1"
        raise InvalidRequest(message, param="score_threshold")
    return request.score_threshold


def _routing_table(scope: ServiceContext) -> RoutingTable:
    if not scope.has("experiments"):
        return RoutingTable()
    client = scope.client(ExperimentsClient)
    table = RoutingTable(lambda: client.watch_routing(WatchRoutingRequest()), scope.folder / "routing.pb")
    scope.background(table.follow)
    return table


async def build(scope: ServiceContext) -> Retrieval:
    """Build the service from its settings."""
    service = Retrieval(
        scope.client(EmbeddingClient),
        scope.client(VectorStoreClient),
        scope.client(ServingClient),
        scope.audit(),
        scope.settings(Settings),
        _routing_table(scope),
    )
    scope.require_database()  # each search writes an audit record
    scope.require_service("embedding")
    scope.require_service("vector_store")  # not serving: searches work without it
    scope.routes.append(SearchRoute(service.search).route())
    return service
