"""Answers one request with a chat model: its line, its limits, its engine, its record."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from drw.kernel.errors import InvalidRequest
from drw.models.serving.answers import Answer
from drw.models.serving.errors import ContextLengthExceeded
from drw.models.serving.hold import Hold
from drw.models.serving.models import ChatModel
from drw.models.serving.ports import Body, Chunk, Endpoint
from drw.models.serving.record import Record
from drw.models.serving.wire import has_token


async def generate(
    model: ChatModel, endpoint: Endpoint, body: Body, answer: Answer, record: Record, hold: Hold
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of an answer while `answer` and `record` take note of them.

    Ends only when the answer is whole; the record is the caller's to close, the hold the caller's to settle.
    Raises as `ChatEngine.stream`, `Line.turn`, `Hold.begin` and `Hold.progress` do.
    """
    record.served_by(model.id, model.engine_name, model.target.upstream_model)
    try:
        async with model.line.turn():
            await _check_prompt(model, endpoint, body)
            await hold.begin(model)
            chunks = model.engine.stream(model.target, endpoint, body)
            try:
                async for chunk in chunks:
                    await hold.progress(chunk)
                    answer.add(chunk)
                    if has_token(chunk):
                        record.token()
                    yield chunk
            finally:
                await chunks.aclose()
            answer.check_whole()
    finally:
        record.answered(answer.text, answer.usage, answer.finish_reason)


def check_length(model: ChatModel, param: str, tokens: int | None) -> None:
    """Raise where more tokens are asked for than the model has room for."""
    if tokens and model.context_length and tokens > model.context_length:
        message = f"{param} is {tokens}; prompt and answer of {model.id!r} have {model.context_length} tokens together"
        raise InvalidRequest(message, param=param, code="invalid_value")


async def _check_prompt(model: ChatModel, endpoint: Endpoint, body: Body) -> None:
    """Raise where the prompt is longer than the operator allows; the model's own limit is the engine's to check."""
    most = model.max_prompt_tokens
    if not most or _bytes(body) <= most:  # no token is shorter than a byte
        return
    counted = await model.engine.count_prompt(model.target, endpoint, body)
    if counted is not None and counted > most:
        raise ContextLengthExceeded(counted, most, "prompt" if endpoint == "completions" else "messages")


def _bytes(body: Body) -> int:
    """Return a bound on the prompt's length in bytes, with what templates put around each message."""
    texts = [body.get("prompt") or "", *(str(message) for message in body.get("messages", ()))]
    return sum(len(text.encode()) + 32 for text in texts)
