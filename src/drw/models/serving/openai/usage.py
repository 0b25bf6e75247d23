"""Usage as upstreams report it, made to count every choice and to say nothing of another tenant's prompts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from drw.billing.usage import UsageUpdate
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.openai.chunks import has_words
from drw.models.serving.ports import Chunk, EngineEvent

Usage = dict[str, Any]

MAX_COUNT = 1 << 31
"""A count of tokens is below this."""
PIECE, NOTHING = UsageUpdate(pieces=1, continues=True), UsageUpdate(continues=True)
"""What most chunks say: one choice goes on, with a piece or without one."""


def usage_update(chunk: Chunk) -> UsageUpdate:
    """Return what a chunk says about usage: in OpenAI's `usage`, or in llama.cpp's `timings`.

    Raises:
        ResponseTruncated: a count is no number of tokens.
    """
    choices: Sequence[dict[str, Any]] = chunk.get("choices") or ()
    usage, timings = chunk.get("usage"), chunk.get("timings")
    if len(choices) == 1:  # as nearly always
        pieces, continues = int(has_words(choices[0])), not choices[0].get("finish_reason")
        if continues and not usage and not timings:
            return PIECE if pieces else NOTHING
    else:
        pieces = sum(map(has_words, choices))
        continues = not all(choice.get("finish_reason") for choice in choices)
    if usage:
        return UsageUpdate(
            pieces,
            continues,
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
            _indices(choices),
            not choices,
            _detail(usage, "prompt_tokens_details", "cached_tokens"),
            _detail(usage, "completion_tokens_details", "reasoning_tokens"),
        )
    if timings:
        prompt = _count(timings, "prompt_n") + _count(timings, "cache_n")
        return UsageUpdate(pieces, continues, prompt, _count(timings, "predicted_n"), _indices(choices))
    return UsageUpdate(pieces, continues)


async def with_usage(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[EngineEvent, None]:
    """Yield each chunk with the usage that it reports; raises as `usage_update` does."""
    try:
        async for chunk in chunks:
            yield EngineEvent(chunk, usage_update(chunk))
    finally:
        await chunks.aclose()


async def uncached(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """Yield chunks without what their usage says of a cache: it may be of another tenant's prompt."""
    try:
        async for chunk in chunks:
            if usage := chunk.get("usage"):
                chunk["usage"] = without_cache(usage)
            yield chunk
    finally:
        await chunks.aclose()


def without_cache(usage: Usage) -> Usage:
    """Return a usage without what it says of a cache."""
    return {
        name: without_cache(value) if isinstance(value, dict) else value
        for name, value in usage.items()
        if "cache" not in name
    }


def of_all_choices(chunks: AsyncGenerator[Chunk, None], choices: int) -> AsyncGenerator[Chunk, None]:
    """Yield chunks with the usage of all choices at the end, where the upstream reports that of one.

    llama.cpp counts the first choice of a chat only, and each choice of a completion apart. No choice has fewer
    tokens than pieces.
    """
    return _of_all_choices(chunks) if choices > 1 else chunks


async def _of_all_choices(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    pieces, last = 0, Usage()
    by_choice: dict[int, int] = {}
    try:
        async for chunk in chunks:
            parts, usage = chunk.get("choices") or (), chunk.get("usage")
            pieces += sum(map(has_words, parts))
            if usage and parts:
                last = usage
                by_choice |= {part.get("index", 0): _completion(usage) for part in parts}
            elif usage:
                by_choice.clear()
                chunk["usage"] = _of(usage, max(_completion(usage), pieces))
            yield chunk
    finally:
        await chunks.aclose()
    if by_choice:
        yield {"choices": [], "usage": _of(last, max(sum(by_choice.values()), pieces))}


def _indices(choices: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    if len(choices) == 1:
        return (choices[0].get("index", 0),)
    return tuple([choice.get("index", 0) for choice in choices])


def _count(counts: Any, name: str) -> int:
    """Return a number of tokens as the engine reports it; 0: it does not.

    Raises:
        ResponseTruncated: it is no number of tokens.
    """
    count = counts.get(name) if isinstance(counts, dict) else counts
    if count is None:
        return 0
    if type(count) is not int or not 0 <= count < MAX_COUNT:
        raise ResponseTruncated(
            f"the engine sent what is no part of an answer: it says {name} is {str(count)[:40]}: try again"
        )
    return count


def _detail(usage: Usage, name: str, part: str) -> int | None:
    """Return a count out of OpenAI's details of usage, which cost nothing; None where there is none."""
    details = usage.get(name)
    count = details.get(part) if isinstance(details, dict) else None
    return count if type(count) is int and 0 <= count < MAX_COUNT else None


def _completion(usage: Usage) -> int:
    count = usage.get("completion_tokens")
    return count if isinstance(count, int) else 0


def _of(usage: Usage, completion: int) -> Usage:
    """Return a usage with so many tokens of an answer; one that was right stays as it is."""
    if completion == _completion(usage):
        return usage
    prompt = usage.get("prompt_tokens")
    return {**usage, "completion_tokens": completion, "total_tokens": completion + (prompt if prompt else 0)}
