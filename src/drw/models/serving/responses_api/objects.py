"""Objects of the Responses API: responses, output items, usage."""

from __future__ import annotations

import secrets
from typing import Any

from drw.kernel.errors import DrwError, RateLimited
from drw.models.serving.openai.chunks import is_filtered
from drw.models.serving.openai.responses import Answer
from drw.models.serving.responses_api.requests import CreateResponse

Item = dict[str, Any]
Response = dict[str, Any]

COMPLETED, INCOMPLETE, FAILED, IN_PROGRESS, CANCELLED = "completed", "incomplete", "failed", "in_progress", "cancelled"
ECHOED = (
    *("instructions", "max_output_tokens", "max_tool_calls", "model", "previous_response_id", "prompt_cache_key"),
    *("safety_identifier", "temperature", "top_p", "user"),
)
"""Parameters that the response repeats."""
ITEM_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "file_search_call": "fs",
}


def new_id(prefix: str) -> str:
    """Return the id of a new object."""
    return f"{prefix}_{secrets.token_hex(24)}"


def input_items(request: CreateResponse) -> list[Item]:
    """Return the input of a request as items with ids; texts of messages become content parts."""
    if isinstance(request.input, str):
        parts = [{"type": "input_text", "text": request.input}]
        return [{"type": "message", "role": "user", "content": parts, "id": new_id("msg"), "status": COMPLETED}]
    items = [item.model_dump(exclude_none=True) for item in request.input]
    return [_with_id(item) for item in items]


def _with_id(item: Item) -> Item:
    if item["type"] == "message" and isinstance(item["content"], str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return {**item, "id": item.get("id") or new_id(ITEM_PREFIXES[item["type"]])}


def new_response(request: CreateResponse, id_: str, created_at: int, *, store: bool) -> Response:
    """Return a response in progress without output."""
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    choice = request.tool_choice or "auto"
    response: Response = {
        "id": id_,
        "object": "response",
        "created_at": created_at,
        "status": IN_PROGRESS,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "tools": [{"strict": None, "parameters": None, **t} if t["type"] == "function" else t for t in tools],
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(exclude_none=True),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": {"effort": request.reasoning and request.reasoning.effort, "summary": None},
        "text": _text_config(request),
        "top_logprobs": request.top_logprobs or 0,
        "truncation": "disabled",
        "service_tier": "default",
        "metadata": request.metadata or {},
        "store": store,
        "usage": None,
    }
    return response | {name: getattr(request, name) for name in ECHOED}


def _text_config(request: CreateResponse) -> dict[str, Any]:
    config = request.text.model_dump(exclude_none=True, by_alias=True) if request.text else {}
    return {"format": {"type": "text"}, **config}


def outcome(answer: Answer) -> tuple[str, dict[str, str] | None]:
    """Return the status of a complete answer, and the details of an incomplete one."""
    reason = answer.finish_reason
    if is_filtered(reason):
        return INCOMPLETE, {"reason": "content_filter"}
    if reason.lower() in ("length", "max_tokens", "model_length"):
        return INCOMPLETE, {"reason": "max_output_tokens"}
    return COMPLETED, None


def usage(answer: Answer) -> dict[str, Any]:
    """Return the usage of an answer."""
    reported = answer.usage or {}
    prompt, completion = reported.get("prompt_tokens") or 0, reported.get("completion_tokens") or 0
    cached = _detail(reported, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(reported, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def _detail(reported: dict[str, Any], name: str, part: str) -> int:
    details = reported.get(name)
    count = details.get(part) if isinstance(details, dict) else None
    return count if isinstance(count, int) else 0


def failed(response: Response, error: DrwError) -> Response:
    """Return a response that failed."""
    code = "rate_limit_exceeded" if isinstance(error, RateLimited) else "server_error"
    return response | {"status": FAILED, "error": {"code": code, "message": error.message}, "output": []}
