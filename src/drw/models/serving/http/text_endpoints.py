"""Endpoints that read texts and answer in one piece: reranking, tokens and moderation."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from starlette.routing import BaseRoute, Route

from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.kernel.runtime.host import ServiceContext
from drw.models.serving.http.endpoints import AuditedEndpoints
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.moderation.moderations import POLICY, Moderation, Moderations
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import parse_request
from drw.models.serving.ports import RerankEngine
from drw.models.serving.reranking.bi_encoder import BiEncoder
from drw.models.serving.reranking.engines import RerankEngines
from drw.models.serving.reranking.request import Rerank
from drw.models.serving.reranking.reranking import Reranking
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.settings import Settings
from drw.models.serving.tokenizing.tokenization import Detokenize, Tokenization, Tokenize
from drw.models.serving.upstreams import UpstreamCalls


def build(
    scope: ServiceContext,
    settings: Settings,
    models: ModelDirectory,
    metering: BudgetGate,
    queue: Callable[[str, int], AdmissionQueue],
    pool: ModelPool,
    moderations: Moderations,
    audited: AuditedEndpoints,
) -> list[BaseRoute]:
    """Return the routes."""
    upstream = settings.openai.model_dump()
    reranker = scope.make_adapter(RerankEngine, "rerank_api", upstream)  # type: ignore[type-abstract]
    scope.on_stop(reranker.close)
    engines = RerankEngines(UpstreamCalls(queue), reranker, BiEncoder(scope.client(EmbeddingClient)), pool)
    reranking = Reranking(models, metering, engines, Random())
    return routes(reranking, moderations, Tokenization(models), audited)


def routes(
    reranking: Reranking, moderations: Moderations, tokenization: Tokenization, audited: AuditedEndpoints
) -> list[BaseRoute]:
    """Return the routes of these services."""

    async def rerank(exchange: HttpExchange, record: CallRecord) -> None:
        request = parse_request(Rerank, record.request)
        await exchange.send_response(await reranking.respond(request, record), request.model)

    async def moderate(exchange: HttpExchange, record: CallRecord) -> None:
        request = parse_request(Moderation, record.request)
        await exchange.send_response(await moderations.respond(request, record), request.model or POLICY)

    async def tokenize(exchange: HttpExchange, record: CallRecord) -> None:
        request = parse_request(Tokenize, record.request)
        await exchange.send_response(await tokenization.tokenize(request, record), request.model)

    async def detokenize(exchange: HttpExchange, record: CallRecord) -> None:
        request = parse_request(Detokenize, record.request)
        await exchange.send_response(await tokenization.detokenize(request, record), request.model)

    served = {
        "/v1/rerank": ("rerank", rerank),
        "/v1/moderations": ("moderation", moderate),
        "/v1/tokenize": ("tokenize", tokenize),
        "/v1/detokenize": ("tokenize", detokenize),
    }
    return [
        Route(path, audited.endpoint(operation, serve), methods=["POST"]) for path, (operation, serve) in served.items()
    ]
