"""What an upstream's error means for our caller: OpenAI's error answers turned into errors of the tree."""

from __future__ import annotations

import logging
import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from drw.kernel.errors import DrwError, InvalidRequest, TooLarge
from drw.kernel.observability.telemetry import QUOTES
from drw.models.serving.errors import (
    CONTENT_FILTER,
    CONTEXT_LENGTH,
    QUOTA,
    ContentFiltered,
    ContextLengthExceeded,
    EngineLimited,
    EngineMisconfigured,
    EngineStalled,
    EngineUnavailable,
    UpstreamModelNotFound,
    UpstreamQuotaExhausted,
)
from drw.models.serving.ports import EngineTarget

log = logging.getLogger(__name__)

MAX_MESSAGE = 500
MAX_RETRY_AFTER = 3600
FILTERED = {CONTENT_FILTER, "content_policy_violation", "ResponsibleAIPolicyViolation"}
"""What OpenAI and Azure call it."""
TOO_LONG = re.compile(r"maximum context length|context length (is|of) only|exceeds? the (model's )?context", re.I)
"""How vLLM, SGLang and TGI word it, which have no code for it."""
OVERFLOW = "exceed_context_size_error"
"""llama.cpp's own name for it."""
STATUS = {CONTEXT_LENGTH: 400, "rate_limit_exceeded": 429, QUOTA: 429} | dict.fromkeys(FILTERED, 400)
"""What an error inside a stream means that has a code and no status; any other is the engine's fault."""
QUOTED = {QUOTES: "upstream"}
"""For errors whose message ends in what the upstream said: that may have words of the prompt, so no log has it."""


def refusal(target: EngineTarget, status: int, raw: bytes, retry_after: str | None = None) -> DrwError:
    """Return the error for an answer that is not 200."""
    detail = _detail(raw)
    message = str(detail.get("message") or detail.get("msg") or f"status {status}")[:MAX_MESSAGE]
    after = _known(retry_after=_seconds(retry_after))
    if _codes(detail) & FILTERED:
        return ContentFiltered(message)
    if status in (401, 403):
        return EngineMisconfigured(f"the upstream of {target.model!r} refuses our key: {_remedy(target)}")
    if status == 404:
        fields = {"model": target.model, "upstream_model": target.upstream_model}
        log.warning("an upstream does not have its model: set base_url and upstream_model", extra={"fields": fields})
        return UpstreamModelNotFound(f"the upstream of {target.model!r} does not have the model")
    if status == 413:
        return TooLarge(message)
    if status == 402 or (status == 429 and QUOTA in _codes(detail)):
        return UpstreamQuotaExhausted(f"what the upstream of {target.model!r} is paid is used up: {message}", **QUOTED)
    if status == 429:
        return EngineLimited(f"the upstream of {target.model!r} is over its limit: {message}", **after, **QUOTED)
    if status in (408, 504):
        return EngineStalled(f"the upstream of {target.model!r} did not answer in time: {message}", **QUOTED)
    if 400 <= status < 500:
        return _invalid(detail, message)
    return EngineUnavailable(f"the upstream of {target.model!r} failed: {message}", **after, **QUOTED)


def in_band(target: EngineTarget, error: Any) -> DrwError:
    """Return the error for an error event inside a stream."""
    detail = error if isinstance(error, dict) else {"message": str(error)}
    code = detail.get("code")
    known = next((STATUS[name] for name in _codes(detail) if name in STATUS), 500)
    status = code if isinstance(code, int) and 400 <= code < 600 else known
    return refusal(target, status, orjson.dumps({"error": detail}))


def _invalid(detail: dict[str, Any], message: str) -> DrwError:
    codes, param = _codes(detail), detail.get("param")
    counted, context_length = detail.get("n_prompt_tokens"), detail.get("n_ctx")
    if OVERFLOW in codes and isinstance(counted, int) and isinstance(context_length, int):
        return ContextLengthExceeded.counted(counted, context_length, "messages")
    if codes & {CONTEXT_LENGTH, OVERFLOW} or TOO_LONG.search(message):
        return ContextLengthExceeded(message, param if isinstance(param, str) else "messages")
    code = detail.get("code")
    return InvalidRequest(message, **_known(param=param, code=code))


def _codes(detail: dict[str, Any]) -> set[str]:
    """Return every name that an error gives itself."""
    inner = detail.get("innererror")
    names = [detail.get("code"), detail.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    return {name for name in names if isinstance(name, str)}


def _known(**values: Any) -> dict[str, str]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _seconds(retry_after: str | None) -> str | None:
    """Return a `Retry-After` in whole seconds, which may be given as a number or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    if not seconds < MAX_RETRY_AFTER:  # also no number at all
        return str(MAX_RETRY_AFTER)
    return str(max(0, math.ceil(seconds)))


def _detail(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(body, list) and body:  # Vertex AI
        body = body[0]
    if not isinstance(body, dict):
        return {}
    detail = body.get("error")
    if detail is None:  # SGLang and older vLLM put it at the top, FastAPI calls it so
        detail = body if isinstance(body.get("message"), str) else body.get("detail")
    if isinstance(detail, list) and detail:
        detail = detail[0]
    return detail if isinstance(detail, dict) else {"message": detail} if isinstance(detail, str) else {}


def _remedy(target: EngineTarget) -> str:
    if target.api_key_variable:
        return f"put a valid one into {target.api_key_variable}"
    return "name the variable that holds one in api_key_variable"
