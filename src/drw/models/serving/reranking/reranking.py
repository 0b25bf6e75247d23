"""`POST /v1/rerank`: validates, meters and runs a reranking."""

from __future__ import annotations

import secrets
from random import Random

import orjson

from drw.api.models.v1.discovery_pb2 import ResolvedModel
from drw.billing.usage import UsageUpdate
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.metering.version_prices import default_price
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.ports import Ranking
from drw.models.serving.reranking.engines import RerankEngines
from drw.models.serving.reranking.request import Rerank
from drw.models.serving.routing.model_directory import EMBEDDING, RERANKER, ModelDirectory
from drw.models.serving.upstreams import ENGINE_FAILURES, estimated_tokens


class Reranking:
    """Serves `POST /v1/rerank` with a reranker, or with an embedding model as a bi-encoder."""

    def __init__(self, models: ModelDirectory, metering: BudgetGate, engines: RerankEngines, random: Random) -> None:
        self._models = models
        self._metering = metering
        self._engines = engines
        self._random = random

    async def respond(self, request: Rerank, record: CallRecord) -> bytes:
        """Return the body of the response; the record is closed."""
        record.models.add(request.model)
        plan = await self._models.of_kind(request.model, RERANKER, EMBEDDING)
        *others, last = plan.order(self._random)
        for resolved in others:
            try:
                return await self._respond(request, resolved, record)
            except ENGINE_FAILURES as error:
                record.add_attempt({"model": resolved.model.id, "outcome": error.reason})
        return await self._respond(request, last, record)

    async def _respond(self, request: Rerank, resolved: ResolvedModel, record: CallRecord) -> bytes:
        model, texts = resolved.model, request.texts()
        record.set_model(model.id, model.engine, resolved.upstream_model or model.id, requested=request.model)
        # A cross-encoder reads the query with each document.
        inputs = [*texts, *[request.query] * len(texts)]
        async with self._metering.embedding(model.id, inputs, record, "rerank", default_price(resolved)) as call:
            ranking = await self._engines.rank(resolved, request.query, texts, record)
            tokens = estimated_tokens(inputs) if ranking.tokens is None else ranking.tokens
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            await call.progress(UsageUpdate(input_tokens=tokens, output_tokens=0, final=True))
            body = _body(request, texts, ranking, usage)
            record.set_answer(body, usage)
            record.response_body = body
        return body


def _body(request: Rerank, texts: list[str], ranking: Ranking, usage: dict[str, int]) -> bytes:
    order = sorted(range(len(texts)), key=lambda index: (-ranking.scores[index], index))
    with_documents = request.return_documents in (None, True)
    results = [
        {"index": index, "relevance_score": ranking.scores[index]}
        | ({"document": {"text": texts[index]}} if with_documents else {})
        for index in order[: request.top_n]
    ]
    head = {"id": f"rerank-{secrets.token_hex(12)}", "object": "list", "model": request.model}
    return orjson.dumps({**head, "results": results, "usage": usage})
