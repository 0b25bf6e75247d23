"""The serving service: chat for other services, OpenAI's endpoints, status of the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random

from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.models.v1 import serving_rpc as contract
from drw.api.models.v1.discovery_pb2 import ListModelsRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.experiments_pb2 import WatchRoutingRequest
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.api.models.v1.serving_pb2 import (
    ChatChunk,
    ChatRequest,
    ProbeRequest,
    ProbeResponse,
    Replicas,
    WatchReplicasRequest,
)
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import caller
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.runtime.settings import ConfigError
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList
from drw.models.serving.anthropic import endpoints as anthropic
from drw.models.serving.batches import setup as batches
from drw.models.serving.batches.endpoints import endpoints as endpoints_of_batches
from drw.models.serving.experiments.calls import CallExperiments
from drw.models.serving.experiments.routing_table import RoutingTable
from drw.models.serving.experiments.shadow import ShadowCalls
from drw.models.serving.failover.loop import FailoverPolicy
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.http import endpoints, text_endpoints
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.embeddings import Embeddings
from drw.models.serving.http.model_list import ModelList
from drw.models.serving.metering.budget_gate import build as build_metering
from drw.models.serving.moderation.build import build_moderations
from drw.models.serving.observability import content_capture
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.open_inference.build import serve_open_inference
from drw.models.serving.openai import conversion
from drw.models.serving.ports import ChatEngine
from drw.models.serving.request_runner import RequestRunner
from drw.models.serving.responses_api.calls import ResponseCalls
from drw.models.serving.responses_api.endpoints import ResponseEndpoints
from drw.models.serving.responses_api.file_search import FileSearch
from drw.models.serving.responses_api.store import ResponseStore
from drw.models.serving.routing import replica_state
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.model_checks import ModelChecks, is_chat_model
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.routing.probing import ModelProber
from drw.models.serving.routing.replica_checks import ReplicaChecks
from drw.models.serving.routing.runtime_directory import RuntimeDirectory
from drw.models.serving.runtime.build import build_runtime
from drw.models.serving.settings import Settings as ServingSettings

DATABASE_CONNECTIONS = 6
"""Shared by stored responses and batches."""


class Serving(contract.Serving):
    """Serves `drw.api.models.v1.Serving`."""

    def __init__(
        self,
        runner: RequestRunner,
        kills: KillList,
        audit: AuditWriter,
        buffers: BodyBuffers,
        models: ModelDirectory,
        prober: ModelProber,
        changes: replica_state.Changes,
    ) -> None:
        self._models = models
        self._prober = prober
        self._changes = changes
        self._runner = runner
        self._kills = kills
        self._audit = audit
        self._buffers = buffers

    async def chat(self, request: ChatRequest, /) -> AsyncIterator[ChatChunk]:
        """Stream the answer of a chat model; the last message has the finish reason and the usage."""
        with self._buffers.reserve(caller().org) as reserve_bytes:
            reserve_bytes(request.ByteSize())
            record = CallRecord(self._audit, "chat", request.SerializeToString(deterministic=True))
            try:
                completion = conversion.to_chat_completion(request)
                answer, chunks = await self._runner.start(
                    "chat/completions", completion, record, model=request.model, stream=True
                )
                async with aclosing(
                    self._kills.guard_stream(caller(), lambda: record.models, chunks)
                ) as chunks_until_kill:
                    async for chunk in chunks_until_kill:
                        if text := conversion.chunk_text(chunk):
                            yield ChatChunk(text=text)
            except BaseException as error:
                await record.fail(error)
                raise
            yield conversion.final_chunk(answer, answer.model)

    async def probe(self, request: ProbeRequest, /) -> ProbeResponse:
        """Send a tiny request to each replica of a model that no caller has used recently."""
        probes = await self._prober.probe(request.model, request.fresh_seconds, request.timeout_seconds)
        return ProbeResponse(probes=probes)

    async def watch_replicas(self, request: WatchReplicasRequest, /) -> AsyncIterator[Replicas]:
        """Send the state of the replicas in use now and after each change."""
        async with aclosing(replica_state.watch(self._models, self._changes)) as states:
            async for state in states:
                yield state


class Engines:
    """The engine adapters, created on first use."""

    def __init__(self, scope: ServiceContext, settings: ServingSettings) -> None:
        self._scope = scope
        self._settings = settings
        self._engines: dict[str, ChatEngine] = {}

    def get(self, name: str) -> ChatEngine:
        """Return the adapter with this name."""
        if name not in self._engines:
            if name not in (adapters := self._scope.adapters()):
                raise ConfigError(f"there is no engine {name!r}; there are: {', '.join(adapters)}")
            section = getattr(self._settings, name).model_dump()
            self._engines[name] = self._scope.make_adapter(ChatEngine, name, section)  # type: ignore[type-abstract]
        return self._engines[name]

    async def close(self) -> None:
        """Close the connections of all adapters."""
        for engine in self._engines.values():
            await engine.close()


async def build(scope: ServiceContext) -> Serving:
    """Build the service from its settings."""
    settings = scope.settings(ServingSettings)
    content_capture.set_limit(settings.capture_characters if settings.capture_content else 0)
    engines = Engines(scope, settings)
    scope.on_stop(engines.close)

    def queue(model: str, concurrent: int) -> AdmissionQueue:
        return AdmissionQueue(model, concurrent, settings.max_waiting, settings.max_waiting_seconds)

    clock = Clock()
    retries = RetryBudget(settings.retries, clock, Random())
    kills = KillList(scope.client(RequestRouterClient), scope.folder / "kills")
    scope.background(kills.follow)
    policy = FailoverPolicy(clock, Random(), retries, settings.circuits, kills, settings.total_seconds)
    discovery = scope.client(DiscoveryClient)
    changes = replica_state.Changes()
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
    metering = await build_metering(scope, settings.metering)
    embedding = scope.client(EmbeddingClient)
    embeddings = Embeddings(models, embedding, metering)
    moderations = build_moderations(scope, settings, models, metering, queue)
    audit = scope.audit()
    buffers = BodyBuffers(settings.max_buffered_bytes_per_org, settings.max_buffered_bytes)
    table = _routing_table(scope)
    scope.background(table.follow)
    shadows = ShadowCalls(models, policy, metering, kills, scope.audit(), settings.max_shadow_calls)
    scope.on_stop(shadows.close)
    runner = RequestRunner(models, policy, metering, CallExperiments(models, table, shadows))
    audited = endpoints.AuditedEndpoints(audit, kills, buffers, settings.max_body_bytes)
    scope.routes += endpoints.routes(runner, embeddings, audited)
    scope.routes += text_endpoints.build(scope, settings, models, metering, queue, pool, moderations, audited)
    scope.routes += ModelList(discovery).routes()
    scope.routes += anthropic.routes(runner, audited, buffers, settings.max_body_bytes)
    directory = RuntimeDirectory(discovery, pool, switch, kills, clock, settings.remember_models_seconds)
    serve_open_inference(scope, settings, directory, metering, kills, audit, buffers)
    database = await scope.database(pool_size=DATABASE_CONNECTIONS)
    store = ResponseStore(database, audit, settings.responses)
    scope.background(store.expire)
    vectors = scope.client(VectorStoreClient) if scope.has("vector_store") else None
    files = FileSearch(embedding, vectors, audit, settings.responses.file_search_characters)
    responses = ResponseCalls(runner, store, files, settings.responses)
    scope.routes += ResponseEndpoints(responses, store).routes(audited)
    served = endpoints_of_batches(models, runner, responses, embeddings, moderations)
    batch_store = batches.build(scope, settings.batches, database, served, kills)
    checks = ModelChecks(models, clock)

    async def describe() -> str:
        models_listed = (await discovery.list_models(ListModelsRequest())).models
        chat_models = [model.id for model in models_listed if is_chat_model(model)]
        if errors := await checks.errors(chat_models):
            raise Unavailable("; ".join([*errors, *_open_circuits(models, clock)]))
        names = [f"{model.id} (default)" if model.default else model.id for model in models_listed]
        active = await batch_store.active() if batch_store else 0
        running = [f"{active} batches in progress"] if active else []
        return "; ".join([", ".join(names) or "no models", *running, *_open_circuits(models, clock)])

    async def check_models() -> None:
        if (names := await checks.chat_models(discovery)) and len(await checks.errors(names)) == len(names):
            raise Unavailable("no chat model answers")

    scope.describe(describe)
    scope.require_database()  # each answer needs its audit record
    scope.require("a chat model", check_models)
    return Serving(runner, kills, audit, buffers, models, ModelProber(models, discovery, embedding, clock), changes)


def _routing_table(scope: ServiceContext) -> RoutingTable:
    if not scope.has("experiments"):
        return RoutingTable()
    client = scope.client(ExperimentsClient)
    return RoutingTable(lambda: client.watch_routing(WatchRoutingRequest()), scope.folder / "routing.pb")


def _open_circuits(models: ModelDirectory, clock: Clock) -> list[str]:
    """Describe each circuit that is not closed."""
    lines = []
    for model, replica in models.replicas():
        if replica.circuit.state is State.HALF_OPEN:
            lines.append(f"circuit of {model} at {replica.name} half-open: probing")
        elif replica.circuit.state is State.OPEN:
            remaining = max(0.0, replica.circuit.ready_at - clock.time())
            lines.append(f"circuit of {model} at {replica.name} open for {remaining:.0f} s more")
    return lines
