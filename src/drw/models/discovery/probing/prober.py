"""Background task that probes the replicas of all models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from drw.api.models.v1.discovery_pb2 import ResolvedModel
from drw.egress.allowlist import check_settings
from drw.kernel.errors import InvalidRequest
from drw.models.discovery.ports import EndpointProbe, ProbeFailed, ReplicaAddress
from drw.models.discovery.probing.replica_states import UNREACHABLE, Probed, ReplicaStates, judged

PROBED_ENGINES = ("openai", "llama_cpp")
"""Engines whose replicas can be asked without a call of the model."""
CONCURRENT = 16
"""Probes at once."""
MAX_REPLICAS = 2000
"""Replicas that are probed; the routing of further ones does not depend on probes."""


class Prober:
    """Probes replicas every `seconds`, and calls `changed` if the status of one changed."""

    def __init__(
        self,
        probe: EndpointProbe,
        states: ReplicaStates,
        models: Callable[[], Awaitable[Iterable[ResolvedModel]]],
        changed: Callable[[], None],
        seconds: float,
    ) -> None:
        self._probe = probe
        self._states = states
        self._models = models
        self._changed = changed
        self._seconds = seconds

    async def run(self) -> None:
        """Probe until cancelled; the first probes run after the interval, not during the start."""
        while True:
            await asyncio.sleep(self._seconds)
            await self.probe_all()

    async def probe_all(self) -> None:
        """Probe every replica once."""
        replicas: dict[tuple[str, str], ReplicaAddress] = {}
        for model in await self._models():
            for url in model.base_urls if model.model.engine in PROBED_ENGINES else ():
                if url and len(replicas) < MAX_REPLICAS:
                    address = ReplicaAddress(model.model.engine, url, model.upstream_model, model.api_key_variable)
                    replicas.setdefault((url, model.upstream_model), address)
        self._states.keep(replicas)
        slots = asyncio.Semaphore(CONCURRENT)
        changes = await asyncio.gather(*(self._probe_one(replica, slots) for replica in replicas.values()))
        if any(changes):
            self._changed()

    async def _probe_one(self, replica: ReplicaAddress, slots: asyncio.Semaphore) -> bool:
        async with slots:
            started_at, checked_at = time.monotonic(), time.time()
            try:
                check_settings(replica.base_url)
                answer = await self._probe.ask(replica)
            except ProbeFailed as error:
                probed = Probed(UNREACHABLE, checked_at, error=str(error))
            except InvalidRequest as error:
                probed = Probed(UNREACHABLE, checked_at, error=error.message)
            else:
                probed = judged(answer, replica.upstream_model, checked_at, time.monotonic() - started_at)
        return self._states.set(replica.base_url, replica.upstream_model, probed)
