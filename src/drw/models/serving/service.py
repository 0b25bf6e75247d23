"""The serving service: chat for other services, OpenAI's endpoints, status of the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from drw.api.models.v1 import serving_rpc as contract
from drw.api.models.v1.serving_pb2 import (
    ChatChunk,
    ChatRequest,
    ProbeRequest,
    ProbeResponse,
    Replicas,
    WatchReplicasRequest,
)
from drw.kernel.rpc.context import caller
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList
from drw.models.serving import composition
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.observability import content_capture
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.observability.status import ServingStatus
from drw.models.serving.openai import conversion
from drw.models.serving.request_runner import RequestRunner
from drw.models.serving.routing import replica_state
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.routing.probing import ModelProber
from drw.models.serving.settings import Settings
from drw.routing.experiments.exposures import Assigned


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
                    "chat/completions",
                    completion,
                    record,
                    model=request.model,
                    stream=True,
                    session=request.session,
                    answer_id=request.response_id,
                    assigned=self._assigned(request),
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
            yield conversion.final_chunk(answer, answer.model, record.details.get("experiment", ""))

    def _assigned(self, request: ChatRequest) -> Assigned | None:
        if not request.HasField("assignment"):
            return None
        return self._runner.experiments.assigned(request.assignment, request.response_id)

    async def probe(self, request: ProbeRequest, /) -> ProbeResponse:
        """Send a tiny request to each replica of a model that no caller has used recently."""
        probes = await self._prober.probe(request.model, request.fresh_seconds, request.timeout_seconds)
        return ProbeResponse(probes=probes)

    async def watch_replicas(self, request: WatchReplicasRequest, /) -> AsyncIterator[Replicas]:
        """Send the state of the replicas in use now and after each change."""
        async with aclosing(replica_state.watch(self._models, self._changes)) as states:
            async for state in states:
                yield state


async def build(scope: ServiceContext) -> Serving:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    content_capture.set_limit(settings.capture_characters if settings.capture_content else 0)
    routing = composition.build_routing(scope, settings)
    calls = await composition.build_calls(scope, settings, routing)
    composition.add_model_endpoints(scope, settings, routing, calls)
    batches = await composition.add_stored_endpoints(scope, settings, routing, calls)
    status = ServingStatus(routing.discovery, routing.models, batches, routing.clock)
    scope.describe(status.describe)
    scope.require_database()  # each answer needs its audit record
    scope.require("a chat model", status.check_models)
    prober = ModelProber(routing.models, routing.discovery, calls.embedding, routing.clock)
    return Serving(calls.runner, routing.kills, calls.audit, calls.buffers, routing.models, prober, routing.changes)
