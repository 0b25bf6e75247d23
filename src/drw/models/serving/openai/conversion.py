"""Converts chat messages of the RPC contract to OpenAI's format and back."""

from __future__ import annotations

from typing import Any

import orjson

from drw.api.models.v1.serving_pb2 import ChatChunk, ChatRequest, Usage
from drw.kernel.errors import InvalidRequest
from drw.models.serving.openai.requests import ChatCompletion, parse_request
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk


def to_chat_completion(request: ChatRequest) -> ChatCompletion:
    """Return the request in OpenAI's format, validated like a request over HTTP.

    Raises:
        InvalidRequest: a value is invalid, or the JSON schema is malformed.
    """
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    fields: dict[str, Any] = {"model": request.model or "default", "messages": messages}
    for name in ("temperature", "seed"):
        if request.HasField(name):
            fields[name] = getattr(request, name)
    if request.max_tokens:
        fields["max_tokens"] = request.max_tokens
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.user:
        fields["safety_identifier"] = request.user  # a unit of experiments, which no engine gets
    if request.json_schema:
        schema = {"name": "answer", "strict": True, "schema": _parse_schema(request.json_schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return parse_request(ChatCompletion, orjson.dumps(fields))


def chunk_text(chunk: Chunk) -> str:
    """Return the text in a chunk."""
    return "".join(part.get("delta", {}).get("content") or "" for part in chunk.get("choices") or ())


def final_chunk(answer: Answer, model: str, experiment: str) -> ChatChunk:
    """Return the last message of a stream, with finish reason, usage and the arm of an experiment."""
    usage = answer.usage or {}
    counts = Usage(prompt_tokens=usage.get("prompt_tokens", 0), completion_tokens=usage.get("completion_tokens", 0))
    return ChatChunk(finish_reason=answer.finish_reason, usage=counts, model=model, experiment=experiment)


def _parse_schema(text: str) -> dict[str, Any]:
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"json_schema is not JSON: {error}", param="json_schema") from error
    if not isinstance(schema, dict):
        raise InvalidRequest("json_schema must be a JSON object", param="json_schema")
    return schema
