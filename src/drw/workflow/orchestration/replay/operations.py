"""Operations of API callers on recorded runs: replay."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from drw.api.workflow.v1.orchestration_pb2 import Replay as ReplayMessage
from drw.kernel.errors import RateLimited
from drw.kernel.rpc import context
from drw.workflow.orchestration.replay.recorded import RecordedRun
from drw.workflow.orchestration.replay.replayer import replay
from drw.workflow.orchestration.runs import Runs

WAIT_SECONDS = 5.0


class ReplayOperations:
    """Replays runs of the caller's desk, one at a time in each process."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._turn = asyncio.Semaphore(1)

    async def replay(self, run: str) -> ReplayMessage:
        """Replay a run.

        Raises:
            NotFound: the desk has no such run.
            PayloadDamaged: a large value cannot be read.
            RateLimited: this process replays other runs.
            DeadlineExceeded: the replay takes too long.
        """
        row, steps = await self._runs.get(context.caller(), run)
        recorded = RecordedRun.of(
            await self._with_payloads(row, "inputs", "output"),
            [await self._with_payloads(step, "decision", "output") for step in steps],
        )
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise RateLimited("other runs are being replayed: try again", retry_after="5") from None
        try:
            result = await asyncio.to_thread(replay, recorded)
        finally:
            self._turn.release()
        return ReplayMessage(
            run=result.run,
            template=recorded.template.name,
            template_version=recorded.template.version,
            steps=result.steps,
            step=result.step,
            divergence=result.divergence,
        )

    async def _with_payloads(self, row: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """Return a row with its large values."""
        payloads, caller = self._runs.payloads, context.caller()
        return {**row} | {name: await payloads.load(caller, row[name], row[f"{name}_payload"]) for name in names}
