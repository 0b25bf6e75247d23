"""The real engine continues a truncated stream to the same text as one engine alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.cluster import StartCluster
from support.json_types import Json, JsonObject

PROMPT: Json = [{"role": "user", "content": "cut"}]
GREEDY: JsonObject = {"temperature": 0, "max_tokens": 32, "seed": 1}


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_the_real_engine_continues_a_truncated_stream(start: StartCluster, engine: Path, endpoint: str) -> None:
    async with start(small=engine, double={"fallbacks": ["small"]}) as cluster:

        async def said(model: str) -> tuple[str, ...]:
            if endpoint == "chat":
                stream = await cluster.client.chat.completions.create(
                    model=model, messages=PROMPT, stream=True, **GREEDY
                )
                pieces: list[str | None] = [c.delta.content async for chunk in stream for c in chunk.choices]
            else:
                completed = await cluster.client.completions.create(model=model, prompt="cut", stream=True, **GREEDY)
                pieces = [c.text async for chunk in completed for c in chunk.choices]
            return tuple(piece for piece in pieces if piece)

        whole = await said("small")
        assert len(whole) > 16
        cluster.double.words, cluster.double.cut_after = whole, 9
        assert "".join(await said("double")) == "".join(whole)
        attempts = cluster.records()[-1]["details"]["attempts"]
        assert [(a["model"], a["outcome"]) for a in attempts] == [("double", "cut"), ("small", "ok")]
