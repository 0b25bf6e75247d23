"""Usage as upstreams report it, made to count every choice and to say nothing of another tenant's prompts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from drw.models.serving.openai.chunks import has_words
from drw.models.serving.ports import Chunk

Usage = dict[str, Any]


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


def _completion(usage: Usage) -> int:
    found = usage.get("completion_tokens")
    return found if isinstance(found, int) else 0


def _of(usage: Usage, completion: int) -> Usage:
    """Return a usage with so many tokens of an answer; one that was right stays as it is."""
    if completion == _completion(usage):
        return usage
    prompt = usage.get("prompt_tokens")
    return {**usage, "completion_tokens": completion, "total_tokens": completion + (prompt if prompt else 0)}
