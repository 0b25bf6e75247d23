"""Composition of the serving service: the parts that endpoints share, and the endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.experiments_pb2 import WatchRoutingRequest
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList
from drw.models.serving.anthropic import endpoints as anthropic
from drw.models.serving.batches import setup as batches
from drw.models.serving.batches.endpoints import endpoints as endpoints_of_batches
from drw.models.serving.batches.store import BatchStore
from drw.models.serving.engines.adapters import Engines
from drw.models.serving.experiments.calls import CallExperiments
from drw.models.serving.experiments.shadow import ShadowCalls
from drw.models.serving.failover.loop import FailoverPolicy
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.http import endpoints, text_endpoints
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.embeddings import Embeddings
from drw.models.serving.http.model_list import ModelList
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.metering.budget_gate import build as build_metering
from drw.models.serving.moderation.build import build_moderations
from drw.models.serving.moderation.moderations import Moderations
from drw.models.serving.open_inference.build import serve_open_inference
from drw.models.serving.request_runner import RequestRunner
from drw.models.serving.responses_api.calls import ResponseCalls
from drw.models.serving.responses_api.endpoints import ResponseEndpoints
from drw.models.serving.responses_api.file_search import FileSearch
from drw.models.serving.responses_api.store import ResponseStore
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.routing.replica_checks import ReplicaChecks
from drw.models.serving.routing.replica_state import Changes
from drw.models.serving.routing.runtime_directory import RuntimeDirectory
from drw.models.serving.runtime.build import build_runtime
from drw.models.serving.runtime.plan_switch import PlanSwitch
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.settings import Settings
from drw.routing.experiments.routing_table import RoutingTable

DATABASE_CONNECTIONS = 6
"""Shared by stored responses and batches."""


@dataclass(frozen=True)
class Routing:
    """Finds the models and replicas that can answer a request."""

    clock: Clock
    discovery: DiscoveryClient
    kills: KillList
    pool: ModelPool
    switch: PlanSwitch
    queue: Callable[[str, int], AdmissionQueue]
    changes: Changes
    models: ModelDirectory


@dataclass(frozen=True)
class Calls:
    """Runs metered and audited calls of models."""

    metering: BudgetGate
    audit: AuditWriter
    runner: RequestRunner
    embedding: EmbeddingClient
    embeddings: Embeddings
    moderations: Moderations
    buffers: BodyBuffers
    audited: endpoints.AuditedEndpoints


def build_routing(scope: ServiceContext, settings: Settings) -> Routing:
    """Build routing, and follow kills, models and replicas in the background."""
    engines = Engines(scope, settings)
    scope.on_stop(engines.close)

    def queue(model: str, concurrent: int) -> AdmissionQueue:
        return AdmissionQueue(model, concurrent, settings.max_waiting, settings.max_waiting_seconds)

    clock, changes = Clock(), Changes()
    kills = KillList(scope.client(RequestRouterClient), scope.folder / "kills")
    scope.background(kills.follow)
    discovery = scope.client(DiscoveryClient)
    pool, switch = build_runtime(scope, settings, discovery, clock)
    models = ModelDirectory(
        discovery,
        engines.get,
        queue,
        settings.circuits,
        clock,
        settings.remember_models_seconds,
        kills,
        changes.notify,
        pool,
        switch,
    )
    scope.background(models.follow)
    scope.background(ReplicaChecks(models, clock, settings.replica_checks).run)
    return Routing(clock, discovery, kills, pool, switch, queue, changes, models)


async def build_calls(scope: ServiceContext, settings: Settings, routing: Routing) -> Calls:
    """Build the path of a call: failover, metering, experiments, audit and limits of buffered bytes."""
    metering = await build_metering(scope, settings.metering)
    audit = scope.audit()
    embedding = scope.client(EmbeddingClient)
    buffers = BodyBuffers(settings.max_buffered_bytes_per_org, settings.max_buffered_bytes)
    return Calls(
        metering,
        audit,
        _build_runner(scope, settings, routing, metering),
        embedding,
        Embeddings(routing.models, embedding, metering),
        build_moderations(scope, settings, routing.models, metering, routing.queue),
        buffers,
        endpoints.AuditedEndpoints(audit, routing.kills, buffers, settings.max_body_bytes),
    )


def _build_runner(scope: ServiceContext, settings: Settings, routing: Routing, metering: BudgetGate) -> RequestRunner:
    models, clock, kills = routing.models, routing.clock, routing.kills
    retries = RetryBudget(settings.retries, clock, Random())
    policy = FailoverPolicy(clock, Random(), retries, settings.circuits, kills, settings.total_seconds)
    table = _routing_table(scope)
    scope.background(table.follow)
    shadows = ShadowCalls(models, policy, metering, kills, scope.audit(), settings.max_shadow_calls)
    scope.on_stop(shadows.close)
    return RequestRunner(models, policy, metering, CallExperiments(models, table, shadows))


def _routing_table(scope: ServiceContext) -> RoutingTable:
    if not scope.has("experiments"):
        return RoutingTable()
    client = scope.client(ExperimentsClient)
    return RoutingTable(lambda: client.watch_routing(WatchRoutingRequest()), scope.folder / "routing.pb")


def add_model_endpoints(scope: ServiceContext, settings: Settings, routing: Routing, calls: Calls) -> None:
    """Add the endpoints that store nothing: OpenAI's, Anthropic's, reranking and tokens, Open Inference."""
    audited, buffers = calls.audited, calls.buffers
    scope.routes += endpoints.routes(calls.runner, calls.embeddings, audited)
    scope.routes += text_endpoints.build(
        scope, settings, routing.models, calls.metering, routing.queue, routing.pool, calls.moderations, audited
    )
    scope.routes += ModelList(routing.discovery).routes()
    scope.routes += anthropic.routes(calls.runner, audited, buffers, settings.max_body_bytes)
    directory = RuntimeDirectory(
        routing.discovery,
        routing.pool,
        routing.switch,
        routing.kills,
        routing.clock,
        settings.remember_models_seconds,
    )
    serve_open_inference(scope, settings, directory, calls.metering, routing.kills, calls.audit, buffers)


async def add_stored_endpoints(
    scope: ServiceContext, settings: Settings, routing: Routing, calls: Calls
) -> BatchStore | None:
    """Add stored responses and batches, which share a database; return the batches, if the profile can have them."""
    database = await scope.database(pool_size=DATABASE_CONNECTIONS)
    store = ResponseStore(database, calls.audit, settings.responses)
    scope.background(store.expire)
    vectors = scope.client(VectorStoreClient) if scope.has("vector_store") else None
    files = FileSearch(calls.embedding, vectors, calls.audit, settings.responses.file_search_characters)
    responses = ResponseCalls(calls.runner, store, files, settings.responses)
    scope.routes += ResponseEndpoints(responses, store).routes(calls.audited)
    served = endpoints_of_batches(routing.models, calls.runner, responses, calls.embeddings, calls.moderations)
    return batches.build(scope, settings.batches, database, served, routing.kills)
