"""Functions that the tests register for `python` nodes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from drw.workflow.orchestration.activities import StepContext


def double(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Return twice the number."""
    return {"value": 2 * arguments["value"], "key": step.idempotency_key}


async def fail(arguments: Mapping[str, Any], step: StepContext) -> None:
    """Raise an error whose message must not be shown."""
    raise ValueError("secret")


def text(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Return a text of the given size, and a number larger than a double can represent."""
    return {"text": str(arguments.get("letter", "x")) * arguments["size"], "number": 2**53 + 1}


def length(arguments: Mapping[str, Any], step: StepContext) -> int:
    """Return the number of characters."""
    return len(arguments["text"])


def leak(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Return the arguments, in several encodings."""
    token = str(arguments["token"])
    basic = base64.b64encode(f"user:{token}".encode()).decode()
    return {
        "plain": token,
        "basic": basic,
        "url": quote(token, safe=""),
        "nested": [{token: 1}],
        "hex": token.encode().hex(),
    }


def crash(arguments: Mapping[str, Any], step: StepContext) -> None:
    """Raise an unexpected error with the arguments."""
    raise RuntimeError(f"cannot log in with {arguments}")


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
