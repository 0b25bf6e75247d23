"""Bare DBOS as an engine of `bench.workflow.engines`: `python -m bench.support.workflow_dbos DSN`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

from bench.support.workflow_driver import drive


@DBOS.step()
async def step(number: int) -> dict[str, int]:
    """Do nothing."""
    return {"value": number}


@DBOS.workflow()
async def run(steps: int) -> None:
    """Execute the steps one after another."""
    for number in range(steps):
        await step(number)


async def start_run(steps: int) -> Awaitable[object]:
    """Start a run; return what waits for its end."""
    handle = await DBOS.start_workflow_async(run, steps)
    return handle.get_result()


async def main(dsn: str) -> None:
    """Serve commands."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": dsn,
        "serializer": DBOSPortableJSONSerializer(),
        "log_level": "CRITICAL",
    }
    DBOS(config=config)
    DBOS.launch()
    logging.disable(logging.CRITICAL)
    await drive(start_run)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
