"""Temporal as an engine of `bench.workflow.engines`: `python workflow_temporal.py ADDRESS`, in its own environment."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable
from datetime import timedelta

from temporalio import activity, workflow  # type: ignore[import-not-found, unused-ignore]
from temporalio.client import Client  # type: ignore[import-not-found, unused-ignore]
from temporalio.worker import UnsandboxedWorkflowRunner, Worker  # type: ignore[import-not-found, unused-ignore]
from workflow_driver import drive  # type: ignore[import-not-found, unused-ignore]

QUEUE = "bench"


@activity.defn  # type: ignore[untyped-decorator, unused-ignore]
async def step(number: int) -> dict[str, int]:
    """Do nothing."""
    return {"value": number}


@workflow.defn
class Run:
    """Executes the steps one after another."""

    @workflow.run  # type: ignore[untyped-decorator, unused-ignore]
    async def run(self, steps: int) -> None:
        """Execute the steps."""
        for number in range(steps):
            await workflow.execute_activity(step, number, start_to_close_timeout=timedelta(seconds=60))


async def main(address: str) -> None:
    """Run a worker, and serve commands."""
    client = await Client.connect(address)

    async def start_run(steps: int) -> Awaitable[object]:
        handle = await client.start_workflow(Run.run, steps, id=uuid.uuid4().hex, task_queue=QUEUE)
        return handle.result()

    runner = UnsandboxedWorkflowRunner()
    async with Worker(client, task_queue=QUEUE, workflows=[Run], activities=[step], workflow_runner=runner):
        await drive(start_run)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
