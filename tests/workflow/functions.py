"""Functions that the tests register for `python` nodes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from drw.workflow.orchestration.activities import StepContext


def double(arguments: Mapping[str, Any], step: StepContext) -> dict[str, Any]:
    """Return twice the number."""
    return {"value": 2 * arguments["value"], "key": step.idempotency_key}


async def fail(arguments: Mapping[str, Any], step: StepContext) -> None:
    """Raise an error whose message must not be shown."""
    raise ValueError("secret")


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
