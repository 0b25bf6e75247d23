"""Resolves names of models by discovery, and caches the answers for a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from yarl import URL

from drw.api.models.v1 import discovery_pb2
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
from drw.models.serving.ports import ChatEngine, Deadlines, EngineTarget
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.candidates import CandidateList, ChatModel
from drw.models.serving.routing.circuit_breaker import CircuitBreaker
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.settings import CircuitSettings

T = TypeVar("T")

CHAT, EMBEDDING = Model.CHAT, Model.EMBEDDING
ASK_SECONDS = 5.0
KIND_NAMES = {CHAT: "a chat model", EMBEDDING: "an embedding model"}


class ModelDirectory:
    """Caches each answer of discovery for `seconds`, and the last one while discovery is unavailable."""

    def __init__(
        self,
        discovery: DiscoveryClient,
        engine: Callable[[str], ChatEngine],
        queue: Callable[[str, int], AdmissionQueue],
        circuits: CircuitSettings,
        clock: Clock,
        seconds: float,
        kills: KillList,
    ) -> None:
        self._discovery = discovery
        self._engine = engine
        self._queue = queue
        self._circuits = circuits
        self._clock = clock
        self._seconds = seconds
        self._kills = kills
        self._plans: dict[str, _Known[CandidateList]] = {}
        self._embeddings: dict[str, _Known[Model]] = {}
        self._chat: dict[str, tuple[ResolvedModel, ChatModel]] = {}

    async def plan(self, name: str) -> CandidateList:
        """Return the models that may answer for a model's id or an alias; an empty one means the default.

        Raises:
            NotFound: there is no such model.
            InvalidRequest: it is no chat model.
            Killed: a kill switch stops it.
        """
        cached = self._plans.get(name)
        if cached is None or self._clock.time() >= cached.until:
            cached = await self._ask_plan(name, cached)
        self._kills.check(caller_or_none(), (name, cached.value.id))
        return self._alive(cached.value)

    async def embedding(self, name: str) -> Model:
        """Return an embedding model by its id; raises as `plan` does."""
        cached = self._embeddings.get(name)
        if cached is None or self._clock.time() >= cached.until:
            cached = await self._ask_embedding(name, cached)
        self._kills.check(caller_or_none(), (name, cached.value.id))
        return cached.value

    async def follow(self) -> None:
        """Expire every plan as soon as discovery reports a change; otherwise after `seconds`."""
        while True:
            with suppress(DeadlineExceeded):  # no call goes on for ever
                await self._follow_once()

    async def _follow_once(self) -> None:
        async with aclosing(self._discovery.watch_aliases(WatchAliasesRequest())) as changes:
            async for _ in changes:
                for cached in self._plans.values():
                    cached.until = 0.0

    def replicas(self) -> Iterator[tuple[str, Replica]]:
        """Yield every replica that was used, with the id of its model."""
        for name, (_, model) in sorted(self._chat.items()):
            for replica in model.replicas:
                yield name, replica

    def _alive(self, plan: CandidateList) -> CandidateList:
        """Return the plan without the models that are killed; raise where none is left."""
        principal = caller_or_none()
        kills = {model.id: kill for model in plan.models if (kill := self._kills.find_model(principal, model.id))}
        if not kills:
            return plan
        if (rest := plan.without(kills)).models:
            return rest
        raise killed_error(next(iter(kills.values())))

    async def _ask_plan(self, name: str, last: _Known[CandidateList] | None) -> _Known[CandidateList]:
        try:
            plan = await self._discovery.resolve_plan(ResolvePlanRequest(id=name), timeout=ASK_SECONDS)
        except NotFound:
            self._plans.pop(name, None)
            raise
        except (Unavailable, DeadlineExceeded):
            if last is None:
                raise
            last.until = self._clock.time() + self._seconds
            return last
        self._plans[name] = cached = _Known(self._made_plan(plan), self._clock.time() + self._seconds)
        return cached

    async def _ask_embedding(self, name: str, last: _Known[Model] | None) -> _Known[Model]:
        try:
            resolved = await self._discovery.resolve_model(ResolveModelRequest(id=name), timeout=ASK_SECONDS)
        except NotFound:
            self._embeddings.pop(name, None)
            raise
        except (Unavailable, DeadlineExceeded):
            if last is None:
                raise
            last.until = self._clock.time() + self._seconds
            return last
        _check_kind(resolved, EMBEDDING)
        self._embeddings[name] = cached = _Known(resolved.model, self._clock.time() + self._seconds)
        return cached

    def _made_plan(self, plan: discovery_pb2.Plan) -> CandidateList:
        for resolved in [*(target.model for target in plan.targets), *plan.fallbacks]:
            _check_kind(resolved, CHAT)
        targets = tuple((self._model(target.model), target.weight) for target in plan.targets)
        fallbacks = tuple(self._model(resolved) for resolved in plan.fallbacks)
        return CandidateList(plan.id, targets, fallbacks, plan.total_seconds)

    def _model(self, resolved: ResolvedModel) -> ChatModel:
        """Return the model, with the queue and the circuits that it has, unless its settings changed."""
        cached = self._chat.get(resolved.model.id)
        if cached is None or cached[0] != resolved:
            cached = resolved, self._made(resolved)
            self._chat[resolved.model.id] = cached
        return cached[1]

    def _made(self, resolved: ResolvedModel) -> ChatModel:
        model = resolved.model
        return ChatModel(
            id=model.id,
            upstream_model=resolved.upstream_model,
            engine=self._engine(model.engine),
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
        )

    def _replica(self, resolved: ResolvedModel, url: str) -> Replica:
        model, seconds = resolved.model.id, resolved.deadlines
        deadlines = Deadlines(seconds.connect_seconds, seconds.first_token_seconds, seconds.between_tokens_seconds)
        target = EngineTarget(
            model, url, resolved.upstream_model, resolved.api_key_variable, deadlines, dict(resolved.sampling)
        )
        name = _short(url)
        return Replica(name, target, CircuitBreaker(self._circuits, self._clock, model, name))


class _Known(Generic[T]):
    """An answer of discovery, and until when it is fresh."""

    __slots__ = ("until", "value")

    def __init__(self, value: T, until: float) -> None:
        self.value = value
        self.until = until


def _check_kind(resolved: ResolvedModel, kind: Model.Kind) -> None:
    if resolved.model.kind != kind:
        message = f"{resolved.model.id!r} is {KIND_NAMES[resolved.model.kind]}; this needs {KIND_NAMES[kind]}"
        raise InvalidRequest(message, param="model")


def _short(url: str) -> str:
    """Return an address without its scheme, its path, and whoever's name may stand in it."""
    if url.startswith("unix:"):
        return url.rpartition("/")[2]
    address = URL(url)
    return f"{address.host}:{address.port}"
