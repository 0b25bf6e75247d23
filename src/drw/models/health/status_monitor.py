"""Polls the status of all processes, and stores changes of state and counts of requests."""

from __future__ import annotations

import asyncio
import logging
import time

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.kernel.errors import Unavailable
from drw.kernel.observability import outcomes
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile
from drw.kernel.runtime.status import process_statuses, services_of
from drw.models.health.history import History
from drw.models.health.samples import SampleStore

log = logging.getLogger(__name__)

PURGE_SECONDS = 600.0


class StatusMonitor:
    """Polls until it is cancelled; a database that does not answer delays what is stored."""

    def __init__(
        self, profile: Profile, channels: Channels, history: History, samples: SampleStore, seconds: float
    ) -> None:
        self._profile = profile
        self._channels = channels
        self._history = history
        self._samples = samples
        self._seconds = seconds
        self._purged_at = float("-inf")

    async def run(self) -> None:
        """Poll periodically."""
        while True:
            try:
                await self.poll()
            except Unavailable as error:
                log.warning("the status is not stored: %s", error.message)
            await asyncio.sleep(self._seconds)

    async def poll(self) -> None:
        """Poll each process once and store the result.

        Raises:
            Unavailable: the database does not answer.
        """
        answers = await process_statuses(self._profile, self._channels)
        services = services_of(self._profile, answers)
        for service in services:
            if service.state == ServiceStatus.DOWN:
                outcomes.count_unanswered(service.name)  # callers of a process that is gone may have stopped calling
        for service in services:
            await self._history.record(service.name, service.state, service.detail)
        await self._samples.record(answer for answer in answers.values() if not isinstance(answer, Exception))
        if time.monotonic() >= self._purged_at + PURGE_SECONDS:
            await self._samples.purge()
            await self._history.purge()
            self._purged_at = time.monotonic()
