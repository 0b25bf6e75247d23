"""Follows the failed runs of orchestration, and stores each as a dead letter."""

from __future__ import annotations

import asyncio
import logging

from drw.api.workflow.v1.orchestration_pb2 import ListFailuresRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import DrwError
from drw.workflow.error_handling.letters import Letters

log = logging.getLogger(__name__)

WAIT_SECONDS = 10
TIMEOUT_SECONDS = 20.0
"""Of one request: a frozen process is asked again."""
RETRY_SECONDS = 0.5


class FailureFeed:
    """Reads failures in order, after the last stored one. Several processes may do so: storing is idempotent."""

    def __init__(self, letters: Letters, orchestration: OrchestrationClient) -> None:
        self._letters = letters
        self._orchestration = orchestration
        self.error_message = ""
        """The error of the last request, or an empty string."""

    async def follow(self) -> None:
        """Store failures until cancelled."""
        while True:
            try:
                await self._read()
                self.error_message = ""
            except DrwError as error:
                if not self.error_message:
                    log.warning("cannot read failed runs: %s", error.message)
                self.error_message = error.message
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        request = ListFailuresRequest(after=await self._letters.last_failure(), wait_seconds=WAIT_SECONDS)
        response = await self._orchestration.list_failures(request, timeout=TIMEOUT_SECONDS)
        if response.failures:
            await self._letters.put(list(response.failures))
