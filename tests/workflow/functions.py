"""Functions that the tests register for `python` nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drw.workflow.orchestration.activities import StepContext


def double(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Return twice the number."""
    return {"value": 2 * arguments["value"], "key": step.idempotency_key}


async def fail(arguments: Mapping[str, Any], step: StepContext) -> None:
    """Raise an error whose message must not be shown."""
    raise ValueError("secret")


async def record(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Append the idempotency key to a file, as an effect, and return when no file holds it back."""
    path = Path(arguments["folder"]) / arguments["name"]
    with path.with_suffix(".log").open("a") as out:
        out.write(f"{step.idempotency_key}\n")
    while path.with_suffix(".gate").exists():
        await asyncio.sleep(0.02)
    return {}


async def nothing(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Return the arguments."""
    return dict(arguments)
