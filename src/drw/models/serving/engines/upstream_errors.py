"""Maps error responses of upstreams to the errors of serving."""

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
FILTER_CODES = {CONTENT_FILTER, "content_policy_violation", "ResponsibleAIPolicyViolation"}
"""Codes of content filters at OpenAI and Azure."""
CONTEXT_LENGTH_MESSAGE = re.compile(
    r"maximum context length|context length (is|of) only|exceeds? the (model's )?context", re.I
)
"""Messages of vLLM, SGLang and TGI, which have no code for it."""
LLAMA_CPP_CONTEXT_LENGTH = "exceed_context_size_error"
"""The error type of llama.cpp."""
STATUS_BY_CODE = {CONTEXT_LENGTH: 400, "rate_limit_exceeded": 429, QUOTA: 429} | dict.fromkeys(FILTER_CODES, 400)
"""The status of an error event with a code but without a status; any other is a 500."""
QUOTES_UPSTREAM = {QUOTES: "upstream"}
"""Marks errors that quote the upstream: the quote can contain text of the prompt, so it is not logged."""


def upstream_error(target: EngineTarget, status: int, raw: bytes, retry_after: str | None = None) -> DrwError:
    """Return the error for a response with a status other than 200."""
    detail = _error_object(raw)
    message = str(detail.get("message") or detail.get("msg") or f"status {status}")[:MAX_MESSAGE]
    retry_metadata = _strings(retry_after=_retry_after_seconds(retry_after))
    if _error_codes(detail) & FILTER_CODES:
        return ContentFiltered(message)
    if status in (401, 403):
        return EngineMisconfigured(f"the upstream of {target.model!r} rejects our key: {_remedy(target)}")
    if status == 404:
        fields = {"model": target.model, "upstream_model": target.upstream_model}
        log.warning("an upstream does not have its model: set base_url and upstream_model", extra={"fields": fields})
        return UpstreamModelNotFound(f"the upstream of {target.model!r} does not have the model")
    if status == 413:
        return TooLarge(message)
    if status == 402 or (status == 429 and QUOTA in _error_codes(detail)):
        return UpstreamQuotaExhausted(
            f"the quota at the upstream of {target.model!r} is exhausted: {message}", **QUOTES_UPSTREAM
        )
    if status == 429:
        return EngineLimited(
            f"the upstream of {target.model!r} is over its limit: {message}", **retry_metadata, **QUOTES_UPSTREAM
        )
    if status in (408, 504):
        return EngineStalled(f"the upstream of {target.model!r} did not answer in time: {message}", **QUOTES_UPSTREAM)
    if 400 <= status < 500:
        return _request_error(detail, message)
    return EngineUnavailable(f"the upstream of {target.model!r} failed: {message}", **retry_metadata, **QUOTES_UPSTREAM)


def stream_error(target: EngineTarget, error: Any) -> DrwError:
    """Return the error for an error event in a stream."""
    detail = error if isinstance(error, dict) else {"message": str(error)}
    code = detail.get("code")
    default_status = next((STATUS_BY_CODE[name] for name in _error_codes(detail) if name in STATUS_BY_CODE), 500)
    status = code if isinstance(code, int) and 400 <= code < 600 else default_status
    return upstream_error(target, status, orjson.dumps({"error": detail}))


def _request_error(detail: dict[str, Any], message: str) -> DrwError:
    codes, param = _error_codes(detail), detail.get("param")
    prompt_tokens, context_length = detail.get("n_prompt_tokens"), detail.get("n_ctx")
    if LLAMA_CPP_CONTEXT_LENGTH in codes and isinstance(prompt_tokens, int) and isinstance(context_length, int):
        return ContextLengthExceeded.counted(prompt_tokens, context_length, "messages")
    if codes & {CONTEXT_LENGTH, LLAMA_CPP_CONTEXT_LENGTH} or CONTEXT_LENGTH_MESSAGE.search(message):
        return ContextLengthExceeded(message, param if isinstance(param, str) else "messages")
    code = detail.get("code")
    return InvalidRequest(message, **_strings(param=param, code=code))


def _error_codes(detail: dict[str, Any]) -> set[str]:
    """Return all codes and types of an error object."""
    inner_error = detail.get("innererror")
    names = [detail.get("code"), detail.get("type"), inner_error.get("code") if isinstance(inner_error, dict) else None]
    return {name for name in names if isinstance(name, str)}


def _strings(**values: Any) -> dict[str, str]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _retry_after_seconds(retry_after: str | None) -> str | None:
    """Return `Retry-After` in whole seconds; the header is a number or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    if not seconds < MAX_RETRY_AFTER:  # also for NaN
        return str(MAX_RETRY_AFTER)
    return str(max(0, math.ceil(seconds)))


def _error_object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(body, list) and body:  # Vertex AI
        body = body[0]
    if not isinstance(body, dict):
        return {}
    detail = body.get("error")
    if detail is None:  # SGLang and older vLLM: at the top level; FastAPI: "detail"
        detail = body if isinstance(body.get("message"), str) else body.get("detail")
    if isinstance(detail, list) and detail:
        detail = detail[0]
    return detail if isinstance(detail, dict) else {"message": detail} if isinstance(detail, str) else {}


def _remedy(target: EngineTarget) -> str:
    if target.api_key_variable:
        return f"set {target.api_key_variable} to a valid key"
    return "set api_key_variable to the environment variable with the key"
