"""Health of models: active probes at jittered intervals, and the state of their replicas at model serving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing, suppress
from random import Random

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.models.v1.discovery_pb2 import ListModelsRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.health_pb2 import ModelHealth
from drw.api.models.v1.serving_pb2 import Probe, ProbeRequest, Replica, WatchReplicasRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.kernel.errors import DeadlineExceeded, DrwError, Unavailable
from drw.kernel.runtime.clock import Clock
from drw.models.health.history import MODEL, History
from drw.models.health.settings import ProbeSettings

log = logging.getLogger(__name__)

ALIAS = "alias"
"""The engine of an alias in lists of models."""
TICK_SECONDS = 1.0
LIST_SECONDS = 5.0
FIRST_SECONDS = 5.0
"""Time within which each model is probed for the first time."""
CIRCUITS = {Replica.CLOSED: "closed", Replica.HALF_OPEN: "half_open", Replica.OPEN: "open"}
STATES = {
    Replica.CLOSED: ServiceStatus.READY,
    Replica.HALF_OPEN: ServiceStatus.DEGRADED,
    Replica.OPEN: ServiceStatus.DOWN,
}
BROKEN = (Probe.FAILED, Probe.COOLING_DOWN)

Key = tuple[str, str]
"""A model and a replica."""


class ModelMonitor:
    """Probes models, and follows the circuits of their replicas."""

    def __init__(
        self,
        discovery: DiscoveryClient,
        serving: ServingClient,
        history: History,
        settings: ProbeSettings,
        clock: Clock,
        random: Random,
    ) -> None:
        self._discovery = discovery
        self._serving = serving
        self._history = history
        self._settings = settings
        self._clock = clock
        self._random = random
        self._due: dict[str, float] = {}
        self._probes: dict[str, Sequence[Probe]] = {}
        self._replicas: dict[Key, Replica] = {}

    def models(self) -> list[ModelHealth]:
        """Return the state of each replica that was probed or used, sorted by model."""
        probes = {(probe.model, probe.replica): probe for each in self._probes.values() for probe in each}
        keys = sorted(probes.keys() | self._replicas.keys())
        return [_model_health(key, probes.get(key), self._replicas.get(key)) for key in keys]

    async def visible(self) -> set[str]:
        """Return the ids of the models that the caller may use.

        Raises:
            Unavailable: discovery does not answer.
        """
        listed = await self._discovery.list_models(ListModelsRequest(), timeout=LIST_SECONDS)
        return {model.id for model in listed.models}

    async def probe_periodically(self) -> None:
        """Probe each model at its interval."""
        while self._settings.interval_seconds:
            await self.probe_due()
            await asyncio.sleep(min(TICK_SECONDS, self._settings.interval_seconds))

    async def probe_due(self) -> None:
        """Probe the models whose time has come."""
        listed = (await self._discovery.list_models(ListModelsRequest(), timeout=LIST_SECONDS)).models
        names = {m.id for m in listed if m.engine != ALIAS and m.id not in self._settings.exclude}
        now = self._clock.time()
        first = min(FIRST_SECONDS, self._settings.interval_seconds)
        self._due = {name: self._due.get(name, now + self._random.uniform(0, first)) for name in names}
        self._probes = {name: probes for name, probes in self._probes.items() if name in names}
        slots = asyncio.Semaphore(self._settings.max_concurrent)
        await asyncio.gather(*(self._probe(name, slots) for name, due in self._due.items() if due <= now))

    async def follow_replicas(self) -> None:
        """Store the state of replicas as it changes."""
        while True:
            states = self._serving.watch_replicas(WatchReplicasRequest())
            with suppress(DeadlineExceeded):  # every call has a deadline
                async with aclosing(states):
                    async for state in states:
                        await self._update({(replica.model, replica.name): replica for replica in state.replicas})

    async def _probe(self, model: str, slots: asyncio.Semaphore) -> None:
        settings = self._settings
        request = ProbeRequest(
            model=model, fresh_seconds=settings.fresh_seconds, timeout_seconds=settings.timeout_seconds
        )
        async with slots:
            try:
                response = await self._serving.probe(request, timeout=3 * settings.timeout_seconds)
                self._probes[model] = response.probes
            except DrwError as error:
                failed = Probe(model=model, outcome=Probe.FAILED, error=error.reason)
                failed.at.GetCurrentTime()
                self._probes[model] = [failed]
        broken = any(probe.outcome in BROKEN for probe in self._probes[model])
        seconds = settings.retry_seconds if broken else settings.interval_seconds
        self._due[model] = self._clock.time() + seconds * self._random.uniform(1 - settings.jitter, 1 + settings.jitter)

    async def _update(self, replicas: dict[Key, Replica]) -> None:
        gone = self._replicas.keys() - replicas.keys()
        self._history.forget({_subject(key) for key in gone})
        self._replicas = replicas
        try:
            for key, replica in replicas.items():
                await self._history.record(_subject(key), STATES[replica.circuit], replica.error)
        except Unavailable as error:
            log.warning("the state of replicas is not stored: %s", error.message)


def _subject(key: Key) -> str:
    return f"{MODEL}{key[0]}/{key[1]}"


def _model_health(key: Key, probe: Probe | None, replica: Replica | None) -> ModelHealth:
    health = ModelHealth(model=key[0], replica=key[1])
    if replica is not None:
        health.circuit = CIRCUITS[replica.circuit]
        health.error = replica.error if replica.circuit != Replica.CLOSED else ""
    if probe is not None:
        health.probe = Probe.Outcome.Name(probe.outcome).lower()
        health.latency_ms = probe.latency_ms
        health.probed_at.CopyFrom(probe.at)
        health.error = probe.error or health.error
    return health
