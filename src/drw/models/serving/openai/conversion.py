"""The contract's chat, for other services, in the words of OpenAI's API that engines speak."""

from __future__ import annotations

from typing import Any

import orjson

from drw.api.models.v1.serving_pb2 import ChatChunk, ChatMessage, ChatRequest, Usage
from drw.kernel.errors import InvalidRequest
from drw.models.serving.openai.requests import ChatCompletion, read
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk


def completion(request: ChatRequest) -> ChatCompletion:
    """Return the request as OpenAI's API has it, held to the same bounds as one from outside.

    Raises:
        InvalidRequest: it is out of bounds, or its JSON schema is not one.
    """
    fields: dict[str, Any] = {"model": request.model or "default", "messages": [_message(m) for m in request.messages]}
    for name in ("temperature", "seed"):
        if request.HasField(name):
            fields[name] = getattr(request, name)
    if request.max_tokens:
        fields["max_tokens"] = request.max_tokens
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.json_schema:
        schema = {"name": "answer", "strict": True, "schema": _schema(request.json_schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return read(ChatCompletion, orjson.dumps(fields))


def text(chunk: Chunk) -> str:
    """Return the text in a chunk."""
    return "".join(part.get("delta", {}).get("content") or "" for part in chunk.get("choices") or ())


def last(answer: Answer, model: str) -> ChatChunk:
    """Return the piece that ends an answer."""
    usage = answer.usage or {}
    counted = Usage(prompt_tokens=usage.get("prompt_tokens", 0), completion_tokens=usage.get("completion_tokens", 0))
    return ChatChunk(finish_reason=answer.finish_reason, usage=counted, model=model)


def _message(message: ChatMessage) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"json_schema is not JSON: {error}", param="json_schema") from error
    if not isinstance(schema, dict):
        raise InvalidRequest("json_schema must be a JSON object", param="json_schema")
    return schema
