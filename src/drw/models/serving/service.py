"""Runs models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from pydantic import Field

from drw.api.models.v1 import serving_rpc as contract
from drw.api.models.v1.discovery_pb2 import ListModelsRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.serving_pb2 import ChatChunk, ChatRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.kernel.audit import AuditWriter
from drw.kernel.host import Scope
from drw.kernel.settings import ConfigError, Settings
from drw.models.serving import endpoints, pieces
from drw.models.serving.answers import Answer
from drw.models.serving.chats import check_length, generate
from drw.models.serving.embeddings import Embeddings
from drw.models.serving.line import Line
from drw.models.serving.models import Models
from drw.models.serving.ports import ChatEngine
from drw.models.serving.record import Record
from drw.models.serving.wire import WireSettings


class ServingSettings(Settings):
    """`[services.serving]`."""

    max_waiting: int = Field(64, ge=0, le=100_000)
    """Requests that may wait for one model; more are sent away with 503."""
    max_waiting_seconds: float = Field(60.0, gt=0, le=3600)
    remember_models_seconds: float = Field(5.0, ge=0, le=300)
    max_body_bytes: int = Field(33 << 20, ge=1024, le=64 << 20)
    llama_cpp: WireSettings = WireSettings()
    openai: WireSettings = WireSettings()
    vertex: WireSettings = WireSettings()


class Serving(contract.Serving):
    """Serves `drw.api.models.v1.Serving`."""

    def __init__(self, models: Models, audit: AuditWriter) -> None:
        self._models = models
        self._audit = audit

    async def chat(self, request: ChatRequest, /) -> AsyncIterator[ChatChunk]:
        """Stream the answer of a chat model; the last piece says how it ended, and what it took."""
        record = Record(self._audit, "chat", request.SerializeToString(deterministic=True))
        try:
            body = pieces.body(request)
            model = await self._models.chat(request.model)
            check_length(model, "max_tokens", request.max_tokens)
            answer = Answer("chat/completions", model.id, 1)
            async with aclosing(generate(model, "chat/completions", body, answer, record)) as chunks:
                async for chunk in chunks:
                    if text := pieces.text(chunk):
                        yield ChatChunk(text=text)
            await record.close()
        except BaseException as error:
            await record.fail(error)
            raise
        yield pieces.last(answer, model.id)


class Engines:
    """The adapters, each made when the first model needs it."""

    def __init__(self, scope: Scope, settings: ServingSettings) -> None:
        self._scope = scope
        self._settings = settings
        self._made: dict[str, ChatEngine] = {}

    def get(self, name: str) -> ChatEngine:
        """Return the adapter of that name."""
        if name not in self._made:
            if name not in (known := self._scope.adapters()):
                raise ConfigError(f"there is no engine {name!r}; there are: {', '.join(known)}")
            section = getattr(self._settings, name).model_dump()
            self._made[name] = self._scope.make_adapter(ChatEngine, name, section)  # type: ignore[type-abstract]
        return self._made[name]

    async def close(self) -> None:
        """Close their connections."""
        for engine in self._made.values():
            await engine.close()


async def build(scope: Scope) -> Serving:
    """Make the service with what the configuration names."""
    settings = scope.settings(ServingSettings)
    engines = Engines(scope, settings)
    scope.on_stop(engines.close)

    def line(model: str, concurrent: int) -> Line:
        return Line(model, concurrent, settings.max_waiting, settings.max_waiting_seconds)

    discovery = scope.client(DiscoveryClient)
    models = Models(discovery, engines.get, line, settings.remember_models_seconds)
    embeddings = Embeddings(models, scope.client(EmbeddingClient))
    audit = scope.audit()
    scope.routes += endpoints.routes(models, discovery, embeddings, audit, settings.max_body_bytes)

    async def describe() -> str:
        listed = (await discovery.list_models(ListModelsRequest())).models
        if any(model.default for model in listed):
            default = await models.chat("")
            await default.engine.check(default.target)
        return ", ".join(f"{model.id} (default)" if model.default else model.id for model in listed) or "no models"

    scope.describe(describe)
    return Serving(models, audit)
