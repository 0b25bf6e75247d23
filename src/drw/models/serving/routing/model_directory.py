"""Resolves names of models and aliases through discovery, with a short cache."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from yarl import URL

from drw.api.models.v1.discovery_pb2 import (
    Model,
    ResolvedModel,
    ResolveModelRequest,
    ResolvePlanRequest,
    WatchAliasesRequest,
)
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import caller_or_none
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList, killed_error
from drw.models.serving.ports import ChatEngine, Deadlines, EngineTarget, ModelSpec
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.candidates import CandidateList, ChatModel
from drw.models.serving.routing.circuit_breaker import CircuitBreaker
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.routing.permits import check_permit
from drw.models.serving.runtime.plan_switch import PlanSwitch
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.pooled_engine import PooledEngine
from drw.models.serving.runtime.specs import has_files, spec_of
from drw.models.serving.settings import CircuitSettings

T = TypeVar("T")

CHAT, EMBEDDING = Model.CHAT, Model.EMBEDDING
RESOLVE_TIMEOUT_SECONDS = 5.0
KIND_NAMES = {
    CHAT: "a chat model",
    EMBEDDING: "an embedding model",
    Model.PREDICTIVE: "a predictive model",
    Model.RERANKER: "a reranker",
}
SWITCH_CHECK_SECONDS = 0.1
"""Lifetime of old candidates while the models of the new ones are loaded."""


class ModelDirectory:
    """Caches answers of discovery for `seconds`, and longer while discovery is unavailable."""

    def __init__(
        self,
        discovery: DiscoveryClient,
        engine: Callable[[str], ChatEngine],
        queue: Callable[[str, int], AdmissionQueue],
        circuits: CircuitSettings,
        clock: Clock,
        seconds: float,
        kills: KillList,
        on_change: Callable[[], None] = lambda: None,
        pool: ModelPool | None = None,
        switch: PlanSwitch | None = None,
    ) -> None:
        self._on_change = on_change
        self._discovery = discovery
        self._engine = engine
        self._queue = queue
        self._circuits = circuits
        self._clock = clock
        self._seconds = seconds
        self._kills = kills
        self._pool = pool
        self._switch = switch
        self._plans: dict[str, _CacheEntry[CandidateList]] = {}
        self._embeddings: dict[str, _CacheEntry[Model]] = {}
        self._chat: dict[str, tuple[ResolvedModel, ChatModel]] = {}

    async def plan(self, name: str) -> CandidateList:
        """Return the candidates for the id of a model or an alias; an empty name means the default model.

        Raises:
            NotFound: the model does not exist.
            InvalidRequest: the model is not a chat model.
            Killed: a kill switch stops all candidates.
        """
        candidates = await self._cached(self._plans, name, self._resolve_candidates)
        for model in candidates.models:
            if model.resolved is not None:
                check_permit(model.resolved, time.time())
        self._kills.check(caller_or_none(), (name, candidates.id))
        return self._without_killed(candidates)

    async def embedding(self, name: str) -> Model:
        """Return an embedding model by id; raises as `plan` does."""
        model = await self._cached(self._embeddings, name, self._resolve_embedding)
        self._kills.check(caller_or_none(), (name, model.id))
        return model

    async def follow(self) -> None:
        """Expire all cached candidates when discovery reports a change."""
        while True:
            changes = self._discovery.watch_aliases(WatchAliasesRequest())
            with suppress(DeadlineExceeded):  # every call has a deadline
                async with aclosing(changes):
                    async for _ in changes:
                        for entry in self._plans.values():
                            entry.expires_at = 0.0

    def replicas(self) -> Iterator[tuple[str, Replica]]:
        """Yield each replica that was used, with the id of its model."""
        for name, (_, model) in sorted(self._chat.items()):
            for replica in model.replicas:
                yield name, replica

    def models(self) -> Iterator[ChatModel]:
        """Yield each model that was used."""
        yield from [model for _, model in self._chat.values()]

    def _without_killed(self, candidates: CandidateList) -> CandidateList:
        """Return the candidates that no kill stops; raise `Killed` if none is left."""
        principal = caller_or_none()
        kills = {model.id: kill for model in candidates.models if (kill := self._kills.find_model(principal, model.id))}
        if not kills:
            return candidates
        if (remaining := candidates.without(kills)).models:
            return remaining
        raise killed_error(next(iter(kills.values())))

    async def _cached(self, cache: dict[str, _CacheEntry[T]], name: str, resolve: Callable[[str], Awaitable[T]]) -> T:
        """Return a cached answer of discovery, or a new one after its expiry; the old one if discovery is down."""
        entry = cache.get(name)
        if entry is not None and self._clock.time() < entry.expires_at:
            return entry.value
        try:
            value = await resolve(name)
        except NotFound:
            cache.pop(name, None)
            raise
        except (Unavailable, DeadlineExceeded):
            if entry is None:
                raise
            value = entry.value
        seconds = self._seconds
        if entry is not None and not self._may_replace(name, entry.value, value):
            value, seconds = entry.value, min(seconds, SWITCH_CHECK_SECONDS)
        cache[name] = _CacheEntry(value, self._clock.time() + seconds)
        return value

    def _may_replace(self, name: str, old: object, new: object) -> bool:
        """Return whether new candidates may replace the old ones: their models that serving runs are loaded."""
        if self._switch is None or not isinstance(old, CandidateList) or not isinstance(new, CandidateList):
            return True
        specs = _specs(new)
        return specs == _specs(old) or self._switch.may_use(("chat", name), specs)

    async def _resolve_embedding(self, name: str) -> Model:
        request = ResolveModelRequest(id=name)
        resolved = await self._discovery.resolve_model(request, timeout=RESOLVE_TIMEOUT_SECONDS)
        _check_kind(resolved, EMBEDDING)
        return resolved.model

    async def _resolve_candidates(self, name: str) -> CandidateList:
        request = ResolvePlanRequest(id=name)
        plan = await self._discovery.resolve_plan(request, timeout=RESOLVE_TIMEOUT_SECONDS)
        for resolved in [*(target.model for target in plan.targets), *plan.fallbacks]:
            _check_kind(resolved, CHAT)
        targets = tuple((self._model(target.model), target.weight) for target in plan.targets)
        fallbacks = tuple(self._model(resolved) for resolved in plan.fallbacks)
        return CandidateList(plan.id, targets, fallbacks, plan.total_seconds)

    def _model(self, resolved: ResolvedModel) -> ChatModel:
        """Return the model with its existing queue and circuits, or a new one if its settings changed."""
        cached = self._chat.get(resolved.model.id)
        if cached is None or cached[0] != resolved:
            cached = resolved, self._build_model(resolved)
            self._chat[resolved.model.id] = cached
            self._on_change()
        return cached[1]

    def _build_model(self, resolved: ResolvedModel) -> ChatModel:
        model = resolved.model
        engine = self._engine(model.engine)
        if self._pool is not None and has_files(resolved):
            engine = PooledEngine(engine, self._pool, spec_of(resolved))
        return ChatModel(
            id=model.id,
            upstream_model=resolved.upstream_model,
            engine=engine,
            engine_name=model.engine,
            queue=self._queue(model.id, resolved.max_concurrent),
            replicas=tuple(self._replica(resolved, url) for url in resolved.base_urls or [resolved.base_url]),
            context_length=model.context_length,
            max_prompt_tokens=resolved.max_prompt_tokens,
            total_seconds=resolved.deadlines.total_seconds,
            prefill=resolved.prefill,
            affinity=resolved.affinity,
            parameters=frozenset(resolved.parameters),
            takes_reasoning=resolved.takes_reasoning,
            resolved=resolved,
        )

    def _replica(self, resolved: ResolvedModel, url: str) -> Replica:
        model, seconds = resolved.model.id, resolved.deadlines
        deadlines = Deadlines(seconds.connect_seconds, seconds.first_token_seconds, seconds.between_tokens_seconds)
        target = EngineTarget(
            model, url, resolved.upstream_model, resolved.api_key_variable, deadlines, dict(resolved.sampling)
        )
        name = _short_address(url)
        return Replica(name, target, CircuitBreaker(self._circuits, self._clock, model, name, self._on_change))


class _CacheEntry(Generic[T]):
    """A cached answer of discovery."""

    __slots__ = ("expires_at", "value")

    def __init__(self, value: T, expires_at: float) -> None:
        self.value = value
        self.expires_at = expires_at


def _check_kind(resolved: ResolvedModel, kind: Model.Kind) -> None:
    if resolved.model.kind != kind:
        message = f"{resolved.model.id!r} is {KIND_NAMES[resolved.model.kind]}; this needs {KIND_NAMES[kind]}"
        raise InvalidRequest(message, param="model")


def _specs(candidates: CandidateList) -> tuple[ModelSpec, ...]:
    """Return the models with traffic that serving runs from their files."""
    engines = [model.engine for model, weight in candidates.targets if weight]
    return tuple(engine.spec for engine in engines if isinstance(engine, PooledEngine))


def _short_address(url: str) -> str:
    """Return an address without scheme, path and credentials."""
    if not url:
        return "runtime"
    if url.startswith("unix:"):
        return url.rpartition("/")[2]
    address = URL(url)
    return f"{address.host}:{address.port}"
