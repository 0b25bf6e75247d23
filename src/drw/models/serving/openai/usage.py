"""Usage of OpenAI-compatible upstreams: conversion to `UsageUpdate`, correction, and removal of cache counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from drw.billing.usage import UsageUpdate
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.openai.chunks import has_output
from drw.models.serving.ports import Chunk, EngineEvent

Usage = dict[str, Any]

MAX_COUNT = 1 << 31
"""Token counts must be below this."""
ONE_PIECE, NO_PIECE = UsageUpdate(deltas=1, continues=True), UsageUpdate(continues=True)
"""The usage of most chunks: one choice continues, with or without output."""


def usage_update(chunk: Chunk) -> UsageUpdate:
    """Return the usage in a chunk: OpenAI's `usage`, or llama.cpp's `timings`.

    Raises:
        ResponseTruncated: a token count is invalid.
    """
    choices: Sequence[dict[str, Any]] = chunk.get("choices") or ()
    usage, timings = chunk.get("usage"), chunk.get("timings")
    if len(choices) == 1:  # the usual case
        pieces, continues = int(has_output(choices[0])), not choices[0].get("finish_reason")
        if continues and not usage and not timings:
            return ONE_PIECE if pieces else NO_PIECE
    else:
        pieces = sum(map(has_output, choices))
        continues = not all(choice.get("finish_reason") for choice in choices)
    if usage:
        return UsageUpdate(
            pieces,
            continues,
            _token_count(usage, "prompt_tokens"),
            _token_count(usage, "completion_tokens"),
            _indices(choices),
            not choices,
            _detail_count(usage, "prompt_tokens_details", "cached_tokens"),
            _detail_count(usage, "completion_tokens_details", "reasoning_tokens"),
        )
    if timings:
        prompt = _token_count(timings, "prompt_n") + _token_count(timings, "cache_n")
        return UsageUpdate(pieces, continues, prompt, _token_count(timings, "predicted_n"), _indices(choices))
    return UsageUpdate(pieces, continues)


async def with_usage(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[EngineEvent, None]:
    """Yield each chunk with the usage that it reports; raises as `usage_update` does."""
    try:
        async for chunk in chunks:
            yield chunk, usage_update(chunk)
    finally:
        await chunks.aclose()


def without_cache_counts(usage: Usage) -> Usage:
    """Return usage without counts of cached tokens."""
    return {
        name: without_cache_counts(value) if isinstance(value, dict) else value
        for name, value in usage.items()
        if "cache" not in name
    }


def sum_choices(events: AsyncGenerator[EngineEvent, None], choices: int) -> AsyncGenerator[EngineEvent, None]:
    """Yield events with the usage of all choices at the end, even if the upstream reports the usage of one.

    llama.cpp counts only the first choice of a chat, and each choice of a completion separately. A choice has at least
    one token per chunk with output.
    """
    return _sum_choices(events) if choices > 1 else events


async def _sum_choices(events: AsyncGenerator[EngineEvent, None]) -> AsyncGenerator[EngineEvent, None]:
    pieces, last_usage = 0, Usage()
    by_choice: dict[int, int] = {}
    try:
        async for chunk, update in events:
            parts, usage = chunk.get("choices") or (), chunk.get("usage")
            pieces += sum(map(has_output, parts))
            if usage and parts:
                last_usage = usage
                by_choice |= {part.get("index", 0): _completion_tokens(usage) for part in parts}
            elif usage:
                by_choice.clear()
                chunk["usage"] = _with_completion_tokens(usage, max(_completion_tokens(usage), pieces))
                update = usage_update(chunk)
            yield chunk, update
    finally:
        await events.aclose()
    if by_choice:
        total = _with_completion_tokens(last_usage, max(sum(by_choice.values()), pieces))
        last: Chunk = {"choices": [], "usage": total}
        yield last, usage_update(last)


def _indices(choices: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    if len(choices) == 1:
        return (choices[0].get("index", 0),)
    return tuple([choice.get("index", 0) for choice in choices])


def _token_count(counts: Any, name: str) -> int:
    """Return a token count that the engine reports; 0 if it is absent.

    Raises:
        ResponseTruncated: the count is invalid.
    """
    count = counts.get(name) if isinstance(counts, dict) else counts
    if count is None:
        return 0
    if type(count) is not int or not 0 <= count < MAX_COUNT:
        raise ResponseTruncated(f"the engine sent a malformed response: {name} is {str(count)[:40]}: try again")
    return count


def _detail_count(usage: Usage, name: str, part: str) -> int | None:
    """Return a count of OpenAI's usage details, which are not charged; None if absent or invalid."""
    details = usage.get(name)
    count = details.get(part) if isinstance(details, dict) else None
    return count if type(count) is int and 0 <= count < MAX_COUNT else None


def _completion_tokens(usage: Usage) -> int:
    count = usage.get("completion_tokens")
    return count if isinstance(count, int) else 0


def _with_completion_tokens(usage: Usage, completion: int) -> Usage:
    """Return usage with this number of completion tokens; unchanged if it is correct already."""
    if completion == _completion_tokens(usage):
        return usage
    prompt = usage.get("prompt_tokens")
    return {**usage, "completion_tokens": completion, "total_tokens": completion + (prompt if prompt else 0)}
