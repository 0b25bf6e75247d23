"""Resolves names of models and aliases through discovery, with a short cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
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
from drw.kernel.errors import DeadlineExceeded, Forbidden, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import caller_or_none
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList, killed_error
from drw.models.serving.metering.version_prices import default_price
from drw.models.serving.ports import ChatEngine, Deadlines, EngineTarget, ModelSpec
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.candidates import CandidateList, ChatModel
from drw.models.serving.routing.circuit_breaker import CircuitBreaker
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.routing.ordered_plan import OrderedPlan, ordered_plan
from drw.models.serving.routing.permitted import CallerKey, caller_key, check_any_permitted, still_permitted
from drw.models.serving.runtime.plan_switch import PlanSwitch
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.pooled_engine import PooledEngine
from drw.models.serving.runtime.specs import has_files, spec_of
from drw.models.serving.settings import CircuitSettings

T = TypeVar("T")
P = TypeVar("P", CandidateList, OrderedPlan)

CHAT, EMBEDDING, RERANKER, MODERATION = Model.CHAT, Model.EMBEDDING, Model.RERANKER, Model.MODERATION
RESOLVE_TIMEOUT_SECONDS = 5.0
PLANS = (CandidateList, OrderedPlan)
KIND_NAMES = {
    CHAT: "a chat model",
    EMBEDDING: "an embedding model",
    RERANKER: "a reranker",
    MODERATION: "a moderation model",
    Model.PREDICTIVE: "a predictive model",
}
SWITCH_CHECK_SECONDS = 0.1
"""Lifetime of old candidates while the models of the new ones are loaded."""
MAX_CACHED = 10_000
"""Maximum number of cached answers and of models that were used."""


class ModelDirectory:
    """Caches answers of discovery for `seconds`, and longer while discovery is unavailable.

    Answers depend on the caller's org and walls. Permits of models are checked at each call, whatever is cached.
    """

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
        self._plans: dict[CallerKey, _CacheEntry[CandidateList]] = {}
        self._embeddings: dict[CallerKey, _CacheEntry[ResolvedModel]] = {}
        self._ordered: dict[CallerKey, _CacheEntry[OrderedPlan]] = {}
        self._chat: dict[tuple[str, str], _UsedModel] = {}

    async def plan(self, name: str) -> CandidateList:
        """Return the candidates for the id of a model or an alias; an empty name means the default model.

        Raises:
            NotFound: the model does not exist.
            InvalidRequest: the model is not a chat model.
            ModelNotValidated: no candidate has a valid validation record.
            Killed: a kill switch stops all candidates.
        """
        candidates = await self._cached(self._plans, name, self._resolve_candidates)
        if refused := check_any_permitted(candidates.permits):
            candidates = candidates.without(refused)
        self._kills.check(caller_or_none(), (name, candidates.id))
        return self._without_killed(candidates)

    async def embedding(self, name: str) -> Model:
        """Return an embedding model by id; raises as `plan` does."""
        resolved = await self._cached(self._embeddings, name, self._resolve_embedding)
        check_any_permitted({resolved.model.id: resolved.permit})
        self._kills.check(caller_or_none(), (name, resolved.model.id))
        return resolved.model

    async def of_kind(self, name: str, *kinds: Model.Kind) -> OrderedPlan:
        """Return the candidates for the id of a model or an alias, which are of these kinds; raises as `plan` does."""
        plan = await self._cached(self._ordered, name, self._resolve_ordered)
        for resolved in plan.models:
            _check_kind(resolved, *kinds)
        if refused := check_any_permitted(plan.permits):
            plan = plan.without(refused)
        self._kills.check(caller_or_none(), (name, plan.id))
        return self._without_killed(plan)

    def check_not_killed(self, name: str) -> None:
        """Check a model that discovery does not know, such as `policy`; raises `Killed`."""
        self._kills.check(caller_or_none(), (name,))

    async def follow(self) -> None:
        """Expire all cached candidates when discovery reports a change."""
        while True:
            changes = self._discovery.watch_aliases(WatchAliasesRequest())
            with suppress(DeadlineExceeded):  # every call has a deadline
                async with aclosing(changes):
                    async for _ in changes:
                        self._expire()

    def _expire(self) -> None:
        for plan in self._plans.values():
            plan.expires_at = 0.0
        for embedding in self._embeddings.values():
            embedding.expires_at = 0.0
        for ordered in self._ordered.values():
            ordered.expires_at = 0.0

    def replicas(self) -> Iterator[tuple[str, Replica]]:
        """Yield each replica that was used, with the id of its model."""
        for (_, name), used in sorted(self._chat.items()):
            for replica in used.replicas.values():
                yield name, replica

    def models(self) -> Iterator[ChatModel]:
        """Yield each model that was used."""
        yield from [used.model for used in self._chat.values()]

    def _without_killed(self, candidates: P) -> P:
        """Return the candidates that no kill stops; raise `Killed` if none is left."""
        principal = caller_or_none()
        kills = {name: kill for name in candidates.permits if (kill := self._kills.find_model(principal, name))}
        if not kills:
            return candidates
        if (remaining := candidates.without(kills)).models:
            return remaining
        raise killed_error(next(iter(kills.values())))

    async def _cached(
        self, cache: dict[CallerKey, _CacheEntry[T]], name: str, resolve: Callable[[str], Awaitable[T]]
    ) -> T:
        """Return a cached answer of discovery, or a new one after its expiry; the old one if discovery is down.

        A refusal of discovery removes the old answer, which must not come back while discovery is down.
        """
        key = caller_key(name)
        entry = cache.get(key)
        if entry is not None and self._clock.time() < entry.expires_at:
            return entry.value
        try:
            value = await resolve(name)
        except (NotFound, Forbidden):
            cache.pop(key, None)
            raise
        except (Unavailable, DeadlineExceeded):
            if entry is None:
                raise
            value = entry.value
        seconds = self._seconds
        if entry is not None and await self._must_wait(key, entry.value, value):
            value, seconds = entry.value, min(seconds, SWITCH_CHECK_SECONDS)
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = _CacheEntry(value, self._clock.time() + seconds)
        return value

    async def _must_wait(self, key: CallerKey, old: object, new: object) -> bool:
        """Return whether new candidates must not replace the old ones yet, since models that serving runs are loading.

        Candidates to which no traffic may go any more are replaced at once.
        """
        if self._switch is None or not isinstance(old, PLANS) or not isinstance(new, PLANS):
            return False
        specs, old_specs = _specs(new), _specs(old)
        if specs == old_specs or self._switch.may_use((type(new), key), specs, old_specs):
            return False
        return await still_permitted(self._discovery, old.permits)

    async def _resolve_embedding(self, name: str) -> ResolvedModel:
        request = ResolveModelRequest(id=name)
        resolved = await self._discovery.resolve_model(request, timeout=RESOLVE_TIMEOUT_SECONDS)
        _check_kind(resolved, EMBEDDING)
        return resolved

    async def _resolve_ordered(self, name: str) -> OrderedPlan:
        request = ResolvePlanRequest(id=name)
        return ordered_plan(await self._discovery.resolve_plan(request, timeout=RESOLVE_TIMEOUT_SECONDS))

    async def _resolve_candidates(self, name: str) -> CandidateList:
        request = ResolvePlanRequest(id=name)
        plan = await self._discovery.resolve_plan(request, timeout=RESOLVE_TIMEOUT_SECONDS)
        candidates = [*(target.model for target in plan.targets), *plan.fallbacks]
        for resolved in candidates:
            _check_kind(resolved, CHAT)
        targets = tuple((self._model(target.model), target.weight) for target in plan.targets)
        fallbacks = tuple(self._model(resolved) for resolved in plan.fallbacks)
        permits = {resolved.model.id: resolved.permit for resolved in candidates}
        return CandidateList(plan.id, targets, fallbacks, plan.total_seconds, permits)

    def _model(self, resolved: ResolvedModel) -> ChatModel:
        """Return the model with its existing queue and circuits, or a new one if its settings changed.

        Its permit and the health of its replicas change without its settings: they keep the queue and circuits.
        """
        description = ResolvedModel()
        description.CopyFrom(resolved)
        for name in ("permit", "base_url", "base_urls"):
            description.ClearField(name)
        key = (resolved.org, resolved.model.id)
        used = self._chat.get(key)
        if used is None or used.description != description:
            if len(self._chat) >= MAX_CACHED:
                self._chat.clear()
            model = self._build_model(resolved)
            self._chat[key] = used = _UsedModel(description, model, {})
            self._on_change()
        if tuple(used.model.replicas) != (replicas := self._known_replicas(resolved, used)):
            used.model = replace(used.model, replicas=replicas)
            self._on_change()
        return used.model

    def _known_replicas(self, resolved: ResolvedModel, used: _UsedModel) -> tuple[Replica, ...]:
        """Return the replicas with their existing circuits."""
        for url in resolved.base_urls or [resolved.base_url]:
            if url not in used.replicas:
                used.replicas[url] = self._replica(resolved, url)
        return tuple(used.replicas[url] for url in resolved.base_urls or [resolved.base_url])

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
            replicas=(),
            context_length=model.context_length,
            max_prompt_tokens=resolved.max_prompt_tokens,
            total_seconds=resolved.deadlines.total_seconds,
            prefill=resolved.prefill,
            affinity=resolved.affinity,
            parameters=engine.parameters.union(resolved.parameters),
            default_price=default_price(resolved),
            takes_reasoning=resolved.takes_reasoning,
        )

    def _replica(self, resolved: ResolvedModel, url: str) -> Replica:
        name = _short_address(url)
        circuit = CircuitBreaker(self._circuits, self._clock, resolved.model.id, name, self._on_change)
        return Replica(name, engine_target(resolved, url), circuit)


@dataclass(slots=True)
class _UsedModel:
    """A model that was used."""

    description: ResolvedModel
    """The answer of discovery, without permit and addresses."""
    model: ChatModel
    replicas: dict[str, Replica]
    """All of its replicas by address, also those that discovery leaves out now."""


class _CacheEntry(Generic[T]):
    """A cached answer of discovery."""

    __slots__ = ("expires_at", "value")

    def __init__(self, value: T, expires_at: float) -> None:
        self.value = value
        self.expires_at = expires_at


def engine_target(resolved: ResolvedModel, url: str) -> EngineTarget:
    """Return the replica of a model at an address."""
    seconds = resolved.deadlines
    deadlines = Deadlines(seconds.connect_seconds, seconds.first_token_seconds, seconds.between_tokens_seconds)
    sampling = dict(resolved.sampling)
    return EngineTarget(resolved.model.id, url, resolved.upstream_model, resolved.api_key_variable, deadlines, sampling)


def _check_kind(resolved: ResolvedModel, *kinds: Model.Kind) -> None:
    if resolved.model.kind not in kinds:
        needed = " or ".join(KIND_NAMES[kind] for kind in kinds)
        message = f"{resolved.model.id!r} is {KIND_NAMES[resolved.model.kind]}; this needs {needed}"
        raise InvalidRequest(message, param="model")


def _specs(candidates: CandidateList | OrderedPlan) -> tuple[ModelSpec, ...]:
    """Return the models with traffic that serving runs from their files."""
    if isinstance(candidates, OrderedPlan):
        return candidates.main_specs
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
