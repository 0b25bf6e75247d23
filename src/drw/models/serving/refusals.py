"""What an upstream's error means for our caller: OpenAI's error answers turned into errors of the tree."""

from __future__ import annotations

from typing import Any

import orjson

from drw.kernel.errors import DrwError, InvalidRequest, RateLimited, TooLarge
from drw.kernel.telemetry import QUOTES
from drw.models.serving.errors import (
    ContextLengthExceeded,
    EngineMisconfigured,
    EngineStalled,
    EngineUnavailable,
)
from drw.models.serving.ports import Target

MAX_MESSAGE = 500
QUOTED = {QUOTES: "upstream"}
"""For errors whose message ends in what the upstream said: that may have words of the prompt, so no log has it."""


def refusal(target: Target, status: int, raw: bytes, retry_after: str | None = None) -> DrwError:
    """Return the error for an answer that is not 200."""
    detail = _detail(raw)
    said = str(detail.get("message") or f"status {status}")[:MAX_MESSAGE]
    after = retry_after if retry_after and retry_after.isdigit() else "1"
    if status in (401, 403):
        return EngineMisconfigured(f"the upstream of {target.model!r} refuses our key: {_remedy(target)}")
    if status == 404:
        return EngineMisconfigured(
            f"the upstream of {target.model!r} does not know {target.upstream_model!r} at {target.base_url!r}: "
            "set base_url and upstream_model as the upstream has them"
        )
    if status == 413:
        return TooLarge(said)
    if status == 429:
        return RateLimited(f"the upstream of {target.model!r} is over its limit: {said}", retry_after=after, **QUOTED)
    if status in (408, 504):
        return EngineStalled(f"the upstream of {target.model!r} did not answer in time: {said}", **QUOTED)
    if 400 <= status < 500:
        return _invalid(detail, said)
    return EngineUnavailable(f"the upstream of {target.model!r} failed: {said}", retry_after=after, **QUOTED)


def in_band(target: Target, error: Any) -> DrwError:
    """Return the error for an error event inside a stream."""
    code = error.get("code") if isinstance(error, dict) else None
    return refusal(target, code if isinstance(code, int) else 500, orjson.dumps({"error": error}))


def _invalid(detail: dict[str, Any], said: str) -> DrwError:
    param = detail.get("param")
    if "exceed_context_size_error" in (detail.get("type"), detail.get("code")):  # llama.cpp's own name for it
        return ContextLengthExceeded(int(detail["n_prompt_tokens"]), int(detail["n_ctx"]), "messages")
    known = {"param": param} if isinstance(param, str) else {}
    if isinstance(code := detail.get("code"), str):
        known["code"] = code
    return InvalidRequest(said, **known)


def _detail(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(body, list) and body:  # Vertex AI
        body = body[0]
    detail = body.get("error") if isinstance(body, dict) else None
    return detail if isinstance(detail, dict) else {"message": detail} if isinstance(detail, str) else {}


def _remedy(target: Target) -> str:
    if target.api_key_variable:
        return f"put a valid one into {target.api_key_variable}"
    return "name the variable that holds one in api_key_variable"
