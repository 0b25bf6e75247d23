"""Active probes: a tiny request to each replica of a model that no caller has used recently."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from prometheus_client import Counter

from drw.api.models.v1.discovery_pb2 import Model, ResolveModelRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.serving_pb2 import Probe
from drw.api.rag.v1.embedding_pb2 import EmbedRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.kernel.errors import DrwError, Forbidden, InvalidRequest
from drw.kernel.observability.model_labels import model_label
from drw.kernel.runtime.clock import Clock
from drw.models.serving.errors import EngineStalled
from drw.models.serving.failover.failure_policy import classify
from drw.models.serving.ports import EngineLimits
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.routing.model_directory import ModelDirectory

PROBES = Counter("drw_model_probes", "Active probes of models by outcome.", ["model", "outcome"])
TEXT = "ping"
MESSAGES = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 1}
TIMEOUT_SECONDS = 10.0
MAX_TIMEOUT_SECONDS = 60.0
MIN_SECONDS = 1.0
"""Probes of a model that are requested sooner than this after the last ones receive their results."""
MAX_RESULTS = 1000
EMBEDDING = "embedding"
"""The replica of embedding models: the embedding service."""

Outcome = Probe.Outcome


class ModelProber:
    """Probes models outside of budgets and call records, with the lowest priority in the admission queue."""

    def __init__(
        self, models: ModelDirectory, discovery: DiscoveryClient, embedding: EmbeddingClient, clock: Clock
    ) -> None:
        self._models = models
        self._discovery = discovery
        self._embedding = embedding
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}
        self._last: dict[str, tuple[float, list[Probe]]] = {}

    async def probe(self, model: str, fresh_seconds: float, timeout_seconds: float) -> list[Probe]:
        """Return the result for each replica of a model; one probe of a model runs at a time.

        Raises:
            NotFound: the model does not exist.
            Unavailable: discovery does not answer.
        """
        if len(self._locks) >= MAX_RESULTS:
            self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
            self._last = {name: last for name, last in self._last.items() if name in self._locks}
        seconds = min(timeout_seconds or TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS)
        async with self._locks.setdefault(model, asyncio.Lock()):
            at, probes = self._last.get(model, (0.0, []))
            if not probes or self._clock.time() >= at + MIN_SECONDS:
                probes = await self._probe(model, fresh_seconds, seconds)
                self._last[model] = self._clock.time(), probes
                for probe in probes:
                    PROBES.labels(model_label(probe.model), Outcome.Name(probe.outcome).lower()).inc()
            return probes

    async def _probe(self, model: str, fresh_seconds: float, seconds: float) -> list[Probe]:
        kind = (await self._discovery.resolve_model(ResolveModelRequest(id=model), timeout=seconds)).model.kind
        try:
            if kind == Model.CHAT:
                chat = (await self._models.plan(model)).targets[0][0]
                return [
                    *await asyncio.gather(*(self._chat(chat, each, fresh_seconds, seconds) for each in chat.replicas))
                ]
            if kind == Model.EMBEDDING:
                await self._models.embedding(model)  # checks kills
                return [await self._embed(model, seconds)]
        except Forbidden:
            return [_result(model, "", Outcome.SKIPPED)]
        return [_result(model, "", Outcome.SKIPPED)]

    async def _chat(self, model: ChatModel, replica: Replica, fresh_seconds: float, seconds: float) -> Probe:
        now = self._clock.time()
        if now - replica.signals.progress_at < fresh_seconds:
            return _result(model.id, replica.name, Outcome.FRESH)
        if replica.ready_at > now:
            return _result(model.id, replica.name, Outcome.COOLING_DOWN)
        async with model.queue.admit_probe() as admitted:
            if not admitted:
                return await self._check(model, replica)
            ticket = replica.circuit.enter()
            try:
                await self._first_token(model, replica, seconds)
            except DrwError as error:
                return await self._failure(model, replica, ticket, error)
            except BaseException:
                replica.circuit.abandoned(ticket)
                raise
        replica.circuit.succeeded(ticket)
        return _result(model.id, replica.name, Outcome.ANSWERED, self._milliseconds(now))

    async def _first_token(self, model: ChatModel, replica: Replica, seconds: float) -> None:
        target, now = replica.target, self._clock.time()
        limits = EngineLimits(first_token=now + seconds, deadline=now + 2 * seconds)
        try:
            async with (
                asyncio.timeout_at(now + 2 * seconds),
                aclosing(model.engine.stream(target, "chat/completions", {**MESSAGES}, limits)) as events,
            ):
                async for _ in events:
                    pass
        except TimeoutError as error:
            raise EngineStalled(f"{model.id!r} did not answer a probe in time") from error

    async def _failure(self, model: ChatModel, replica: Replica, ticket: int, error: DrwError) -> Probe:
        """Open the circuit, unless the upstream answered or is only slow because of other requests."""
        if not classify(error).blames_upstream:
            replica.circuit.first_token(ticket)  # it answered, for example that it limits requests
            return _result(model.id, replica.name, Outcome.ANSWERED)
        if isinstance(error, EngineStalled) and replica.outstanding:
            checked = await self._check(model, replica)
            if checked.outcome == Outcome.BUSY:
                replica.circuit.abandoned(ticket)
                return checked
        replica.circuit.trip(ticket)
        return _result(model.id, replica.name, Outcome.FAILED, error=error.reason)

    async def _check(self, model: ChatModel, replica: Replica) -> Probe:
        """Check the health endpoint of a replica whose slots are in use."""
        ticket = replica.circuit.current_ticket()
        try:
            await model.engine.check(replica.target)
        except DrwError as error:
            if classify(error).blames_upstream:
                replica.circuit.trip(ticket)
                return _result(model.id, replica.name, Outcome.FAILED, error=error.reason)
        return _result(model.id, replica.name, Outcome.BUSY)

    async def _embed(self, model: str, seconds: float) -> Probe:
        started_at = self._clock.time()
        try:
            await self._embedding.embed(EmbedRequest(model=model, texts=[TEXT]), timeout=seconds)
        except InvalidRequest:
            pass  # it answered
        except DrwError as error:
            return _result(model, EMBEDDING, Outcome.FAILED, error=error.reason)
        return _result(model, EMBEDDING, Outcome.ANSWERED, self._milliseconds(started_at))

    def _milliseconds(self, started_at: float) -> float:
        return round((self._clock.time() - started_at) * 1000, 1)


def _result(model: str, replica: str, outcome: Probe.Outcome, latency_ms: float = 0.0, error: str = "") -> Probe:
    probe = Probe(model=model, replica=replica, outcome=outcome, latency_ms=latency_ms, error=error)
    probe.at.GetCurrentTime()
    return probe
