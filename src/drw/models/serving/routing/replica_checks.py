"""Checks of replicas by passive signals: a replica that fails or stalls leaves the rotation if its check fails too."""

from __future__ import annotations

import asyncio

from drw.kernel.errors import DrwError
from drw.kernel.runtime.clock import Clock
from drw.models.serving.failover.failure_policy import classify
from drw.models.serving.routing.candidates import ChatModel
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.settings import ReplicaCheckSettings

RECHECK_SECONDS, REMOTE_RECHECK_SECONDS = 1.0, 5.0
"""Time until a replica that passed a check and still stalls is checked again: on this machine, and elsewhere."""


class ReplicaChecks:
    """Checks suspicious replicas of models with several replicas."""

    def __init__(self, models: ModelDirectory, clock: Clock, settings: ReplicaCheckSettings) -> None:
        self._models = models
        self._clock = clock
        self._settings = settings
        self._seen_failures: dict[Replica, int] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self._settings.interval_seconds)
            await self.check()

    async def check(self) -> None:
        """Check each suspicious replica once, within the time limit of the engine's health check."""
        models = [model for model in self._models.models() if len(model.replicas) > 1]
        replicas = {replica for model in models for replica in model.replicas}
        self._seen_failures = {r: count for r, count in self._seen_failures.items() if r in replicas}
        suspicious = [(m, r) for m in models for r in m.replicas if self._is_suspicious(r)]
        await asyncio.gather(*(self._check(model, replica) for model, replica in suspicious))

    def _is_suspicious(self, replica: Replica) -> bool:
        """Return whether a replica in rotation has failed since its last check, or stalls."""
        signals, now = replica.signals, self._clock.time()
        if replica.circuit.state is not State.CLOSED:
            return False
        if signals.failed > self._seen_failures.get(replica, 0):
            return True
        local = replica.target.base_url.startswith("unix:")
        due_at = signals.checked_at + (RECHECK_SECONDS if local else REMOTE_RECHECK_SECONDS)
        return replica.outstanding > 0 and now >= due_at and signals.is_stalled(now, self._settings.stall_seconds)

    async def _check(self, model: ChatModel, replica: Replica) -> None:
        ticket = replica.circuit.current_ticket()
        self._seen_failures[replica] = replica.signals.failed
        try:
            await model.engine.check(replica.target)
        except DrwError as error:
            others = (r for r in model.replicas if r is not replica)
            if classify(error).blames_upstream and any(r.circuit.state is State.CLOSED for r in others):
                replica.circuit.trip(ticket)
        else:
            replica.signals.checked_at = self._clock.time()
